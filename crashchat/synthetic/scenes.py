"""Made-up road scenes: who is on the road, how they move, and, to the frame, what happens when.

A scene is per-frame arrays, so its times are not measured from pictures but true by construction. Crashes and
near misses of one family come from one function, which takes `crash` as a switch: same look, same road users,
same first half of the story.

World: x metres to the right of the ego-car's middle, z metres ahead of its camera; lanes are 3.5 m wide.
"""

from dataclasses import dataclass, field

import numpy as np

FPS = 10
ROAD_USERS = ("car", "truck", "motorbike", "cyclist", "pedestrian")
LANES = {"left": -3.5, "middle": 0.0, "right": 3.5}
ROAD_EDGE = 5.25  # metres from the middle of the road
CONTACT_Z = 4.6  # metres: what the ego-car touches is this far ahead
CROSSING_GAP = 1.2  # metres kept between the bumper and one who crosses safely
# Metres, larger than life for the small ones: every road user must be seen in a picture 112 pixels wide.
WIDTH = {"car": 2.3, "truck": 2.9, "motorbike": 1.2, "cyclist": 1.3, "pedestrian": 1.0}
LENGTH = {"car": 4.2, "truck": 5.4, "motorbike": 2.2, "cyclist": 2.0, "pedestrian": 1.0}
COLOURS = ("white", "blue", "yellow", "green", "black", "purple")
SKIES = ("day", "dusk", "overcast")
OTHER_SKIES = ("night", "rain")  # only in sets that ask for them
ROADSIDES = ("trees", "buildings", "fields")

# What each kind of story may be about: (family, subject, object).
STORIES = {
    "ahead": [("ego-car", other) for other in ("car", "truck", "motorbike")],
    "crossing": [("ego-car", other) for other in ROAD_USERS],
    "others": [(a, b) for a in ("car", "truck") for b in ("car", "truck", "motorbike", "cyclist")],
    "control": [("car", ""), ("truck", "")],
    "fall": [("motorbike", "")],
    "plain": [("", "")],
}
CRASH_CYCLE = ("ahead", "crossing", "others", "control", "crossing", "ahead", "others", "fall")
CALM_CYCLE = (
    "ahead",
    "crossing",
    "others",
    "control",
    "plain",
    "crossing",
    "ahead",
    "others",
    "fall",
    "plain",
)


@dataclass(frozen=True)
class Look:
    """What the scenes of a set may look like. skies: some of SKIES and OTHER_SKIES; roadsides: some of
    ROADSIDES; a scene's are drawn evenly among them.

    Raises ValueError for what is not known, or none.
    """

    skies: tuple[str, ...] = SKIES
    roadsides: tuple[str, ...] = ROADSIDES

    def __post_init__(self) -> None:
        for name, given, known in (
            ("skies", self.skies, (*SKIES, *OTHER_SKIES)),
            ("roadsides", self.roadsides, ROADSIDES),
        ):
            if not given or not set(given) <= set(known):
                raise ValueError(f"{name}: found {', '.join(given) or 'none'}; known: {', '.join(known)}")


USUAL = Look()


@dataclass
class Actor:
    """One road user. x, z: metres, float[T]; tilt: degrees clockwise, float[T]; braking: bool[T].

    heading: 0 drives away from the camera, -1 and +1 are seen from the side, going left or right.
    """

    kind: str
    colour: str
    x: np.ndarray
    z: np.ndarray
    tilt: np.ndarray
    braking: np.ndarray
    heading: int
    walking: np.ndarray  # bool[T]: legs move


@dataclass
class Contact:
    """A crash. cue: the first sign of it; start, end: from the first touch until all rest; in seconds.

    impact: float[T, 2], x and z of sparks and smoke.
    """

    cue: float
    start: float
    end: float
    impact: np.ndarray


@dataclass
class Scene:
    """A clip's story. Times are seconds from the clip's start, on the frame grid of 1/FPS.

    contact: the crash, None where nothing crashes.
    action: what the main road user does: brakes, crosses, changes lane, swerves, wobbles, or nothing (plain
    driving).
    cause: the key of the cause's sentence (scene_answers.py).
    """

    seed: tuple[int, ...]
    family: str
    subject: str
    object: str
    duration: float
    sky: str
    roadside: str
    ego_speed: np.ndarray  # float[T], m/s
    ego_distance: np.ndarray  # float[T], m since the clip's start
    actors: list[Actor]
    action: str = ""
    actor: int = 0  # whose action
    action_time: float | None = None
    cause: str = ""
    contact: Contact | None = None
    hit: list[int] = field(default_factory=list)  # actors that take part in the crash

    @property
    def crash(self) -> bool:
        """Whether it crashes."""
        return self.contact is not None

    @property
    def times(self) -> np.ndarray:
        """float[T], seconds of the frames."""
        return np.arange(len(self.ego_speed)) / FPS
