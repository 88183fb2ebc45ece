"""Times asked again in evaluation, around what an earlier one answered (`around=`; answering/again.py)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from crashchat.answering.again import Span, is_timed, moved, span_around
from crashchat.answering.outputs import Answer
from crashchat.answering.time_heads import HeadsError, TimeHeads, read_heads
from crashchat.config import ConfigError
from crashchat.data.annotations import VideoQAs
from crashchat.data.predictions import prediction_path, read_predictions, video_name
from crashchat.evaluation.manifest import model_name
from crashchat.evaluation_settings import EvalConfig
from crashchat.parts import part_name, span_of
from crashchat.provenance import file_hash
from crashchat.tasks import TASKS
from crashchat.tasks.quantities import Timed


@dataclass(frozen=True)
class Around:
    """What an earlier evaluation answered, as parts of its clips.

    parts: {video file name: (start, end) in seconds} of the clips on which some answer parses; the others are
    asked whole. files: {prediction file: its SHA-256}.
    """

    parts: dict[str, Span]
    files: dict[str, str]

    def part_of(self, video: VideoQAs) -> Span | None:
        """Which part of a video is asked about; None: all of it."""
        return self.parts.get(video_name(video.name))

    def shown(self, video: VideoQAs) -> VideoQAs:
        """A video as it is asked about this time."""
        span = self.part_of(video)
        if span is None:
            return video
        start, end = span_of(video.path) or (0.0, math.inf)  # it may be a part itself
        part = part_name(str(video.file), start + span[0], min(end, start + span[1]))
        return replace(video, path=Path(part))

    def moved(self, video: VideoQAs, answer: Answer) -> Answer:
        """An answer on a video's part with its times in the clip's own; words that do not parse stay."""
        span = self.part_of(video)
        return moved(answer, span[0]) if span else answer


def only_timed(setting: str, tasks: Sequence[str]) -> None:
    """Raises ConfigError for tasks that have no times, which the setting asks for."""
    others = [name for name in tasks if not is_timed(name)]
    if others:
        raise ConfigError(
            f"{setting} is for times, which {', '.join(others)} do not have; give "
            f"tasks={','.join(TASKS.task_set.of_kind(Timed))}"
        )


def heads_for(config: EvalConfig, tasks: Sequence[str]) -> TimeHeads | None:
    """What `times_from=` names; None where it names nothing.

    Raises ConfigError for tasks that have no times, and HeadsError for a file that lacks one or is none.
    """
    if config.times_from is None:
        return None
    only_timed(f"times_from={config.times_from}", tasks)
    heads = read_heads(config.times_from)
    if lacking := [task for task in tasks if task not in heads.tasks]:
        raise HeadsError(
            f"{config.times_from}: no heads of {', '.join(lacking)}; run crashchat find-heads with them"
        )
    return heads


def of_one_model(heads: TimeHeads, weights: dict[str, str], config: EvalConfig) -> None:
    """Raises HeadsError for heads that were found in other weights, {folder: SHA-256}."""
    if sorted(heads.weights.values()) != sorted(weights.values()):
        raise HeadsError(
            f"{config.times_from}: its heads are of {', '.join(heads.weights)} as that was then, not of "
            f"{', '.join(weights)}; run crashchat find-heads with this model"
        )


def read_around(config: EvalConfig, tasks: Sequence[str]) -> Around | None:
    """What `around=` names; None where it names nothing.

    Raises ConfigError for tasks that have no times, and PredictionError for answers that are not there.
    """
    if config.around is None:
        return None
    only_timed(f"around={config.around}", [*tasks, *config.around_tasks])
    times: dict[str, list[float]] = {}
    files = {}
    for name in config.around_tasks or tasks:
        path = prediction_path(config.around, name, model_name(config), config.split)
        for record in read_predictions(path, name):
            answered = [record[field] for field in TASKS[name].pred_fields]
            if "error" not in record and None not in answered:
                times.setdefault(video_name(record["video_path"]), []).extend(answered)
        files[str(path)] = file_hash(path)
    spans = {video: span_around(own, config.around_seconds) for video, own in times.items()}
    return Around({video: span for video, span in spans.items() if span}, files)
