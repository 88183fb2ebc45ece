"""What is found in a clip, as `crashchat analyze` writes it: <name>.json is a ClipResult;
`--schema` prints its JSON schema.

All times are seconds from the clip's start, but those in an answer's raw_response and values count from its
window's start.
"""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from crashchat.checkpoints.model_card import Sha256, TrainingSet, learnt_on
from crashchat.json_files import Exact
from crashchat.tasks import TASKS, Group
from crashchat.tasks.reading import read_label
from crashchat.tasks.task import CRASH as TELLS_CRASH

FORMAT: Literal["crashchat.analysis.clip/2"] = "crashchat.analysis.clip/2"
CRASH: Literal["crash"] = "crash"
NO_CRASH: Literal["no crash"] = "no crash"
CONTRADICTION: Literal["contradiction"] = "contradiction"
UNDECIDED: Literal["undecided"] = "undecided"
ANSWERED: Literal["answered"] = "answered"
FAILED: Literal["failed"] = "failed"

Status = Literal["crash", "contradiction", "no crash", "undecided", "answered", "failed"]
Seconds = Annotated[float, Field(ge=0, description="seconds from the clip's start")]
Probability = Annotated[float, Field(ge=0, le=1)]


class TaskAnswer(Exact):
    """The answer to one task on a window."""

    task: str
    """A name of TASKS."""
    adapter: Group | None
    """Which adapter answered; none: one model for all tasks."""
    raw_response: str
    """The model's words; where it was asked again, with times that count from the window's start."""
    certainty: Probability | None = Field(default=None, exclude_if=lambda certainty: certainty is None)
    """How sure the model is of its words: the geometric mean of their tokens' probabilities; left out where
    times were read off attention.
    """
    first_response: str | None = Field(default=None, exclude_if=lambda words: words is None)
    """What it said at first, of the whole window; left out where it was asked once."""
    values: dict[str, JsonValue] | None
    """What they parse to, under the names of a prediction file; none where they do not."""
    parsed: bool
    """Whether they parse."""


class Interval(Exact):
    """A stretch of the clip."""

    start: Seconds
    end: Seconds


class Window(Exact):
    """A stretch of a recording that the model looked at, or the whole clip."""

    start: Seconds
    end: Seconds
    status: Status
    crash_probability: Probability | None = None
    """Of 'Yes' against 'No' as recognition's first word, from their logits."""
    crash: Interval | None = None
    """The crash interval, within the window."""
    first_sign: Seconds | None = None
    answers: list[TaskAnswer] = []
    notes: list[str] = []
    """What contradicts itself or cannot be."""
    passed_over: bool = Field(default=False, exclude_if=lambda passed: not passed)
    """Whether only the first pass looked at it (crash_probability is what it found) and nothing else was
    asked; left out where not.
    """
    brightness: Annotated[float, Field(ge=0, le=1)] | None = None
    """Mean of its pixels as the model saw them: 0 black, 1 white."""
    error: str | None = None
    """Why the window could not be looked at."""

    @property
    def saw_crash(self) -> bool:
        """Whether recognition answered 'Yes', whatever else was said."""
        task = TASKS.of_fact(TELLS_CRASH)
        labels = [answer.raw_response for answer in self.answers if task and answer.task == task.name]
        return self.status == CRASH or "Yes" in map(read_label, labels)


class Event(Exact):
    """A crash that one window, or several that overlap, saw."""

    start: Seconds
    end: Seconds
    localized: bool
    """False: start and end are only the window's."""
    first_sign: Seconds | None
    crash_probability: Probability | None
    description: str
    cause: str
    prevention: str
    window: Annotated[int, Field(ge=0)]
    """The window (by its place in windows) that times and texts are taken from."""
    windows: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """All windows that saw it."""
    shown: tuple[Seconds, Seconds]
    """The span of its film strip."""


class ModelPart(Exact):
    """A folder that a model was loaded from."""

    name: str
    """The folder's name."""
    sha256: Sha256
    """Over its files' names and contents."""
    trained_on: list[TrainingSet] | None
    """The data sets that its card names; none: it has no card, so that this is not known."""
    unknown: list[str]
    """Models it was made from that have no card."""

    @property
    def learnt_on(self) -> str:
        """The same in words."""
        return learnt_on(self.trained_on, self.unknown)


class ModelIdentity(Exact):
    """Who answered."""

    base: ModelPart
    linguistic: ModelPart | None
    """None for one model for all tasks."""
    perception: ModelPart | None

    @property
    def drawn(self) -> bool:
        """Whether any of it learnt on drawings."""
        return any(known.drawn for _, part in self.parts() for known in part.trained_on or [])

    def parts(self) -> list[tuple[str, ModelPart]]:
        """(who answers, the folder) of each folder; one adapter for all tasks counts once."""
        adapters = [("linguistic adapter", self.linguistic), ("perception adapter", self.perception)]
        if self.linguistic == self.perception:
            adapters = [("adapter", self.linguistic)]
        named = [("base" if self.linguistic else "model", self.base), *adapters]
        return [(role, part) for role, part in named if part]


class FirstPass(Exact):
    """How a recording was looked through before its windows were."""

    below: Annotated[float, Field(gt=0, lt=1)]
    """Windows where the probability of a crash was lower were passed over."""
    fps: Annotated[int | float, Field(gt=0)]
    """Frames a second."""


class Sampling(Exact):
    """How the clip was read and asked about."""

    fps: Annotated[int | float, Field(gt=0)]
    """Frames a second."""
    max_frames: Annotated[int, Field(ge=1)]
    """Frames of a window at most."""
    token_compression: bool
    vision: dict[str, int | float | None]
    """How frames become visual tokens (VisionSettings)."""
    windows: dict[str, float]
    """How long recordings are cut, in seconds (WindowSettings)."""
    around: Annotated[float, Field(gt=0)] | None = Field(default=None, exclude_if=lambda one: one is None)
    """Seconds around the first times of which they were asked again; left out where they were asked once."""
    heads: Sha256 | None = Field(default=None, exclude_if=lambda one: one is None)
    """Of the attention heads that looked at the part instead; left out where the first answers named it."""
    first_pass: FirstPass | None = Field(default=None, exclude_if=lambda settings: settings is None)
    """Left out where every window of a recording is looked at."""
    decode: Literal["free", "constrained"]
    """Greedy either way; constrained: the answers to recognition and localization always parse."""
    max_new_tokens: Annotated[int, Field(ge=1)]


class ClipResult(Exact):
    """What crashchat analyze found in one clip."""

    format: Literal["crashchat.analysis.clip/2"] = FORMAT
    name: str
    """Of the result's files."""
    path: str
    """Of the video file, as it was given."""
    bytes: Annotated[int, Field(ge=0)] | None
    """Size of the video file; none where there is no such file."""
    context: dict[str, str] = Field(default_factory=dict, exclude_if=lambda known: not known)
    """What was told of the clip with the questions, by column (docs/tasks.md); left out where nothing was."""
    seconds: Annotated[float, Field(ge=0)] | None = None
    """How long the video lasts; none where it could not be read."""
    status: Status = FAILED
    """crash: recognition answered 'Yes', in some window at least; contradiction: in some window it answered
    'No' beside a described crash, or 'Yes' beside 'no collision', and in none plainly 'Yes'; undecided:
    neither 'Yes' nor 'No'; answered: no task asks whether there is a crash; failed: nothing could be looked
    at.
    """
    warnings: list[str] = []
    """What nobody must overlook of the model, in sentences: that it learnt on drawings."""
    unlike_training: list[str] = []
    """In what the clip is unlike those that the model learnt on, as far as cards tell, in sentences."""
    error: str | None = None
    """Why it failed."""
    crash_probability: Probability | None = None
    """The highest of all windows."""
    events: list[Event] = []
    windows: list[Window] = []
    """One that holds everything, unless the clip was cut as a long recording;
    stretches without a new frame have none.
    """
    model: ModelIdentity
    sampling: Sampling
    versions: dict[str, str]
    took_seconds: Annotated[float, Field(ge=0)] = 0.0

    @property
    def has_failed(self) -> bool:
        """Whether the clip, or a window of it, could not be looked at."""
        return self.status == FAILED or any(window.error for window in self.windows)

    @property
    def is_recording(self) -> bool:
        """Whether it was cut into windows."""
        return len(self.windows) > 1
