"""Times asked again of the part of a clip around the first answer (`around=`).

The part is read anew, so that a long video's frames lie closer together than at first:

    first answers    0 s ──────────── 3.9 - 5.0, first sign 2.6 ─────────── 60 s
    asked again              [1.6 ───────────────── 6.0]      around_seconds=1: from what was answered
    answer on it              "2.5 - 3.4 seconds"  ->  4.1 - 5.0 of the clip
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from crashchat.answering.outputs import Answer
from crashchat.config import ConfigError
from crashchat.data.annotations import VideoQAs
from crashchat.data.predictions import prediction_path, read_predictions, video_name
from crashchat.evaluation.manifest import model_name
from crashchat.parts import part_name
from crashchat.provenance import file_hash
from crashchat.settings import EvalConfig
from crashchat.tasks import TASKS
from crashchat.tasks.quantities import Timed

Span = tuple[float, float]


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
        return replace(video, path=Path(part_name(str(video.path), *span))) if span else video

    def moved(self, video: VideoQAs, answer: Answer) -> Answer:
        """An answer on a video's part with its times in the clip's own; words that do not parse stay."""
        span = self.part_of(video)
        if span is None or answer.task is None or answer.values is None:
            return answer
        times = [span[0] + float(value) for value in answer.values.values()]
        return replace(answer, raw_response=TASKS[answer.task].answer.write(times))


def read_around(config: EvalConfig, tasks: Sequence[str]) -> Around | None:
    """What `around=` names; None where it names nothing.

    Raises ConfigError for tasks that have no times, and PredictionError for answers that are not there.
    """
    if config.around is None:
        return None
    others = [name for name in tasks if not isinstance(TASKS[name].answer, Timed)]
    if others:
        raise ConfigError(
            f"around={config.around} asks for times again, which {', '.join(others)} do not have; give "
            f"tasks={','.join(TASKS.task_set.of_kind(Timed))}"
        )
    times: dict[str, list[float]] = {}
    files = {}
    for name in tasks:
        path = prediction_path(config.around, name, model_name(config), config.split)
        for record in read_predictions(path, name):
            answered = [record[field] for field in TASKS[name].pred_fields]
            if "error" not in record and None not in answered:
                times.setdefault(video_name(record["video_path"]), []).extend(answered)
        files[str(path)] = file_hash(path)
    return Around({video: _span(own, config.around_seconds) for video, own in times.items()}, files)


def _span(times: list[float], margin: float) -> Span:
    """From the first of some times to the last and so many seconds more on both sides, in tenths."""
    return max(0, math.floor(10 * (min(times) - margin))) / 10, math.ceil(10 * (max(times) + margin)) / 10
