r"""Find the attention heads that look at the times that are asked for, on annotated clips.

    crashchat find-heads configs/eval/all_tasks.yaml model=ckpt/tiny_base split=train limit=100 \
        adapter=outputs/demo/train/heterogeneous data_dir=data/demo output_dir=outputs/demo/heads

writes time_heads.json. With `times_from=` it, `crashchat evaluate` reads times off these heads instead of
asking for them, and with `around=` what that wrote, it asks for them on the part of each clip that the heads
look at (docs/scores.md). Nothing is trained.
"""

import sys
from pathlib import Path
from typing import cast

from torch.utils.data import DataLoader
from tqdm import tqdm

from crashchat.answering.answerer import Answerer, Asked
from crashchat.answering.engines import VideoContext
from crashchat.answering.time_heads import Sample, TaskHeads, TimeHeads, choose_heads
from crashchat.command import run_command
from crashchat.config import ConfigError
from crashchat.data.annotations import VideoQAs
from crashchat.data.sources import load_questions
from crashchat.evaluation.asking import VideoReader, load_answerer
from crashchat.evaluation.manifest import weights_hashes
from crashchat.evaluation_settings import EvalConfig
from crashchat.files import write_json_atomic
from crashchat.processes import local_device, reader_count
from crashchat.tasks import TASKS
from crashchat.tasks.quantities import Timed
from crashchat.video.source import VideoError
from crashchat.video.tokens import VisualTokens

HEADS_FILE = "time_heads.json"


def samples_of(answerer: Answerer, video: VideoQAs, visual: VisualTokens) -> dict[str, Sample]:
    """{task: what its question on a clip attends to, and the annotated times}."""
    asked = [Asked(one.asked, one.task) for one in video.questions]
    (shares,) = answerer.engine.attended(VideoContext([visual]), [[one.text for one in asked]], None)
    found = {}
    for question, own in zip(video.questions, shares, strict=True):
        assert question.task is not None, "only tasks' questions were loaded"
        truth = TASKS[question.task].answer.truth(question.answer)
        times = [cast(float, time) for time in truth.values()]
        found[question.task] = Sample(own.numpy(), answerer.settings.frame_ends(visual), times)
    return found


def find_heads(config: EvalConfig) -> Path:
    """Choose heads for all configured tasks that have times; returns the file.

    Raises ConfigError for the split that is scored and for tasks without times, VideoError where no clip can
    be read, EngineError for engine=vllm, and what load_answerer raises.
    """
    if config.split == "test":
        raise ConfigError(
            "split=test: heads would be chosen on the clips that are scored; give split=train or split=val"
        )
    tasks = [task for task in TASKS.task_set.of_kind(Timed) if task in (config.tasks or TASKS)]
    if not tasks:
        raise ConfigError(f"tasks={','.join(config.tasks)}: none of them has times")
    videos = load_questions(config, config.split, tasks)[: config.limit]
    answerer = load_answerer(config, local_device())
    reader = DataLoader(
        VideoReader(videos, answerer.settings, answerer.engine.feature_cache),
        batch_size=None,
        num_workers=reader_count(config.num_workers),
    )
    samples: dict[str, list[Sample]] = {}
    errors = []
    for video, visual in tqdm(reader, desc="clips", disable=None):
        if isinstance(visual, VideoError):
            errors.append(visual)
            print(f"warning: {visual}", file=sys.stderr)
            continue
        for task, sample in samples_of(answerer, video, visual).items():
            samples.setdefault(task, []).append(sample)
    if not samples:
        raise errors[0] if errors else ConfigError(f"no clip of split={config.split} has {', '.join(tasks)}")
    chosen = {task: choose_heads(task, own) for task, own in samples.items()}
    path = config.output_dir / HEADS_FILE
    found = TimeHeads(weights=weights_hashes(config), split=config.split, tasks=chosen)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, found.as_json())
    for task, one in chosen.items():
        print(f"{task}: {_told(task, one)}")
    print(f"saved to {path}")
    return path


def _told(task: str, found: TaskHeads) -> str:
    heads = ", ".join(f"{one.head} of layer {one.layer} ({one.lift:.2f} times)" for one in found.heads)
    moment = len(TASKS[task].answer.fields) == 1
    score = f"{-found.score:.2f} s off" if moment else f"mIoU {found.score:.3f}"
    return f"on {found.clips} clips {score} with heads {heads}"


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return run_command("find-heads", __doc__, kind=EvalConfig, work=find_heads, argv=argv)
