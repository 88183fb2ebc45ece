"""The six questions, and nothing else that is six.

One real example (a record of `crashchat_dada_video_total_crash_localization_val.json`):

    video         videos/cap_48_014322.mp4
    prompt        You are a traffic accident analyst. Watch the video and identify the exact time range …
    answer        3.9 - 5.0 seconds
    ground truth  {"gt_start": 3.9, "gt_end": 5.0}

TASKS is the only list of tasks; a strategy is a set of names from it. The prompts are data: a released
checkpoint answers only to these very words (docs/reference.md, Tasks).
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Group = Literal["linguistic", "perception"]
LINGUISTIC: Literal["linguistic"] = "linguistic"
PERCEPTION: Literal["perception"] = "perception"
VIDEO_TAG = "<video>"
FILE_PREFIX = "crashchat_dada_video_total"
SPLITS = ("train", "val", "test")

# Times as models write them: `1.9`, `00:01.9`, `0:00:01.9`. ASCII digits only: other scripts' digits are no
# times.
_CLOCK = re.compile(r"(?<![\d.:])(?:(\d{1,2}):)?(\d{1,3}):([0-5]?\d(?:\.\d+)?)(?![\d:])", re.ASCII)
_TIME = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_UNIT = r"\s*(?:s|secs?|seconds?)\b"
_RANGE = re.compile(
    rf"({_TIME.pattern})(?:{_UNIT})?\.?\s*(?:-+|[‐-―]|~|to|and|until|till|through)\s*({_TIME.pattern})",
    re.ASCII | re.IGNORECASE,
)
_WITH_UNIT = re.compile(rf"({_TIME.pattern}){_UNIT}", re.ASCII | re.IGNORECASE)
# `Yes/No` only repeats the question, `No idea` refuses it.
_LABEL = re.compile(
    r"[\W_]*(?:(?:(?:the|my|final|correct)\s+)*answer\s*(?:is)?[\W_]*)?(yes|no)(?![^\W_])(?!\W*(?:or\W*)?(?:yes|no)\b)(?!\s+(?:idea|answer|way)\b)",
    re.IGNORECASE,
)


def _clocks_as_seconds(text: str) -> str:
    return _CLOCK.sub(
        lambda clock: f"{3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3]):.6f}", text
    )


def _seconds_in(text: str) -> list[float]:
    """Every non-negative time in `text`, in seconds and in order; `1:02.5` counts as 62.5.

    Infinite where it has 309 digits.
    """
    return [float(number) for number in _TIME.findall(_clocks_as_seconds(text))]


def parse_recognition(text: str) -> dict | None:
    """'Yes' or 'No' if the answer opens with it (quotes, stars, case and `Answer:` aside), else None."""
    opening = _LABEL.match(text)
    return {"pred_label": opening[1].capitalize()} if opening else None


def parse_interval(text: str) -> dict | None:
    """Start and end in seconds, swapped ends put right.

    The only two times of the answer, or among more the only range (`a - b`, `a to b`); two ranges are no
    answer.
    """
    times = _seconds_in(text)
    if len(times) > 2:
        ranges = _RANGE.findall(_clocks_as_seconds(text))
        times = [float(end) for end in ranges[0]] if len(ranges) == 1 else []
    if len(times) != 2 or not all(map(math.isfinite, times)):
        return None
    return {"pred_start": min(times), "pred_end": max(times)}


def parse_time(text: str) -> dict | None:
    """One time in seconds: the only number of the answer, or among more the only one with a unit;
    a range is no answer.
    """
    times = _seconds_in(text)
    if len(times) > 1:
        text = _clocks_as_seconds(text)
        times = [] if _RANGE.search(text) else [float(number) for number in _WITH_UNIT.findall(text)]
    return {"pred_time": times[0]} if len(times) == 1 and math.isfinite(times[0]) else None


def _parse_text(field: str) -> Callable[[str], dict | None]:
    def parse(text: str) -> dict | None:
        text = text.strip()
        return {field: text} if text else None

    return parse


@dataclass(frozen=True)
class Task:
    """One of the six questions.

    name: what scripts, configs and prediction files call it.
    group: LINGUISTIC or PERCEPTION.
    prompt: the question, word for word, without the `<video>` tag.
    negative_answer: what is answered when nothing happens; None where only crash videos are asked.
    fields: what an answer holds; a prediction record has each as gt_<field> and pred_<field>
    (docs/reference.md, Predictions).
    parse: answer text -> {pred field: value}, or None for an answer that is none.
    file_stem: what the annotation files call it, where that is not its name.
    """

    name: str
    group: Group
    prompt: str
    negative_answer: str | None
    fields: tuple[str, ...]
    parse: Callable[[str], dict | None]
    file_stem: str | None = None

    @property
    def gt_fields(self) -> tuple[str, ...]:
        """Where a prediction record holds the annotated answer."""
        return tuple(f"gt_{field}" for field in self.fields)

    @property
    def pred_fields(self) -> tuple[str, ...]:
        """Where it holds the model's."""
        return tuple(f"pred_{field}" for field in self.fields)

    def ground_truth(self, answer: str) -> dict:
        """{gt field: value} of an annotated answer. Raises ValueError when the answer does not parse."""
        if self.group == PERCEPTION:
            # Annotated times keep their order: a start after its end is an oddity to report, not to repair.
            values: list = _seconds_in(answer)
            if len(values) != len(self.gt_fields):
                raise ValueError(
                    f"{self.name}: the annotated answer {answer!r} has {len(values)} times, expected "
                    f"{len(self.gt_fields)}"
                )
        else:
            parsed = self.parse(answer)
            if parsed is None:
                raise ValueError(f"{self.name}: the annotated answer {answer!r} does not parse")
            values = list(parsed.values())
        return dict(zip(self.gt_fields, values, strict=True))

    def annotation_file(self, split: str) -> str:
        """The released annotation file's name for a split."""
        return f"{FILE_PREFIX}_{self.file_stem or self.name}_{split}.json"


_ALL = [
    Task(
        name="crash_recognition",
        group=LINGUISTIC,
        prompt=(
            "You are a traffic accident engineer. Analyze the given traffic video and decide whether a "
            "collision or "
            "crash happens during the clip. Answer with only 'Yes' or 'No'. Example: If two vehicles "
            "collide, or a "
            "vehicle hits a pedestrian, answer 'Yes'; if all vehicles move normally without collision, "
            "answer 'No'."
        ),
        negative_answer="No",
        fields=("label",),
        parse=parse_recognition,
    ),
    Task(
        name="crash_description",
        group=LINGUISTIC,
        prompt=(
            "You are a traffic accident analyst. Look at the video and describe whether there is a traffic "
            "collision "
            "or abnormal vehicle behavior. If no accident appears, output exactly 'no collision.' If an "
            "accident "
            "occurs, describe it in one short sentence following this pattern: [subject] [verb] [object]. "
            "Use words "
            "such as ego-car, car, truck, motorbike, cyclist, pedestrian, and verbs such as hits, "
            "overtakes, falls "
            "down, is out of control, has failure of components. Example outputs: 'ego-car hits a "
            "pedestrian.' 'car "
            "hits a truck.' 'motorbike falls down.' 'truck has failure of components.' 'no collision.'"
        ),
        negative_answer="no collision.",
        fields=("caption",),
        parse=_parse_text("pred_caption"),
    ),
    Task(
        name="causal_reasoning",
        group=LINGUISTIC,
        file_stem="cause_reasoning",
        prompt=(
            "You are a traffic accident analyst. Watch the video and determine the most likely cause of the "
            "traffic "
            "accident. If no accident appears in the clip, output exactly: 'No accident, no cause.' If an "
            "accident "
            "occurs, describe the most likely cause in ONE short sentence."
        ),
        negative_answer="No accident, no cause.",
        fields=("cause",),
        parse=_parse_text("pred_cause"),
    ),
    Task(
        name="prevention_reasoning",
        group=LINGUISTIC,
        prompt=(
            "You are a traffic accident analyst. Watch the video carefully and provide detailed prevention "
            "measures "
            "based on the traffic accident video. If no accident appears in the clip, output exactly: 'No "
            "accident, no "
            "prevention needed.' If an accident occurs, describe the recommended prevention measures in a "
            "detailed "
            "paragraph. The prevention measures should be practical, specific, and expressed in full "
            "sentences. You "
            "may include multiple actions for drivers, pedestrians, cyclists, or other road users if "
            "appropriate. "
            "Example outputs:'When passing the zebra crossing, drivers must slow down. When pedestrians or "
            "non-motor "
            "vehicles cross the zebra crossing, they should stop and give way to other normal running "
            "vehicles; When "
            "crossing the road, pedestrians must follow the zebra crossing, carefully observe the traffic, "
            "and do not "
            "cross the road in a hurry.''Ego-car drivers should not answer or make phone calls, eat or "
            "smoke while "
            "riding, sleep, and drive in fatigue.''Cyclists should not ride on the motorway as much as "
            "possible, stop "
            "retrogradation or speeding. Cyclists should leave the motorway in time and observe the coming "
            "vehicles "
            "carefully. When the vehicle driver encounters a cyclist on the motorway, he should honk his "
            "horn to "
            "remind him to slow down.'"
        ),
        negative_answer="No accident, no prevention needed.",
        fields=("text",),
        parse=_parse_text("pred_text"),
    ),
    Task(
        name="crash_localization",
        group=PERCEPTION,
        prompt=(
            "You are a traffic accident analyst. Watch the video and identify the exact time range during "
            "which the "
            "crash occurs. If a collision or abnormal event (such as a vehicle losing control, skidding, or "
            "impact) "
            "happens, output the start and end timestamps in seconds. The output format must follow this "
            "pattern: "
            "'start - end seconds'. Example outputs: '20.8 - 30.0 seconds', '5.0 - 7.6 seconds'."
        ),
        negative_answer=None,
        fields=("start", "end"),
        parse=parse_interval,
    ),
    Task(
        name="pre_crash_localization",
        group=PERCEPTION,
        prompt=(
            "You are a traffic accident analyst. Watch the video and identify the moment when the first "
            "visible sign "
            "of a potential crash or abnormal event appears. This may include situations such as the ego "
            "vehicle, "
            "another vehicle, a pedestrian, a cyclist, or any other traffic participant showing abnormal "
            "behavior, for "
            "example, sudden braking, swerving, loss of control, unexpected crossing, or any motion "
            "indicating that a "
            "collision is becoming inevitable. Output the timestamp in seconds when these early crash cues "
            "first "
            "appear. The output format must follow this pattern: 'timestamp seconds' Example outputs: '8.6 "
            "seconds', "
            "'12.4 seconds'."
        ),
        negative_answer=None,
        fields=("time",),
        parse=parse_time,
    ),
]

TASKS: dict[str, Task] = {task.name: task for task in _ALL}

_IN_ORDER: tuple[Group, ...] = (LINGUISTIC, PERCEPTION)
GROUPS: dict[Group, tuple[str, ...]] = {
    group: tuple(task.name for task in _ALL if task.group == group) for group in _IN_ORDER
}

# The tasks whose answers are texts.
TEXTS = tuple(name for name in GROUPS[LINGUISTIC] if name != "crash_recognition")

_BY_PROMPT = {task.prompt: task for task in _ALL}


def question_text(human_turn: str) -> str:
    """The question of an annotated human turn: without its `<video>` tag, stripped
    (docs/reference.md, Text).
    """
    return human_turn.replace(VIDEO_TAG, "").strip()


def task_of_prompt(question: str) -> Task | None:
    """The task whose prompt `question` is, word for word; None for any other question."""
    return _BY_PROMPT.get(question)
