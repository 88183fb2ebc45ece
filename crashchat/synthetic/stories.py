"""The stories of made-up scenes: a crash and its near miss come from one function,
which takes `crash` as a switch.
"""

from collections.abc import Sequence

import numpy as np

from crashchat.synthetic.draft import Draft
from crashchat.synthetic.scenes import (
    CONTACT_Z,
    CROSSING_GAP,
    LANES,
    LENGTH,
    ROAD_EDGE,
    ROAD_USERS,
    STORIES,
    USUAL,
    WIDTH,
    Contact,
    Look,
    Scene,
)


def _ahead(draft: Draft, crash: bool, other: str) -> dict:
    """The vehicle ahead in the ego lane brakes hard: rear-end collision, or the gap is just enough."""
    rng, lead = draft.rng, draft.start - draft.cue
    gap = CONTACT_Z + max(3.0, min(8.0, lead * draft.cruise * rng.uniform(0.6, 0.9)))
    tilt: np.ndarray | float = 0.0
    if crash:
        draft.stop_ego(0.7)
        z = draft.ramp(draft.cue, draft.start, low=gap, high=CONTACT_Z, power=1.4)
        z = draft.since(draft.start, draft.ramp(draft.start, draft.end, CONTACT_Z, CONTACT_Z + 0.5), z)
        lights, tilt = draft.t >= draft.cue - 1e-6, draft.lie_tilt(other, draft.sign())
    else:
        gap = max(gap, CONTACT_Z + 5.0)
        near = CONTACT_Z + rng.uniform(2.5, 3.5)
        z = draft.ramp(draft.cue, draft.start, low=gap, high=near, power=0.8)
        lights = draft.t >= draft.cue - 1e-6
        if rng.random() < 0.5:
            draft.drive((draft.cue + 0.2, draft.cruise), (draft.end, 0))
        else:  # it goes on in time
            draft.drive(
                (draft.cue + 0.2, draft.cruise),
                (draft.start, draft.cruise * 0.5),
                (draft.end + 1, draft.cruise),
            )
            z = draft.since(draft.start, draft.ramp(draft.start, draft.end + 1, near, gap), z)
            lights &= draft.t < draft.start - 1e-6
    actor = draft.add(other, rng.uniform(-0.3, 0.3), z=z, tilt=tilt, braking=lights)
    return {"action": "brakes", "actor": actor, "hit": [actor], "cause": f"ahead {other}"}


def _crossing(draft: Draft, crash: bool, other: str) -> dict:
    """Someone crosses from the roadside: hit, or stops at the edge, or passes clear, or the ego-car waits."""
    rng, side, half = draft.rng, draft.sign(), LENGTH[other] / 2
    waiting = side * (ROAD_EDGE + 0.5 + half)
    lead = draft.start - draft.cue
    moving = draft.t >= draft.cue - 1e-6
    tilt: np.ndarray | float = 0.0
    if crash:
        draft.stop_ego(0.7)
        middle = side * rng.uniform(-0.5, 0.7)
        x = draft.ramp(draft.cue, draft.start, waiting, middle)
        x = draft.since(
            draft.start,
            draft.ramp(draft.start, draft.end, low=middle, high=middle - side * 0.8, power=0.6),
            x,
        )
        z = draft.distance[draft.frame(draft.start)] + CONTACT_Z - draft.distance
        z = draft.since(
            draft.start, draft.ramp(draft.start, draft.end, low=CONTACT_Z, high=CONTACT_Z + 1.2, power=0.6), z
        )
        tilt = draft.lie_tilt(other, -side)
        moving &= draft.t < draft.start - 1e-6
    else:
        choice = rng.choice(["stops", "clear", "ego waits"])
        if choice == "stops":
            draft.calm_ego()
            x = draft.ramp(
                draft.cue, draft.start, low=waiting, high=side * (ROAD_EDGE - 1.2 + half), power=0.7
            )
            moving &= draft.t < draft.start - 1e-6
            place = draft.distance[draft.frame(draft.start)] + CONTACT_Z + rng.uniform(1, 4)
        else:
            pace = (abs(waiting)) / lead
            x = waiting - side * pace * np.clip(draft.t - draft.cue, 0, None)
            if choice == "ego waits":
                draft.drive(
                    (draft.cue, draft.cruise),
                    (draft.start + 0.2, 0),
                    (draft.end + 0.4, 0),
                    (draft.end + 2.0, draft.cruise * rng.integers(0, 2)),
                )
            elif rng.random() < 0.5:
                draft.drive(
                    (draft.cue, draft.cruise), (draft.start, draft.cruise / 2), (draft.end + 1, draft.cruise)
                )
            # The nearest place where it is out of the ego-car's way before the ego-car comes.
            blocked = (np.abs(x) < half + 1.4) & moving
            reach = draft.distance[blocked].max(initial=0.0)
            place = reach + CONTACT_Z + CROSSING_GAP + rng.uniform(0.5, 2.0)
        z = place - draft.distance
    actor = draft.add(other, x, z=z, tilt=tilt, braking=False, heading=-side, walking=moving)
    cause = {"car": "crossing vehicle", "truck": "crossing vehicle", "pedestrian": "crossing pedestrian"}
    return {"action": "crosses", "actor": actor, "hit": [actor], "cause": cause.get(other, "crossing rider")}


def _others(draft: Draft, crash: bool, kinds: tuple[str, str]) -> dict:
    """Two others ahead: one drifts into the next lane's user, or runs into the one that brakes before it."""
    rng, (first, second) = draft.rng, kinds
    z = rng.uniform(8.5, 11.0)
    draft.stop_ego(0.8) if crash else draft.calm_ego()
    keep = np.minimum(draft.distance, 0)  # zeros: both keep the ego-car's speed until the crash
    if rng.random() < 0.3:  # rear-end, in a side lane so that both are seen
        side = draft.sign()
        far = z + rng.uniform(4.5, 6.0)
        if crash:
            z_second = draft.ramp(draft.cue, draft.start, low=far, high=z + 1.3, power=1.3) + keep
            lights = draft.t >= draft.cue - 1e-6
        else:
            z_second = draft.ramp(draft.cue, draft.start, far, z + 3.8) + keep
            z_second = draft.since(
                draft.start, draft.ramp(draft.start, draft.end + 0.5, z + 3.8, far), z_second
            )
            lights = (draft.t >= draft.cue - 1e-6) & (draft.t < draft.end - 1e-6)
        tilts = (draft.lie_tilt(first, side), draft.lie_tilt(second, -side)) if crash else (0, 0)
        a = draft.add(first, side * 3.7, z, tilts[0])
        b = draft.add(second, side * 3.0, z=z_second, tilt=tilts[1], braking=lights)
        return {"action": "brakes", "actor": b, "hit": [a, b], "cause": "others behind"}
    x_first, x_second = [(-3.5, 0.0), (3.5, 0.0), (0.0, -3.5), (0.0, 3.5)][rng.integers(4)]
    way = np.sign(x_second - x_first)
    touch = x_second - way * (WIDTH[first] + WIDTH[second]) / 2 * 0.95
    if crash:
        x = draft.ramp(draft.cue, draft.start, low=x_first, high=touch, power=0.8)
        push = draft.ramp(draft.start, draft.end, low=0, high=way * 0.7, power=0.6)
        a = draft.add(first, x + push, z, draft.lie_tilt(first, -int(way)))
        b = draft.add(second, x_second + push, z + 0.5, draft.lie_tilt(second, int(way)))
    elif rng.random() < 0.5:  # drifts and returns
        turn = x_first + (touch - x_first) * 0.55
        x = draft.ramp(draft.cue, draft.start, x_first, turn)
        x = draft.since(draft.start, draft.ramp(draft.start, draft.end, turn, x_first), x)
        a, b = draft.add(first, x, z), draft.add(second, x_second, z + 0.5)
    else:  # changes lane well ahead of the other
        a = draft.add(first, draft.ramp(draft.cue, draft.end, x_first, x_second), z + rng.uniform(5.0, 7.0))
        b = draft.add(second, x_second + way * 0.6, z - 1.0)
    return {"action": "changes lane", "actor": a, "hit": [a, b], "cause": "others lane"}


def _control(draft: Draft, crash: bool, kind: str) -> dict:
    """A vehicle ahead zigzags and leaves the road, or is caught again by its driver."""
    rng, side = draft.rng, draft.sign()
    z: np.ndarray | float = rng.uniform(8.0, 11.0)
    lane = rng.choice([0.0, side * 3.5])
    part = np.clip((draft.t - draft.cue) / (draft.start - draft.cue), 0, 1)
    swings = 1 if draft.start - draft.cue < 1.0 else 2
    wave = -side * np.sin(2 * np.pi * swings * part)
    if crash:
        draft.stop_ego(0.8)
        x = lane + (side * (ROAD_EDGE - 0.2) - lane) * part**2 + 1.3 * wave * np.sqrt(part)
        x += draft.ramp(draft.start, draft.end, low=0, high=side * 2.6, power=0.6)
        tilt = 8 * wave + draft.ramp(draft.start, draft.end, low=0, high=side * 30, power=0.5)
        z = z - draft.ramp(draft.start, draft.end, 0, 1.0)
    else:
        draft.calm_ego()
        x, tilt = lane + 1.3 * wave * np.sqrt(part) * (1 - part * 0.6), 5 * wave * (1 - part)
    actor = draft.add(kind, x, z, tilt)
    return {"action": "swerves", "actor": actor, "hit": [actor], "cause": f"control {kind}"}


def _fall(draft: Draft, crash: bool, kind: str) -> dict:
    """A motorbike wobbles and falls, or is caught again."""
    rng, side = draft.rng, draft.sign()
    z: np.ndarray | float = rng.uniform(6.5, 9.0)
    lane = rng.choice(list(LANES.values()), p=[0.3, 0.4, 0.3])
    part = np.clip((draft.t - draft.cue) / (draft.start - draft.cue), 0, 1)
    swings = 1 if draft.start - draft.cue < 1.0 else 2
    wave = side * np.sin(2 * np.pi * swings * part)
    if crash:
        draft.stop_ego(0.8)
        tilt = 24 * wave + draft.ramp(draft.start, min(draft.start + 0.4, draft.end), 0, side * 84)
        x = lane + 0.4 * wave + draft.ramp(draft.start, draft.end, low=0, high=side * 1.6, power=0.7)
        z = z - draft.ramp(draft.start, draft.end, 0, 0.8)
    else:
        draft.calm_ego()
        tilt, x = 24 * wave * (1 - part * 0.6), lane + 0.4 * wave
    actor = draft.add(kind, x, z, tilt)
    return {"action": "wobbles", "actor": actor, "hit": [actor], "cause": "fall"}


def _add_bystanders(draft: Draft, family: str) -> None:
    """Others who only pass by: in lanes where nothing of the story happens, and on the roadside."""
    rng = draft.rng
    crowded = {lane for lane, x in LANES.items() if any(np.abs(a.x - x).min() < 2.9 for a in draft.actors)}
    free = [] if family == "crossing" else [lane for lane in LANES if lane not in crowded]
    count = int(rng.integers(2, 4) if family == "plain" else rng.integers(0, 3))
    for _ in range(count):
        if free and rng.random() < 0.6:
            lane = free.pop(int(rng.integers(len(free))))
            pace = rng.uniform(0.0, 0.6) if lane == "middle" else rng.uniform(-0.6, 0.6)
            z = rng.uniform(9.0, 16.0) + draft.t * (draft.cruise + pace) - draft.distance
            draft.add(str(rng.choice(ROAD_USERS[:4])), LANES[lane] + rng.uniform(-0.3, 0.3), z)
        else:
            kind = "pedestrian" if rng.random() < 0.6 else str(rng.choice(ROAD_USERS[:4]))
            side = draft.sign()
            place = rng.uniform(12.0, 14.0 + draft.distance[-1])
            x = side * (ROAD_EDGE + 0.9 + WIDTH[kind] / 2)
            # Those who will cross wait seen from the side; some who will not do so as well.
            sideways = family == "crossing" or rng.random() < 0.5
            x = side * (ROAD_EDGE + 0.5 + LENGTH[kind] / 2) if sideways else x
            draft.add(kind, x, place - draft.distance, heading=-side if sideways else 0, walking=False)


def make_scene(
    seed: Sequence[int],
    crash: bool,
    family: str,
    pair: tuple[str, str] | None = None,
    look: Look = USUAL,
) -> Scene:
    """The scene of a seed: equal arguments give an equal scene.

    family: a key of STORIES ("plain" only without a crash); pair: one of its (subject, object), drawn where
    None. Raises ValueError for what is no story.
    """
    if family not in STORIES or (crash and family == "plain"):
        raise ValueError(
            f"no {'crash' if crash else 'calm'} scene of family {family!r}; known: {', '.join(STORIES)}"
        )
    rng = np.random.default_rng(list(seed))
    draft = Draft(rng)
    sky, roadside = str(rng.choice(look.skies)), str(rng.choice(look.roadsides))
    pair = pair or STORIES[family][rng.integers(len(STORIES[family]))]
    if pair not in STORIES[family]:
        raise ValueError(f"{pair} is no story of {family!r}; known: {STORIES[family]}")
    subject, other = pair
    story: dict = {}
    if family == "ahead":
        story = _ahead(draft, crash, other)
    elif family == "crossing":
        story = _crossing(draft, crash, other)
    elif family == "others":
        story = _others(draft, crash, pair)
    elif family == "control":
        story = _control(draft, crash, subject)
    elif family == "fall":
        story = _fall(draft, crash, subject)
    else:
        draft.calm_ego()
    _add_bystanders(draft, family)
    scene = Scene(
        seed=tuple(seed),
        family=family,
        subject=subject,
        object=other,
        duration=draft.duration,
        sky=sky,
        roadside=roadside,
        ego_speed=draft.speed,
        ego_distance=draft.distance,
        actors=draft.actors,
        action_time=draft.cue if story else None,
        **story,
    )
    if crash:
        involved = [scene.actors[index] for index in scene.hit]
        impact = np.stack([np.mean([a.x for a in involved], 0), np.min([a.z for a in involved], 0)], 1)
        scene.contact = Contact(draft.cue, draft.start, draft.end, impact)
    else:
        scene.hit = []
    return scene
