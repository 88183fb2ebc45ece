"""A scene in the making: its clock, its random numbers, its times, and who is on the road so far."""

import numpy as np

from crashchat.synthetic.scenes import COLOURS, FPS, ROAD_USERS, Actor


class Draft:
    """What the families share: the clock, the random numbers, the story's three times,
    the ego-car's speed.
    """

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.duration = round(rng.uniform(4.0, 10.0), 1)
        self.t = np.arange(round(self.duration * FPS)) / FPS
        # The contact is anywhere in the clip, so that the time cannot be guessed.
        self.start = round(rng.uniform(1.5, self.duration - 1.2), 1)
        self.end = round(self.start + rng.uniform(0.8, min(2.5, self.duration - 0.3 - self.start)), 1)
        self.cue = round(self.start - rng.uniform(0.5, min(2.0, self.start - 0.3)), 1)
        self.cruise = rng.uniform(5.0, 8.5)
        self.actors: list[Actor] = []
        self.used: dict[str, set[str]] = {kind: set() for kind in ROAD_USERS}
        self.drive((0, self.cruise))

    def drive(self, *keys: tuple[float, float]) -> None:
        """Set the ego-car's speed to straight lines between (seconds, m/s)."""
        self.speed = np.interp(self.t, [k[0] for k in keys], [k[1] for k in keys])
        steps = (self.speed[1:] + self.speed[:-1]) / 2 / FPS
        self.distance = np.concatenate([[0.0], np.cumsum(steps)])

    def ramp(self, begin: float, finish: float, low: float, high: float, power: float = 1.0) -> np.ndarray:
        """float[T]: low until `begin`, high from `finish` on."""
        part = np.clip((self.t - begin) / max(finish - begin, 1e-6), 0, 1)
        return low + (high - low) * part**power

    def since(self, seconds: float, values: np.ndarray, before: np.ndarray) -> np.ndarray:
        """`before` until so many seconds, `values` from then on. float[T]."""
        return np.where(self.t >= seconds - 1e-6, values, before)

    def frame(self, seconds: float) -> int:
        """The number of the frame at a time."""
        return min(round(seconds * FPS), len(self.t) - 1)

    def add(self, kind: str, x, z, tilt=0.0, braking=False, heading: int = 0, walking=True) -> int:
        """Add a road user in a colour no other of its kind has; returns its index."""
        free = [colour for colour in COLOURS if colour not in self.used[kind]]
        colour = str(self.rng.choice(free))
        self.used[kind].add(colour)

        def each_frame(value, dtype: type) -> np.ndarray:
            return np.broadcast_to(np.asarray(value, dtype), self.t.shape).copy()

        self.actors.append(
            Actor(
                kind,
                colour,
                x=each_frame(x, float),
                z=each_frame(z, float),
                tilt=each_frame(tilt, float),
                braking=each_frame(braking, bool),
                heading=heading,
                walking=each_frame(walking, bool),
            )
        )
        return len(self.actors) - 1

    def sign(self) -> int:
        """-1 or 1: to the left or to the right."""
        return int(self.rng.choice([-1, 1]))

    def lie_tilt(self, kind: str, sign: int) -> np.ndarray:
        """Tilt of a road user that is hit: two wheels and legs fall over, four wheels end askew."""
        if kind in ("car", "truck"):
            return self.ramp(self.start, self.end, low=0, high=sign * self.rng.uniform(10, 16), power=0.5)
        return self.ramp(self.start, min(self.start + 0.5, self.end), 0, sign * 82)

    def calm_ego(self) -> None:
        """The ego-car of a scene without contact: goes on, slows for a while, or stops."""
        choice = self.rng.choice(["keep", "slow", "stop"], p=[0.3, 0.3, 0.4])
        if choice == "slow":
            self.drive((self.cue, self.cruise), (self.start, self.cruise / 2), (self.end + 1, self.cruise))
        elif choice == "stop":
            self.drive((self.start - 0.3, self.cruise), (self.end, 0))

    def stop_ego(self, share: float) -> None:
        """The ego-car brakes late, has `share` of its speed at the contact, and rests at the end."""
        begin = self.start - min(0.4, self.start - self.cue)
        self.drive((begin, self.cruise), (self.start, self.cruise * share), (self.end, 0))
