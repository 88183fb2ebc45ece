"""Videos are read and their questions answered: in this process, or by the processes of a Ray cluster."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

from crashchat.answering.answerer import (
    MAX_VIDEOS,
    Answerer,
    Asked,
    fits_at_once,
    in_batches,
    size_of,
    tokens_at_once,
)
from crashchat.answering.constraints import Choices
from crashchat.answering.engines import VideoContext
from crashchat.answering.loading import open_engine
from crashchat.answering.outputs import Answer
from crashchat.answering.time_heads import TimeHeads
from crashchat.checkpoints.folders import video_settings_of
from crashchat.checkpoints.model_card import read_card, tell_cards
from crashchat.data.annotations import Question, VideoQAs
from crashchat.data.sources import load_questions
from crashchat.errors import CrashChatError
from crashchat.evaluation.choosing import draw_of
from crashchat.evaluation_settings import EvalConfig
from crashchat.fleet import Fleet, Lost
from crashchat.processes import (
    READ_AHEAD,
    Claims,
    choose_dtype,
    local_device,
    print_once,
    process_count,
    reader_count,
)
from crashchat.tasks import TASKS, TaskSet, use
from crashchat.video.feature_cache import FeatureCache
from crashchat.video.reading import open_feature_cache, read_visual_tokens
from crashchat.video.source import VideoError
from crashchat.video.tokens import VideoSettings, VisualTokens

# A video and its answers, or why there are none.
Answered = tuple[VideoQAs, list[Answer] | CrashChatError]


class Asking(NamedTuple):
    """What is to be asked, and how. open_questions: by the videos' names. heads: see answer_together."""

    videos: list[VideoQAs]
    open_questions: dict[str, list[Question]]
    config: EvalConfig
    heads: TimeHeads | None = None

    def of(self, video: VideoQAs) -> list[Asked]:
        """The questions on a video."""
        return [
            Asked(question.asked, question.task, draw_of(self.config, question))
            for question in self.open_questions[video.name]
        ]


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
    engine, tokenizer = open_engine(
        config.model,
        {"default": config.adapter} if config.adapter else {},
        max_new_tokens=config.max_new_tokens,
        address=config.engine_address if config.engine == "vllm" else None,
        device=device,
        vision_config=config.vision_config,
        dtype=choose_dtype(device, config.dtype),
        cache=lambda model: open_feature_cache(
            config.feature_cache, config.feature_cache_gb, model.model.vision_model, settings
        ),
    )
    choices: dict[str, Choices] = {}
    for task in config.training_answers:
        answers = {video.answer_of(task) or "" for video in load_questions(config, "train", [task])}
        choices[task] = Choices(tokenizer, sorted(answers))
    return Answerer(
        engine,
        tokenizer,
        settings,
        max_new_tokens=config.max_new_tokens,
        decode=config.decode,
        choices=choices,
        option_probabilities=config.option_probabilities,
    )


def answer_together(
    answerer: Answerer,
    together: list[tuple[list[Asked], VisualTokens | VideoError]],
    heads: TimeHeads | None,
) -> list[list[Answer] | CrashChatError]:
    """The answers to videos' questions, all at once; of a video that could not be read its error.

    heads: what times are read off, instead of being asked for.
    """
    readable = [(asked, visual) for asked, visual in together if isinstance(visual, VisualTokens)]
    context, questions = VideoContext([visual for _, visual in readable]), [asked for asked, _ in readable]
    answers: Iterator[list[Answer]] = iter(())
    if readable:
        answers = iter(
            answerer.read(context, questions, heads) if heads else answerer.answer(context, questions)
        )
    return [visual if isinstance(visual, VideoError) else next(answers) for _, visual in together]


def answers_here(config: EvalConfig, asking: Asking, store: dist.Store | None) -> Iterator[Answered]:
    """Videos that this process takes, with their answers. store: where processes take the next video from.

    Raises what load_answerer raises.
    """
    device = local_device()
    answerer = load_answerer(config, device)
    print_once(f"device {device}, dtype {answerer.model.dtype}, {process_count()} process(es)")
    readers = reader_count(config.num_workers)
    reader = DataLoader(
        VideoReader(asking.videos, answerer.settings, answerer.engine.feature_cache),
        batch_size=None,
        sampler=Claims(len(asking.videos), store),
        num_workers=readers,
        prefetch_factor=READ_AHEAD if readers else None,
    )
    for together in in_batches(reader, config.max_tokens_per_batch or tokens_at_once(device)):
        asked = [(asking.of(video), visual) for video, visual in together]
        answers = answer_together(answerer, asked, asking.heads)
        yield from zip((video for video, _ in together), answers, strict=True)


class RayReader:
    """Reads videos, in a process of its own."""

    def __init__(self, settings: VideoSettings):
        self.settings = settings

    def read(self, item: tuple[VideoQAs, list[Asked]]) -> tuple[int, VisualTokens | VideoError]:
        """(visual tokens, the video as it was read)"""
        _, visual = VideoReader([item[0]], self.settings)[0]
        return size_of(visual), visual


class RayAnswerer:
    """Asks about videos that were read, in a process of its own. The model is loaded when it is first
    needed.
    """

    def __init__(self, config: EvalConfig, task_set: Path, heads: TimeHeads | None):
        use(TaskSet(task_set))
        self.config, self.heads = config, heads
        self._loaded: Answerer | None = None

    def answerer(self) -> Answerer:
        """The configured model."""
        self._loaded = self._loaded or load_answerer(self.config, local_device())
        return self._loaded

    def limit(self) -> int:
        """Visual tokens that are answered at once."""
        return self.config.max_tokens_per_batch or tokens_at_once(self.answerer().device)

    def answer(
        self, items: list[tuple[VideoQAs, list[Asked]]], *visuals: VisualTokens | VideoError
    ) -> list[list[Answer] | CrashChatError]:
        """See answer_together."""
        asked = [questions for _, questions in items]
        return answer_together(self.answerer(), list(zip(asked, visuals, strict=True)), self.heads)


def answers_on_ray(config: EvalConfig, asking: Asking) -> Iterator[Answered]:
    """All videos, with their answers, as the processes of the cluster that config.ray names give them.

    Raises FleetError and what load_answerer raises.
    """
    assert config.ray is not None
    with Fleet(config.ray) as fleet:
        answerers = fleet.open_answerers(RayAnswerer, config, TASKS.task_set.path, asking.heads)
        limit = fleet.ask(answerers, "limit")
        print(fleet)
        rounds = fleet.spread(
            [(video, asking.of(video)) for video in asking.videos],
            (RayReader, video_settings_of(config.model, config)),
            answerers,
            fits=partial(fits_at_once, limit=limit),
            most=MAX_VIDEOS,
        )
        for members, answers in rounds:
            videos = [asking.videos[number] for number in members]
            if isinstance(answers, Lost):
                yield from ((video, VideoError(video.path, str(answers))) for video in videos)
            else:
                yield from zip(videos, answers, strict=True)
