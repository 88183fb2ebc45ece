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

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from crashchat.answering.answerer import (
    Answerer,
    Asked,
    VideoContext,
    in_batches,
    load_with_adapters,
    tokens_at_once,
)
from crashchat.answering.constraints import Choices
from crashchat.answering.outputs import Answer
from crashchat.checkpoints.folders import video_settings_of
from crashchat.checkpoints.model_card import read_card, tell_cards
from crashchat.command import run_command
from crashchat.config import save_config
from crashchat.data.annotations import Question, VideoQAs, annotation_paths, load_annotations
from crashchat.data.datasets import describe_use
from crashchat.data.journals import PredictionJournal, done_ids, find_journals, journal_path, merge_journals
from crashchat.data.manifests import manifest_path
from crashchat.data.predictions import make_record, prediction_path
from crashchat.data.truth import by_name, read_crash_starts
from crashchat.evaluation.manifest import Evaluation, model_name, weights_hashes
from crashchat.files import held
from crashchat.model.lora import base_of
from crashchat.processes import (
    READ_AHEAD,
    Claims,
    choose_dtype,
    join_processes,
    local_device,
    print_once,
    process_count,
    rank,
    reader_count,
)
from crashchat.settings import EvalConfig
from crashchat.tasks import TASKS
from crashchat.video.feature_cache import FeatureCache
from crashchat.video.reading import open_feature_cache, read_visual_tokens
from crashchat.video.source import VideoError
from crashchat.video.tokens import VideoSettings, VisualTokens

RESOLVED_CONFIG = "eval_config.yaml"
# Settings that may differ when a run goes on: they change what is asked first and how fast, not the answers.
MAY_DIFFER = {
    "num_workers", "feature_cache", "feature_cache_gb", "output_dir", "limit", "tasks", "seed",
    "max_tokens_per_batch",
}  # fmt: skip


class VideoReader(Dataset):
    """Videos, read ahead of the model; one that cannot be read is handed on as its VideoError,
    to be recorded.
    """

    def __init__(
        self, videos: list[VideoQAs], settings: VideoSettings, feature_cache: FeatureCache | None = None
    ):
        self.videos = videos
        self.settings = settings
        self.feature_cache = feature_cache

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> tuple[VideoQAs, VisualTokens | VideoError]:
        video = self.videos[index]
        try:
            return video, read_visual_tokens(str(video.path), self.settings, self.feature_cache)
        except VideoError as error:
            return video, error


def load_answerer(config: EvalConfig, device: torch.device) -> Answerer:
    """Everything it takes to ask the configured model.

    Raises CheckpointError, ConfigError and AnnotationError.
    """
    settings = video_settings_of(config.model, config)
    tell_cards({folder: read_card(folder) for folder in filter(None, (config.model, config.adapter))})
    adapters = {"default": config.adapter} if config.adapter else {}
    model, tokenizer = load_with_adapters(
        config.model, adapters, device, config.vision_config, dtype=choose_dtype(device, config.dtype)
    )
    choices: dict[str, Choices] = {}
    for task in config.training_answers:
        paths = annotation_paths(config.data_dir, [task], "train")
        answers = {video.answer_of(task) or "" for video in load_annotations(paths, config.data_dir, [task])}
        choices[task] = Choices(tokenizer, sorted(answers))
    return Answerer(
        model,
        tokenizer,
        settings,
        max_new_tokens=config.max_new_tokens,
        decode=config.decode,
        choices=choices,
        feature_cache=open_feature_cache(
            config.feature_cache, config.feature_cache_gb, base_of(model).model.vision_model, settings
        ),
    )


def _task_of(question: Question) -> str:
    assert question.task is not None, "load_annotations was asked for the tasks' questions alone"
    return question.task


def record_of(
    video: VideoQAs,
    question: Question,
    answer: Answer | VideoError,
    starts: dict[str, float],
    config: EvalConfig,
) -> dict:
    """The prediction record of one answered (or failed) question.

    starts: annotated crash starts, as scoring needs them.
    """
    given = None if isinstance(answer, VideoError) else answer
    task = TASKS[_task_of(question)]
    return make_record(
        task,
        question.data_id,
        video_path=str(config.data_dir / video.name),
        prompt=question.text,
        raw_response=given.raw_response if given else "",
        answer=question.answer,
        source=video.source,
        error=None if given else str(answer),
        crash_start=starts.get(Path(video.name).name) if task.name == "pre_crash_localization" else None,
        crash_probability=given.crash_probability if given else None,
        model=model_name(config),
    )


def evaluate(config: EvalConfig) -> list[Path]:
    """Ask all configured tasks of a split; returns the prediction files. Resumes what a killed run left.

    Raises FolderError where another run answers one of the tasks with a model of this name; AnnotationError
    for annotations that cannot be used, two videos of one file name among them.
    """
    store = join_processes()
    paths = config.annotation_files.get(config.split) or annotation_paths(
        config.data_dir, config.tasks, config.split
    )
    annotated = load_annotations(paths, config.data_dir, config.tasks)
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
    with contextlib.ExitStack() as stack:
        if rank() == 0:  # has the journals for all processes
            for path in files.values():
                stack.enter_context(held(path.with_name(f".{path.name}.lock"), str(path)))
        dataset = describe_use(config.data_dir, paths, videos, config.split)
        _answer(Evaluation(config, dataset, weights_hashes(config)), videos, files, store)
    return list(files.values())


def _answer(
    evaluation: Evaluation, videos: list[VideoQAs], files: dict[str, Path], store: dist.Store | None
) -> None:
    """Ask what no journal holds yet, and make each task's journals its prediction file, with a manifest.

    store: where processes take the next video from.
    """
    config, first, processes = evaluation.config, rank() == 0, process_count()
    device = local_device()
    run = config.model_dump(mode="json", exclude_none=True, exclude=MAY_DIFFER)
    run["weights"] = evaluation.weights  # written anew before the run goes on, they are another model's
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
        answerer = load_answerer(config, device)
        print_once(f"device {device}, dtype {answerer.model.dtype}, {processes} process(es)")
        intervals = config.data_dir / TASKS["crash_localization"].annotation_file(config.split)
        starts = read_crash_starts(intervals) if intervals.is_file() else {}
        journals = {task: PredictionJournal(journal_path(path, rank()), run) for task, path in files.items()}
        readers = reader_count(config.num_workers)
        reader = DataLoader(
            VideoReader(left, answerer.settings, answerer.feature_cache),
            batch_size=None,
            sampler=Claims(len(left), store),
            num_workers=readers,
            prefetch_factor=READ_AHEAD if readers else None,
        )
        progress = tqdm(total=-(-len(left) // processes), desc="videos", disable=None if first else True)
        for together in in_batches(reader, config.max_tokens_per_batch or tokens_at_once(device)):
            readable = [(video, visual) for video, visual in together if isinstance(visual, VisualTokens)]
            asked = [
                [Asked(question.text, question.task) for question in open_questions[video.name]]
                for video, _ in readable
            ]
            answers = (
                answerer.answer(VideoContext([visual for _, visual in readable]), asked) if readable else []
            )
            answers_on: dict[str, Sequence[Answer | VideoError]] = {
                video.name: given for (video, _), given in zip(readable, answers, strict=True)
            }
            for video, visual in together:
                questions = open_questions[video.name]
                if isinstance(visual, VideoError):
                    print(f"\nwarning: {visual}", file=sys.stderr)
                    answers_on[video.name] = [visual] * len(questions)
                for question, given in zip(questions, answers_on[video.name], strict=True):
                    journals[_task_of(question)].append(
                        record_of(video, question, answer=given, starts=starts, config=config)
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
