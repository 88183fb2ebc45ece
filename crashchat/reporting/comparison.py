"""One comparison: several runs' answers to the same questions, and all that its tables,
pictures and clips are made of.

Every file is read once, when the comparison is made; what follows only looks.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from crashchat.data.annotations import VideoQAs
from crashchat.data.datasets import describe_use
from crashchat.data.predictions import Records, video_name
from crashchat.data.truth import Annotations
from crashchat.evaluation.score import scores
from crashchat.metrics.bootstrap import Difference, paired
from crashchat.metrics.by_kind import task_sums
from crashchat.metrics.sums import Sums, joined
from crashchat.metrics.text import NO_EXTRAS, Extras
from crashchat.parts import whole_name
from crashchat.reporting.about import About, make_about
from crashchat.reporting.blind_rows import blind_rows, training_videos
from crashchat.reporting.judged_rows import Verdicts, read_verdicts
from crashchat.reporting.runs import Run, asked_tasks, asked_videos, collect, remarks
from crashchat.reporting.stability import Stability, figures, stability_notes, stability_of
from crashchat.reporting.tables import Scores, Table
from crashchat.tasks import TASKS, Fact, Task
from crashchat.tasks.task import CRASH, CRASH_INTERVAL, DESCRIPTION

Key = TypeVar("Key")
# Tasks of these facts say a video's source, its kind and when its crash begins, whether they were asked or
# not.
FACTS: tuple[Fact, ...] = (CRASH, DESCRIPTION, CRASH_INTERVAL)


@dataclass(frozen=True)
class Comparison:
    """What was answered, what it scores, and what is known of the videos.

    about: what it is of and how it was made.
    data_dir, split: where the clips and annotations are, and which split was answered.
    runs: the prediction files of all runs of each row, the first of which the others are compared with;
    models: the records of each row's first run; blind: answers made without looking.
    answered: the names of all videos that were asked about.
    notes: what a reader must know of them, a sentence each.
    sources, kinds: {video: where it comes from}, {video: the annotated description of what happens}, where
    that is known.
    verdicts: {prediction file: what a judge said of it}.
    sums: {row: {task: sums}} of all rows.
    """

    about: About
    data_dir: Path
    split: str
    runs: dict[str, list[Run]]
    models: Records
    blind: Records
    answered: set[str]
    notes: list[str]
    sources: dict[str, str]
    kinds: dict[str, str]
    verdicts: Verdicts
    sums: dict[str, dict[str, Sums]]

    @property
    def base(self) -> str:
        """The row that the others are compared with."""
        return next(iter(self.models))

    @property
    def records(self) -> Records:
        """The records of all runs of all rows, models first."""
        pooled = {
            name: {task: [record for run in runs for record in run[task].records] for task in runs[0]}
            for name, runs in self.runs.items()
        }
        return pooled | self.blind

    @property
    def tasks(self) -> list[str]:
        """The tasks that some row was asked, in TASKS' order."""
        return list(asked_tasks(self.models))

    @property
    def asked(self) -> Run:
        """{task: the first row's file that was asked it}; all rows were asked the same."""
        return {
            task: next(runs[0][task] for runs in self.runs.values() if task in runs[0]) for task in self.tasks
        }

    def mark_partial(self, tables: Iterable[Table]) -> None:
        """Have the title of each table say of how many of the annotated questions its figures are,
        where they are not of all.
        """
        parts = {task: file.share for task, file in self.asked.items() if file.share}
        for table in tables:
            shown = dict.fromkeys(task for *_, task, _ in table.columns if task in parts)
            partial = ", ".join(f"{TASKS[task].title} {parts[task]}" for task in shown)
            table.title += f" (partial: {partial})" if partial else ""

    def written(self) -> dict[str, dict[str, dict]]:
        """The scores with what is known of the prediction files that they are of, for JSON."""
        return {
            name: {
                task: found | self.asked[task].truth_facts() | self._of_runs(name, task)
                for task, found in row.items()
            }
            for name, row in self.scores.items()
        }

    def _of_runs(self, name: str, task: str) -> dict:
        """What is known of a row's runs: their files, a judge's figures, and how far their answers agree."""
        if name not in self.runs:
            return {}
        files = [run[task] for run in self.runs[name]]
        known = [
            file.file_facts() | ({"judge": self.verdicts[file.path]} if file.path in self.verdicts else {})
            for file in files
        ]
        steady = {"stability": figures(self.stability[name][task])} if name in self.stability else {}
        return {"files": known, **steady}

    @cached_property
    def stability(self) -> Stability:
        """How far the runs of a row agree, of the rows with several."""
        return stability_of(self.runs, self.sums)

    @cached_property
    def scores(self) -> Scores:
        """{row: {task: {metric: value}}} of all rows, strict, with the released figures inside."""
        return {name: {task: scores(one) for task, one in row.items()} for name, row in self.sums.items()}

    @cached_property
    def differences(self) -> dict[str, dict[str, dict[str, Difference]]]:
        """{model: {task: {metric: its difference to the base}}} of every other model."""
        base, *others = self.models
        return {
            name: {
                task: paired(self.sums[base][task], self.sums[name][task])
                for task in self.models[name]
                if task in self.models[base]
            }
            for name in others
        }


def make_comparison(
    rows: Mapping[str, Sequence[Path]],
    data_dir: Path,
    split: str = "test",
    extras: Extras = NO_EXTRAS,
    partial: bool = False,
    motion: bool = False,
    training_dir: Path | None = None,
    by: Sequence[str] = (),
) -> Comparison:
    """Read the rows, {name: a folder or file a run}, and the annotations of `split` and of training
    in data_dir, each file once. training_dir: the training annotations are there instead, where the rows
    learnt on another data set than they were asked about.

    partial: take rows that answered only a part of the annotated questions; motion: with the blind row that
    takes frame differences, for which every video is decoded; by: columns of the annotations that are kept
    with the questions. Raises ReportError, PredictionError,
    AnnotationError or MetricError for what cannot be used.
    """
    annotations = Annotations(data_dir, split, keep=tuple(by))
    runs = collect(rows, annotations, partial)
    models = {name: _records(of_row[0]) for name, of_row in runs.items()}
    facts = {fact: task for fact in FACTS if (task := TASKS.of_fact(fact))}
    needed = {*asked_tasks(models), *(task.name for task in facts.values())}
    asked = {name: annotated for name in TASKS if name in needed and (annotated := annotations.videos(name))}
    sources, kinds = _sources(facts.get(CRASH), annotations, models), {}
    if described := facts.get(DESCRIPTION):
        kinds = _known(
            ((video.name, video.answer_of(described.name)) for video in asked.get(described.name, ())),
            models,
            described.gt_fields[0],
        )
    training = training_videos(models, training_dir or data_dir)
    asked_about = asked_videos(models)
    blind, notes = blind_rows(
        models, training, data_dir=data_dir, asked_about=asked_about, sources=sources, motion=motion
    )
    known = {task: tuple(filter(None, (video.answer_of(task) for video in training))) for task in TASKS}
    starts = {name: annotations.starts(TASKS[name]) for name in asked_tasks(models)}
    sums: dict[str, dict[str, Sums]] = {}
    for name, of_row in runs.items():
        each = sum_rows(dict(enumerate(map(_records, of_row))), starts, extras=extras, known=known)
        sums[name] = {task: joined([run[task] for run in each.values()]) for task in models[name]}
    sums |= sum_rows(blind, starts, extras=extras, known=known)
    read = [file for task in asked for file in annotations.files(task)]
    used = describe_use(data_dir, read, _by_video(asked), split) if asked else None
    verdicts, said = read_verdicts(runs)
    return Comparison(
        about=make_about(rows, runs, used, data_dir=data_dir, split=split, videos=len(asked_about)),
        data_dir=data_dir,
        split=split,
        runs=runs,
        models=models,
        blind=blind,
        answered=set(asked_about),
        notes=[
            *([note] if (note := source_note(models, sources)) else []),
            *remarks(runs),
            *notes,
            *stability_notes(runs),
            *said,
        ],
        sources=sources,
        kinds=kinds,
        verdicts=verdicts,
        sums=sums,
    )


def _records(run: Run) -> dict[str, list[dict]]:
    return {task: file.records for task, file in run.items()}


def _by_video(asked: dict[str, list[VideoQAs]]) -> list[VideoQAs]:
    """The annotated videos of several files, each once with the questions of all."""
    videos: dict[str, VideoQAs] = {}
    for annotated in asked.values():
        for video in annotated:
            known = videos.setdefault(video.name, replace(video, questions=[]))
            known.questions.extend(video.questions)
    return list(videos.values())


def sum_rows(
    records: dict[Key, dict[str, list[dict]]],
    starts: Mapping[str, dict[str, float] | None] = MappingProxyType({}),
    extras: Extras = NO_EXTRAS,
    known: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> dict[Key, dict[str, Sums]]:
    """{row: {task: sums}} of all rows.

    starts: {task: annotated crash starts}, for moments before a crash that carry none of their own. known:
    the closed set of answers of each task, the training split's.
    """
    return {
        name: {
            task: task_sums(
                TASKS[task], answered, starts.get(task), replace(extras, known=known.get(task, ()))
            )
            for task, answered in row.items()
        }
        for name, row in records.items()
    }


def _sources(task: Task | None, annotations: Annotations, models: Records) -> dict[str, str]:
    """{video: where it comes from}, as the task that is asked of every video has it, or the records."""
    annotated = annotations.videos(task.name) if task else []
    return _known(((video.name, video.source) for video in annotated), models, "source")


def _known(annotated: Iterable[tuple[str, str | None]], records: Records, field: str) -> dict[str, str]:
    """{video: a fact of it}: as annotated, or as the records' `field` has it; a video without is left out."""
    facts = {video_name(name): value for name, value in annotated if value}
    for answered in asked_tasks(records).values():
        facts |= {video_name(record["video_path"]): record[field] for record in answered if record.get(field)}
    return {whole_name(name): value for name, value in facts.items()} | facts


def source_note(models: Records, sources: dict[str, str]) -> str | None:
    """That the source of a video gives recognition away, where it does in these answers' videos."""
    labels: dict[str, Counter] = {}
    task = TASKS.of_fact(CRASH)
    if task is None:
        return None
    (truth, *_) = task.gt_fields
    for record in asked_tasks(models).get(task.name, []):
        source = sources.get(video_name(record["video_path"]))
        if source is None:
            return None
        labels.setdefault(source, Counter())[record[truth]] += 1
    alike = {source: next(iter(counts)) for source, counts in labels.items() if len(counts) == 1}
    if len(alike) < len(labels) or set(alike.values()) != {"Yes", "No"}:
        return None
    sides = [
        ", ".join(f"{source} ({labels[source][label]})" for source in sorted(alike) if alike[source] == label)
        for label in ("Yes", "No")
    ]
    return (
        f"The source of a video alone gives recognition away here: all videos of {sides[0]} are crashes, "
        f"none of {sides[1]} is. Read recognition scores with this in mind."
    )
