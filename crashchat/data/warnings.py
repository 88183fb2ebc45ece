"""The questions of early warnings: a clip's windows with what is true of each, as released records."""

from collections.abc import Mapping
from pathlib import Path

from crashchat.data.annotations import Question, VideoQAs
from crashchat.data.importing import record_of
from crashchat.parts import part_name
from crashchat.tasks import TASKS, Task
from crashchat.tasks.early_warning import EarlyWarning


def warning_tasks() -> list[tuple[Task, EarlyWarning]]:
    """The tasks in use that ask for warnings, and the kinds of their answers."""
    return [(task, task.answer) for task in TASKS.values() if isinstance(task.answer, EarlyWarning)]


def warning_records(
    task: Task,
    video: VideoQAs,
    *,
    seconds: float,
    crash_start: float | None,
    reason: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[dict]:
    """A record for each window of a clip.

    seconds: how long the clip lasts. crash_start: where its crash begins, in seconds; None where it has none.
    reason: what the crash is, where answers name it. columns: what else is known of the clip.
    """
    kind = task.answer
    assert isinstance(kind, EarlyWarning) and task.prompt is not None
    kept = tuple((columns or {}).items())
    records = []
    for start, end in kind.windows(seconds, crash_start):
        part = VideoQAs(part_name(video.name, start, end), Path(), video.source)
        answer = kind.answer_at(end, crash_start, reason)
        records.append(record_of(part, Question(task.prompt, answer, task=task.name, data_id=0, kept=kept)))
    return records
