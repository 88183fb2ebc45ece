"""What was annotated, as prediction files are held against it.

Prediction files and annotations are joined by the videos' file names: the folder in front of a name differs
from machine to machine.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from crashchat.data.annotations import AnnotationError, Question, VideoQAs, load_annotations
from crashchat.data.manifests import Manifest
from crashchat.data.predictions import PredictionError, first_few, video_name
from crashchat.data.sources import SPLITS, load_sources, questions_hash, with_columns
from crashchat.data_settings import DataSource
from crashchat.errors import abbreviate
from crashchat.json_files import checked
from crashchat.parts import whole_name
from crashchat.provenance import file_hash
from crashchat.tasks import TASKS, Task, question_text


def by_name(videos: Iterable[VideoQAs]) -> dict[str, VideoQAs]:
    """{file name: video}. Raises AnnotationError where two videos have one file name."""
    found: dict[str, VideoQAs] = {}
    for video in videos:
        other = found.setdefault(video_name(video.name), video)
        if other is not video:
            raise AnnotationError(
                f"two annotated videos are called {video_name(video.name)} ({other.name}, {video.name}); "
                "predictions are joined to annotations by file name: rename one of them"
            )
    return found


@dataclass(frozen=True)
class Truth:
    """The annotated questions of one task.

    files: the annotation files, {path: SHA-256}. questions: {video file name: (the video, its question)}.
    starts: {video file name: annotated crash start in seconds} for a task that is scored by it, None where
    that is not known.
    """

    task: Task
    files: dict[str, str]
    questions: dict[str, tuple[VideoQAs, Question]]
    starts: dict[str, float] | None

    def check(self, path: Path, records: list[dict]) -> list[str]:
        """The annotated videos that no record is about.

        Raises PredictionError that names the records of `path` which are about another video, or say
        something else than was annotated.
        """
        answered = {video_name(record["video_path"]) for record in records}
        unknown = sorted(answered - self.questions.keys())
        if unknown:
            raise PredictionError(
                f"{path}: {len(unknown)} records are about videos not in {self.where} "
                f"({first_few(unknown)}); another split, or another data folder?"
            )
        faults = [
            f"record {index} ({video_name(record['video_path'])}) has {fault}"
            for index, record in enumerate(records)
            if (fault := self._fault(record))
        ]
        if faults:
            raise PredictionError(
                f"{path}: {len(faults)} of {len(records)} records differ from {self.where}: "
                f"{first_few(faults)}; take the file as it was written, or name the annotations that it was "
                "made from"
            )
        return sorted(self.questions.keys() - answered)

    @property
    def where(self) -> str:
        """The annotation files, for a message."""
        return ", ".join(self.files)

    def _fault(self, record: dict) -> str | None:
        """The first field of a record that is not as annotated, and what is annotated."""
        name = video_name(record["video_path"])
        video, question = self.questions[name]
        expected: dict[str, object] = self.task.ground_truth(question.answer)
        expected["data_id"] = (
            str(question.data_id) if isinstance(record["data_id"], str) else question.data_id
        )
        found = {key: record[key] for key in expected}
        # What a file leaves out it does not say wrongly.
        if record["prompt"]:
            found["prompt"], expected["prompt"] = question_text(record["prompt"]), question.asked
        if record.get("source"):
            found["source"], expected["source"] = record["source"], video.source
        if record.get("crash_start") is not None and self.starts is not None:
            found["crash_start"] = record["crash_start"]
            expected["crash_start"] = self.starts.get(whole_name(name))
        for key, value in found.items():
            if _stripped(value) != _stripped(expected[key]):
                return f"{key} = {abbreviate(value, 60)}, annotated {abbreviate(expected[key], 60)}"
        return None


def _stripped(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


@dataclass
class Annotations:
    """Where the questions of a split and their answers are looked for; each file is read once.

    data_dir: the folder of the usual annotation files. split: train, val or test, None where not known.
    file: takes their place; crash_file: takes the place of the usual file that says when crashes begin. keep:
    further columns that are kept with the questions. A manifest whose run read the sources of a config has
    them read again instead.
    """

    data_dir: Path
    split: str | None
    file: Path | None = None
    crash_file: Path | None = None
    keep: tuple[str, ...] = ()
    _read: dict[tuple, list[VideoQAs]] = field(default_factory=dict, repr=False)

    def files(self, task_name: str, manifest: Manifest | None = None) -> list[Path]:
        """The annotation files of a task: those a manifest names or the usual one, where they are there."""
        if self.file is not None:
            return [self.file]
        if sources := self._sources(manifest):
            return [path for source in sources for path in source.path]
        usual = [TASKS[task_name].annotation_file(self.split)] if self.split else []
        asked = list(manifest.dataset.annotations) if manifest else usual
        names = usual if usual and usual[0] in asked else asked
        return [path for name in names if (path := self.data_dir / name).is_file()]

    def expected_file(self, task_name: str) -> str:
        """The annotation file of a task that would be taken, for a message."""
        if self.split is None:
            return f"file of its split in {self.data_dir}: its name does not say which split it is of"
        return str(self.file or self.data_dir / TASKS[task_name].annotation_file(self.split))

    def videos(
        self, task_name: str, manifest: Manifest | None = None, with_context: bool = False
    ) -> list[VideoQAs]:
        """The videos that were annotated for a task; none where there is no file.

        with_context: the questions as the task set asks them with what is known of the clips. Raises
        AnnotationError for a file that cannot be used.
        """
        context = tuple(TASKS.task_set.context) if with_context else ()
        if sources := self._sources(manifest):
            return self._of_sources(sources, task_name, context)
        return self._load(self.files(task_name, manifest), task_name, context)

    def _sources(self, manifest: Manifest | None) -> list[DataSource]:
        """The sources that a run read, where it read some and no file takes their place."""
        given = manifest.settings.get("data") if manifest and self.file is None else None
        where = "settings.data of the manifest"
        return checked(list[DataSource], given, where, AnnotationError) if given else []

    def _of_sources(
        self, sources: list[DataSource], task_name: str | None, context: tuple[str, ...] = ()
    ) -> list[VideoQAs]:
        key = ("sources", task_name, context)
        if key not in self._read and self.split in SPLITS:
            kept = [with_columns(source, self.keep) for source in sources]
            tasks = None if task_name is None else [task_name]
            self._read[key] = load_sources(kept, self.split, self.data_dir, tasks, context=context)
        return self._read.get(key, [])

    def _load(self, files: list[Path], task_name: str, context: tuple[str, ...] = ()) -> list[VideoQAs]:
        if not files:
            return []
        key = (*files, task_name, context)
        if key not in self._read:
            self._read[key] = load_annotations(files, self.data_dir, [task_name], self.keep, context=context)
        return self._read[key]

    def starts(self, task: Task, manifest: Manifest | None = None) -> dict[str, float] | None:
        """{video file name: annotated start in seconds of what a task's moments come before}; None where no
        file says it, or the task is not scored by it.

        Raises AnnotationError for a file that cannot be used.
        """
        if task.before is None:
            return None
        if self.crash_file is None and (sources := self._sources(manifest)):
            return crash_starts(self._of_sources(sources, None), task)
        folder = self.file.parent if self.file is not None else self.data_dir
        usual = folder / TASKS[task.before].annotation_file(self.split) if self.split else None
        file = self.crash_file or usual
        if file is None or not (self.crash_file or file.is_file()):
            return None
        return crash_starts(self._load([file], task.before), task)

    def truth(
        self, task_name: str, manifest: Manifest | None = None, with_context: bool = False
    ) -> Truth | None:
        """What was annotated for a task; None where there is no file. with_context: see videos.

        Raises AnnotationError for a file that cannot be used, or has two videos of one name.
        """
        files, task = self.files(task_name, manifest), TASKS[task_name]
        hubs = [source.title for source in self._sources(manifest) if source.hub is not None]
        if not hubs and not (files and all(path.is_file() for path in files)):
            return None
        videos = self.videos(task_name, manifest, with_context)
        questions = {
            name: (video, question) for name, video in by_name(videos).items() for question in video.questions
        }
        return Truth(
            task=task,
            files={str(path): file_hash(path) for path in files}
            | dict.fromkeys(hubs, questions_hash(videos)),
            questions=questions,
            starts=self.starts(task, manifest),
        )


def read_crash_starts(path: Path, task: Task) -> dict[str, float]:
    """{video file name: annotated start in seconds of what a task's moments come before} of an annotation
    file of that other task; none where there is no file, or the task is not scored by it.

    Raises AnnotationError when the file cannot be used, or when two of its videos have one file name.
    """
    if task.before is None or not path.is_file():
        return {}
    # The folder of the videos is of no matter here: they are never opened.
    return crash_starts(load_annotations([path], data_dir=".", tasks=[task.before]), task)


def crash_start_of(video: VideoQAs, task: Task) -> float | None:
    """The annotated start in seconds of what a task's moments come before; None where it is not annotated."""
    answer = video.answer_of(task.before) if task.before else None
    return next(iter(TASKS[task.before].ground_truth(answer).values())) if task.before and answer else None


def crash_starts(videos: Iterable[VideoQAs], task: Task) -> dict[str, float]:
    """The same of annotated videos that are already read; those without have none."""
    starts = {name: crash_start_of(video, task) for name, video in by_name(videos).items()}
    return {name: start for name, start in starts.items() if start is not None}
