"""Pairs of answers, of which people or rules preferred one: annotation files with one key more.

{"video": ["videos/cap_21_008073.mp4"],
 "conversations": [{"from": "human", "value": "<video>\\n…"}, {"from": "gpt", "value": "the better answer"}],
 "rejected": "the worse answer"}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crashchat.data.annotations import Question, VideoQAs
from crashchat.data.records import AnnotationError, parse_record, read_records
from crashchat.data.tables import as_text
from crashchat.errors import abbreviate, listed
from crashchat.tasks import TASKS, task_of_prompt


@dataclass(frozen=True, slots=True)
class Pair(Question):
    """A question with the preferred answer, as `answer`, and another one."""

    rejected: str = ""


def load_pairs(paths: Sequence[str | Path], data_dir: str | Path, context: bool = True) -> list[VideoQAs]:
    """Read files of pairs and join them by video; each of a video's questions is a Pair. context: whether
    they are asked with what the task set tells of the clips.

    Raises AnnotationError that lists the records that cannot be used, pairs of one and the same answer among
    them.
    """
    videos: dict[str, VideoQAs] = {}
    problems: list[str] = []
    for path in map(Path, paths):
        for index, record in enumerate(read_records(path)):
            try:
                name, text, answer, source = parse_record(record)
                rejected = record.get("rejected")
                if not isinstance(rejected, str) or not rejected.strip():
                    raise ValueError(f"'rejected' is {abbreviate(rejected)}, expected a text")
                if rejected.strip() == answer:
                    raise ValueError(f"both answers are {abbreviate(answer)}")
                task = task_of_prompt(text)
                values = {column: as_text(record.get(column)) for column in TASKS.task_set.context if context}
                told = TASKS.task_set.told(task.name, values) if task and context else ""
            except ValueError as error:
                problems.append(f"{path}, record {index}: {error}")
                continue
            video = videos.setdefault(name, VideoQAs(name, Path(data_dir) / name, source))
            video.questions.append(
                Pair(text, answer, task.name if task else None, index, told=told, rejected=rejected.strip())
            )
    if problems:
        raise AnnotationError(f"{len(problems)} pair(s) cannot be used:{listed(problems)}")
    if not videos:
        raise AnnotationError(f"no pair in {', '.join(map(str, paths))}")
    return list(videos.values())
