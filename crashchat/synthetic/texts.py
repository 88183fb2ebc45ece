"""What is said about a synthetic scene, exact by construction: the tasks' answers, and general questions.

The general questions are what ckpt/tiny_base is pre-trained on: what is there, where, when, how it moves, and
exercises in repeating words. None of them is a task's prompt, and all of them are asked of crashes and calm
scenes alike.
"""

import numpy as np

from crashchat.synthetic.scenes import FPS, LANES, ROAD_EDGE, ROAD_USERS, Actor, Scene
from crashchat.tasks import CRASHCHAT, TASKS, Fact
from crashchat.tasks.kinds import Value

# Cause key of a scene -> (cause, prevention): sentences of the released files' kind, in our own words.
CAUSES: dict[str, tuple[str, str]] = {
    "ahead car": (
        "The car ahead brakes suddenly and the ego-car keeps too short a distance.",
        "The ego-car driver should keep a safe distance to the car ahead, watch its brake lights, and brake "
        "early and firmly.",
    ),
    "ahead truck": (
        "The truck ahead brakes suddenly and the ego-car drives too fast to stop.",
        "The ego-car driver should drive slower behind trucks, keep a larger distance, and brake when the "
        "brake lights come on.",
    ),
    "ahead motorbike": (
        "The motorbike ahead brakes suddenly and the ego-car does not react in time.",
        "The ego-car driver should leave room for motorbikes, which stop quickly, and never follow them "
        "closely.",
    ),
    "crossing vehicle": (
        "A vehicle crosses the road without giving way to the ego-car.",
        "Drivers who cross a road should stop, look both ways and give way. The ego-car driver should slow "
        "down at crossings.",
    ),
    "crossing pedestrian": (
        "A pedestrian crosses the road without noticing the coming ego-car.",
        "Pedestrians should use the zebra crossing and look before they walk. Drivers should slow down near "
        "pedestrians.",
    ),
    "crossing rider": (
        "A rider crosses the road in a hurry without watching the traffic.",
        "Riders should not cross in a hurry and should watch the traffic. Drivers should honk the horn and "
        "slow down for riders.",
    ),
    "others behind": (
        "The vehicle behind follows too closely and does not brake in time.",
        "Vehicles should keep a safe distance to each other and brake gently, so that those behind have "
        "time to react.",
    ),
    "others lane": (
        "A vehicle changes lane without noticing the one beside it.",
        "Before changing lanes, drivers should turn on the signal, check the mirrors and give way to normal "
        "running vehicles.",
    ),
    "control car": (
        "The car drives too fast and gets out of control.",
        "Car drivers should not exceed the speed limit, keep both hands on the wheel and steer calmly when "
        "the car slides.",
    ),
    "control truck": (
        "The truck sways under its load and gets out of control.",
        "Truck drivers should secure the load, drive slowly in curves and not steer sharply.",
    ),
    "fall": (
        "The motorbike loses its balance after a wobble.",
        "Motorbike riders should check the tires, hold the handlebar firmly and slow down on bad road.",
    ),
}


STANDARD_GRAVITY = 9.80665  # m/s²

# What kind of crash each family of stories has.
CRASH_KINDS = {
    "ahead": "rear-end",
    "crossing": "crossing",
    "others": "between others",
    "control": "loss of control",
    "fall": "fall",
}


def description(scene: Scene) -> str:
    """One short sentence in the released files' pattern: subject, verb, object."""
    if scene.family == "crossing":
        return f"ego-car hits a crossing {scene.object}"
    if scene.family == "ahead":
        return f"ego-car hits a {scene.object}"
    if scene.family == "others":
        return f"{scene.subject} hits {scene.object}"
    return "motorbike falls down" if scene.family == "fall" else f"{scene.subject} is out of control"


def facts(scene: Scene) -> dict[Fact, Value]:
    """What is true of a scene, under the names by which task sets ask for it (Task.fact).

    A fact that a scene does not have is left out: when a crash begins where there is none.
    """
    users = [kind for kind in ROAD_USERS if any(actor.kind == kind for actor in scene.actors)]
    vehicles = sum(actor.kind != "pedestrian" for actor in scene.actors)
    known: dict[Fact, Value] = {"road_users": list(users), "vehicles": float(vehicles)}
    if scene.contact is None:
        return known
    cause, prevention = CAUSES[scene.cause]
    return known | {
        "crash": "Yes",
        "description": description(scene),
        "cause": cause,
        "prevention": prevention,
        "crash_interval": [scene.contact.start, scene.contact.end],
        "first_sign": scene.contact.cue,
        "crash_start": scene.contact.start,
        "crash_kind": CRASH_KINDS[scene.family],
    }


def task_answers(scene: Scene) -> dict[str, str]:
    """{task name: answer}, of the tasks in use that ask for what is known of scenes; what hangs on another
    answer is asked where that was given.
    """
    known, answers = facts(scene), {}
    said: dict[str, Value | None] = {}
    for name, task in TASKS.items():
        if task.fact is None or not TASKS.task_set.is_asked(task, said):
            continue
        value = known.get(task.fact)
        if value is None and task.negative_answer is not None:
            (value,) = task.answer.truth(task.negative_answer).values()
        if value is not None:
            answers[name], said[name] = task.answer.write(value), value
    return answers


def telematics(scene: Scene) -> dict[str, str]:
    """What a device in the ego-car would report of a scene, for task sets that tell it with their questions:
    its mean speed in km/h, and its hardest braking in g.
    """
    slower = np.maximum(0.0, -np.diff(scene.ego_speed)) * FPS
    return {
        "speed": f"{scene.ego_speed.mean() * 3.6:.0f}",
        "braking": f"{slower.max() / STANDARD_GRAVITY:.2f}",
    }


# Words of the tasks' prompts and answers, for exercises in repeating: a model must know a language before it
# is taught to describe crashes in it. They come in random order and say nothing about the video.
_SENTENCES = [task.prompt or "" for task in CRASHCHAT.values()] + [
    sentence for pair in CAUSES.values() for sentence in pair
]
_ANSWERS = [task.negative_answer for task in CRASHCHAT.values() if task.negative_answer] + [
    "Yes",
    *(cause for cause, _ in CAUSES.values()),
]
WORDS = sorted(
    {word for sentence in [*_SENTENCES, *_ANSWERS, "hits falls down"] for word in sentence.split()}
    | set(ROAD_USERS)
)
OPENINGS = sorted(
    {sentence.split()[0] for sentence in _ANSWERS + [prevention for _, prevention in CAUSES.values()]}
    | {"car", "truck", "motorbike", "ego-car"}
)


FAR_AWAY = 30.0  # metres ahead, beyond which nobody is asked about
ACTIONS = {
    "brakes": "brake",
    "crosses": "cross the road",
    "changes lane": "change lane",
    "swerves": "swerve",
    "wobbles": "wobble",
}


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} seconds"


def _visible(actor: Actor, frame: int) -> bool:
    return 3.5 < actor.z[frame] < FAR_AWAY and abs(actor.x[frame]) < 0.9 * actor.z[frame] + 1


def _place(actor: Actor, frame: int) -> str:
    x = float(actor.x[frame])
    if abs(x) > ROAD_EDGE:
        return "left roadside" if x < 0 else "right roadside"
    return f"{min(LANES, key=lambda lane: abs(LANES[lane] - x))} lane"


def _name(scene: Scene, actor: Actor) -> str:
    """`car` where there is one car, `blue car` where there are several."""
    alone = sum(other.kind == actor.kind for other in scene.actors) == 1
    return actor.kind if alone else f"{actor.colour} {actor.kind}"


def _ego_stop(scene: Scene) -> float | None:
    """When the ego-car comes to rest, in seconds; None if it never does."""
    still = np.flatnonzero(scene.ego_speed < 0.05)
    return None if not len(still) else float(still[0]) / FPS


def _touching(scene: Scene) -> str:
    if not scene.crash:
        return "nobody"
    hit = [_name(scene, scene.actors[index]) for index in scene.hit]
    if scene.subject == "ego-car":
        return f"ego-car and {hit[0]}"
    return " and ".join(hit) if len(hit) == 2 else f"{hit[0]} and road"


def _story(scene: Scene) -> str:
    """Who does something special: one sentence."""
    if scene.action_time is None:
        return "nobody does anything special"
    actor = scene.actors[scene.actor]
    side = ""
    if scene.action == "crosses":
        side = " from the left" if actor.heading > 0 else " from the right"
    return f"{_name(scene, actor)} {scene.action}{side}"


def general_questions(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
    """(question, answer) pairs on a scene; rng chooses phrasings, road users and moments."""

    def one_of(*phrasings: str) -> str:
        return str(rng.choice(phrasings))

    last, contact = len(scene.ego_speed) - 1, scene.contact
    start, end = (contact.start, contact.end) if contact else (None, None)
    counts = {kind: sum(actor.kind == kind for actor in scene.actors) for kind in ROAD_USERS}
    users = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "none"
    asked = [
        (one_of("Which road users are there?", "Count the road users.", "Who is on the road?"), users),
        (
            one_of("What is special here?", "Who does something special?", "Which movement stands out?"),
            _story(scene),
        ),
        (
            one_of("When does the special movement start?", "At what time does a movement stand out?"),
            _seconds(scene.action_time),
        ),
        (one_of("Who touches whom?", "Which two touch?", "What comes into contact?"), _touching(scene)),
        (
            one_of(
                "From when to when is there contact and skidding?",
                "Between which times do things touch and slide?",
            ),
            f"from {start:.1f} to {end:.1f} seconds" if contact else "never",
        ),
        (one_of("When do sparks first fly?", "At what second do sparks appear?"), _seconds(start)),
        (one_of("When does all sliding end?", "When are those that touched at rest?"), _seconds(end)),
        (
            one_of("When does the ego-car stop?", "At what time does the ego-car stand still?"),
            _seconds(_ego_stop(scene)),
        ),
        (one_of("Is there smoke at the end?", "Does smoke rise?"), "yes" if scene.crash else "no"),
        (one_of("What stands beside the road?", "What is the roadside like?"), scene.roadside),
        (one_of("What is the sky like?", "What light is it?"), scene.sky),
    ]
    if scene.action_time is not None:
        actor = scene.actors[scene.actor]
        asked.append(
            (f"When does the {_name(scene, actor)} {ACTIONS[scene.action]}?", _seconds(scene.action_time))
        )
    seen = [
        (actor, int(frame))
        for actor in scene.actors
        for frame in rng.integers(0, last + 1, 3)
        if _visible(actor, frame)
    ]
    for index in rng.permutation(len(seen))[:3]:
        actor, frame = seen[index]
        asked.append(
            (f"Where is the {_name(scene, actor)} at {frame / FPS:.1f} seconds?", _place(actor, frame))
        )
    single = [actor for actor in scene.actors if counts[actor.kind] == 1 and _visible(actor, last // 2)]
    if single:
        actor = single[int(rng.integers(len(single)))]
        asked.append((f"What colour is the {actor.kind}?", actor.colour))
    for _ in range(3):
        words = " ".join([one_of(*OPENINGS), *map(str, rng.choice(WORDS, int(rng.integers(2, 10))))])
        asked.append((f"Repeat: {words}", words))
    return asked
