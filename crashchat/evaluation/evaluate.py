"""Evaluation: annotations -> video -> vision -> sequence -> generate -> tasks' parser -> prediction files.

Run by scripts/eval/eval_video_*.sh through torchrun; alone, one process:

    crashchat evaluate configs/eval/all_tasks.yaml model=outputs/demo/merged/heterogeneous data_dir=data/demo

Videos are shared among the processes; each is decoded and encoded once for all its questions. Answers are
written as they are made: a killed run, started again, goes on where it stopped, and tries again the videos
that could not be read.
"""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist
from tqdm import tqdm

from crashchat.answering.outputs import Answer
from crashchat.answering.time_heads import TimeHeads
from crashchat.command import run_command
from crashchat.config import save_config
from crashchat.data.annotations import Question, VideoQAs
from crashchat.data.journals import PredictionJournal, done_ids, find_journals, journal_path, merge_journals
from crashchat.data.manifests import manifest_path
from crashchat.data.predictions import clip_name, make_record, prediction_path
from crashchat.data.sources import describe_questions, load_questions
from crashchat.data.truth import by_name, crash_starts, read_crash_starts
from crashchat.errors import CrashChatError
from crashchat.evaluation.around import Around, heads_for, of_one_model, read_around
from crashchat.evaluation.asking import Asking, answers_here, answers_on_ray
from crashchat.evaluation.manifest import Evaluation, model_name, weights_hashes
from crashchat.evaluation_settings import EvalConfig
from crashchat.files import delete_leftovers, held
from crashchat.fleet import FleetError
from crashchat.processes import join_processes, print_once, process_count, rank
from crashchat.tasks import TASKS

RESOLVED_CONFIG = "eval_config.yaml"
# Settings that may differ when a run goes on: they change what is asked first and how fast, not the answers.
MAY_DIFFER = {
    "num_workers", "feature_cache", "feature_cache_gb", "output_dir", "limit", "tasks", "seed",
    "max_tokens_per_batch", "engine_address",
    "ray",
}  # fmt: skip


def _task_of(question: Question) -> str:
    assert question.task is not None, "load_annotations was asked for the tasks' questions alone"
    return question.task


def record_of(
    video: VideoQAs,
    question: Question,
    answer: Answer | CrashChatError,
    starts: dict[str, dict[str, float]],
    config: EvalConfig,
    around: Around | None = None,
) -> dict:
    """The prediction record of one answered (or failed) question.

    starts: {task: annotated crash starts}, as its scoring needs them.
    """
    given = None if isinstance(answer, CrashChatError) else answer
    if around and given:
        given = around.moved(video, given)
    task = TASKS[_task_of(question)]
    record = make_record(
        task,
        question.data_id,
        video_path=str(video.path),
        prompt=question.asked,
        context=question.told,
        raw_response=given.raw_response if given else "",
        answer=question.answer,
        source=video.source,
        error=None if given else str(answer),
        crash_start=starts[task.name].get(clip_name(video.name)),
        crash_probability=given.crash_probability if given else None,
        option_probabilities=given.option_probabilities if given else None,
        model=model_name(config),
    )
    if around and (part := around.part_of(video)):
        record["part"] = list(part)
    return record


def annotated_starts(config: EvalConfig, tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """{task: the annotated crash starts that its records carry}; none for one that is not scored by them.

    Raises AnnotationError for annotations that cannot be used.
    """
    found: dict[str, dict[str, float]] = {}
    for task in (TASKS[name] for name in tasks):
        if task.before is None:
            found[task.name] = {}
        elif config.data:
            found[task.name] = crash_starts(load_questions(config, config.split, []), task)
        else:
            usual = config.data_dir / TASKS[task.before].annotation_file(config.split)
            found[task.name] = read_crash_starts(usual, task)
    return found


def evaluate(config: EvalConfig) -> list[Path]:
    """Ask all configured tasks of a split; returns the prediction files. Resumes what a killed run left.

    Raises FolderError where another run answers one of the tasks with a model of this name; AnnotationError
    for annotations that cannot be used, two videos of one file name among them.
    """
    if config.ray and process_count() > 1:
        raise FleetError(f"ray={config.ray} shares the work by itself; start one process, without torchrun")
    store = join_processes()
    annotated = load_questions(config, config.split, config.tasks)
    by_name(annotated)  # answers to two videos of one name could not be scored
    videos = annotated[: config.limit]
    if len(videos) < len(annotated):
        print_once(
            f"limit={config.limit}: {len(videos)} of {len(annotated)} videos are asked about; a partial run "
            "is scored and compared with --partial"
        )
    tasks = [name for name in TASKS if any(video.answer_of(name) is not None for video in videos)]
    files = {
        task: prediction_path(config.output_dir, task, model_name(config), config.split) for task in tasks
    }
    around, heads = read_around(config, tasks), heads_for(config, tasks)
    with contextlib.ExitStack() as stack:
        if rank() == 0:  # has the journals for all processes
            for path in files.values():
                stack.enter_context(held(path.with_name(f".{path.name}.lock"), str(path)))
                delete_leftovers(path.parent, of=path.stem)
        dataset = describe_questions(config, config.split, config.tasks, videos)
        evaluation = Evaluation(config, dataset, weights_hashes(config))
        if heads:
            of_one_model(heads, evaluation.weights, config)
        _answer(evaluation, videos, files, store=store, around=around, heads=heads)
    return list(files.values())


def _run_of(evaluation: Evaluation, around: Around | None, heads: TimeHeads | None) -> dict:
    """What a run that goes on must have in common with the one before."""
    config = evaluation.config
    drawn = {"seed"} if config.temperature is not None else set()  # then another one gives other answers
    run = config.model_dump(mode="json", exclude_none=True, exclude=MAY_DIFFER - drawn)
    run["weights"] = evaluation.weights  # written anew before the run goes on, they are another model's
    if around:
        run["around"] = around.files
    if heads:
        run["heads"] = heads.sha256
    return run


def _answer(
    evaluation: Evaluation,
    videos: list[VideoQAs],
    files: dict[str, Path],
    store: dist.Store | None,
    around: Around | None,
    heads: TimeHeads | None,
) -> None:
    """Ask what no journal holds yet, and make each task's journals its prediction file, with a manifest.

    store: where processes take the next video from. around: which parts of the videos are asked about. heads:
    what times are read off, instead of being asked for.
    """
    config, first, processes = evaluation.config, rank() == 0, process_count()
    run = _run_of(evaluation, around, heads)
    expected = {
        task: [question.data_id for video in videos for question in video.questions if question.task == task]
        for task in files
    }
    if processes > 1:
        dist.barrier()  # the first process has the journals: no other run adds to them
    done = {task: done_ids(path, run) for task, path in files.items()}
    open_questions = {
        video.name: [
            question for question in video.questions if question.data_id not in done[_task_of(question)]
        ]
        for video in videos
    }
    left = [video for video in videos if open_questions[video.name]]
    if processes > 1:
        dist.barrier()  # every process has read the journals before any adds to one
    if first:
        resumed = f", {len(videos) - len(left)} answered before" if len(left) < len(videos) else ""
        print(
            f"{len(videos)} videos, {sum(map(len, expected.values()))} questions on "
            f"{', '.join(files)}{resumed}"
        )

    if left:
        starts = annotated_starts(config, list(files))
        journals = {task: PredictionJournal(journal_path(path, rank()), run) for task, path in files.items()}
        shown = [around.shown(video) for video in left] if around else left
        asked = Asking(shown, open_questions, config, heads)
        named = {video.name: video for video in left}
        rounds = answers_on_ray(config, asked) if config.ray else answers_here(config, asked, store)
        progress = tqdm(total=-(-len(left) // processes), desc="videos", disable=None if first else True)
        for seen, answers in rounds:
            video = named[seen.name]
            questions = open_questions[video.name]
            each: Sequence[Answer | CrashChatError]
            if isinstance(answers, CrashChatError):
                print(f"\nwarning: {answers}", file=sys.stderr)
                each = [answers] * len(questions)
            else:
                each = answers
            for question, given in zip(questions, each, strict=True):
                journals[_task_of(question)].append(
                    record_of(video, question, answer=given, starts=starts, config=config, around=around)
                )
            progress.update()
        progress.close()
        for journal in journals.values():
            journal.close()

    if processes > 1:
        dist.barrier()
    if first:
        for task, path in files.items():
            if find_journals(path):
                _write(evaluation, task, path, expected=expected[task], anew=bool(left))


def _write(evaluation: Evaluation, task: str, path: Path, expected: list[int], anew: bool) -> None:
    """Make a task's journals its prediction file; anew: they hold more than when it was last written."""
    if anew:
        # A run that is killed between the two writes leaves no manifest, rather than one of another file.
        manifest_path(path).unlink(missing_ok=True)
    records = merge_journals(find_journals(path), path, expected)
    failed = sum("error" in record for record in records)
    unparsed = sum(
        any(record[field] is None for field in TASKS[task].pred_fields) and "error" not in record
        for record in records
    )
    print(f"{path}: {len(records)} records, {unparsed} do not parse, {failed} of videos that cannot be read")
    save_config(evaluation.config, path.with_name(f"{path.stem}_{RESOLVED_CONFIG}"))
    if not manifest_path(path).exists():
        evaluation.state(path, task, len(records))


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return run_command("evaluate", __doc__, kind=EvalConfig, work=evaluate, argv=argv)
