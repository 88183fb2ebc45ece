"""What analyze and serve share: which files are clips, which model looks at them,
and the options that say so.
"""

import argparse
import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from crashchat.analysis.clip import window_settings
from crashchat.analysis.windows import FirstPassSettings, WindowSettings
from crashchat.answering.cascade import LINGUISTIC, MAX_NEW_TOKENS, MAX_VISUAL_TOKENS, PERCEPTION, Cascade
from crashchat.answering.loading import load_cascade
from crashchat.answering.time_heads import check_fit, read_heads
from crashchat.checkpoints.adapters import CONFIG_FILE
from crashchat.command import add_task_set
from crashchat.config import ROOT
from crashchat.errors import CrashChatError
from crashchat.evaluation_settings import ENGINE_ADDRESS, Decode, EngineName
from crashchat.model.lora import base_of
from crashchat.tasks import TASKS, read_task_set, use
from crashchat.tasks.task import CRASH

VIDEO_SUFFIXES = set(
    ".mp4 .m4v .mov .mkv .webm .avi .ts .mts .m2ts .mpg .mpeg .flv .wmv .3gp .ogv .gif".split()
)


class AnalyzeError(CrashChatError):
    """A run that cannot start; the message says why and what to do."""


def find_clips(words: Iterable[str]) -> tuple[list[Path], list[Path]]:
    """(clips, passed over): the clips that files, folders and globs name, in their order, none twice, and the
    other files in the folders, but hidden ones.

    What names nothing, or is a folder that cannot be listed, stays as it is written, to be reported as a clip
    that failed.
    """
    found: dict[Path, None] = {}
    passed_over: dict[Path, None] = {}
    for word in words:
        path = Path(word)
        # os.path: the methods of Path raise OSError for a name that is too long.
        if os.path.isdir(path):
            videos, others = _files_below(path)
            found |= dict.fromkeys(videos or [path])
            passed_over |= dict.fromkeys(others)
        elif not os.path.exists(path) and glob.has_magic(word):
            found |= dict.fromkeys(Path(match) for match in sorted(glob.glob(word, recursive=True)) or [word])
        else:
            found[path] = None
    return list(found), [path for path in passed_over if path not in found]


def _files_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """(videos and folders that cannot be listed, other files), sorted."""
    unlisted: list[Path] = []
    below = os.walk(folder, onerror=lambda error: unlisted.append(Path(error.filename)))
    files = [Path(inside, name) for inside, _, names in below for name in names]
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    others = set(files).difference(videos)
    return sorted([*videos, *unlisted]), sorted(file for file in others if not file.name.startswith("."))


def default_model() -> tuple[Path, Path, Path]:
    """(model, linguistic, perception) of the demo: its two adapters, else its one for all tasks twice.

    Raises AnalyzeError where it has not been run.
    """
    demo = ROOT / "outputs" / "demo"
    base, trained = ROOT / "ckpt" / "tiny_base", demo / "train"
    two = (trained / f"homogeneous_{LINGUISTIC}", trained / f"homogeneous_{PERCEPTION}")
    one = (trained / "heterogeneous",) * 2
    for adapters in (two, one):
        if all((folder / CONFIG_FILE).is_file() for folder in adapters):
            return base, *adapters
    raise AnalyzeError(
        f"no --model given, and the demo's is not there ({demo}); run bash scripts/demo.sh first, or give "
        "--model (and adapters)"
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what looks at the clips, and how; shared with serve."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", type=Path, metavar="DIR", help="a base or merged checkpoint of any layout")
    group.add_argument(
        "--linguistic", type=Path, metavar="DIR", help="adapter that answers the four linguistic tasks"
    )
    group.add_argument(
        "--perception",
        type=Path,
        metavar="DIR",
        help="adapter that localizes (the same folder: one for all six)",
    )
    add_task_set(group)
    group.add_argument(
        "--vision-config",
        type=Path,
        metavar="FILE",
        help="the vision encoder's settings, where the model has none",
    )
    group.add_argument(
        "--engine",
        choices=get_args(EngineName),
        default="torch",
        help="what answers: the model in this process, or a vLLM server with what `crashchat convert --to "
        "vllm` wrote (default %(default)s)",
    )
    group.add_argument(
        "--engine-address", metavar="URL", default=ENGINE_ADDRESS, help="where that is (default %(default)s)"
    )
    group = parser.add_argument_group("frames and answers")
    group.add_argument("--fps", type=float, help="frames a second (default: what the model's folder says)")
    group.add_argument(
        "--max-frames", type=int, help="frames of a clip or window at most (default: the model folder's)"
    )
    group.add_argument(
        "--max-visual-tokens", type=int, default=MAX_VISUAL_TOKENS, help="(default %(default)s)"
    )
    group.add_argument(
        "--no-token-compression", action="store_true", help="keep tokens that do not change between frames"
    )
    group.add_argument(
        "--max-new-tokens",
        type=int,
        default=MAX_NEW_TOKENS,
        help="tokens of an answer at most (default %(default)s)",
    )
    group.add_argument(
        "--decode",
        choices=get_args(Decode),
        default="free",
        help="constrained: recognition says Yes or No, times always parse and lie within the clip (default "
        "%(default)s)",
    )
    group.add_argument(
        "--around",
        type=float,
        metavar="SECONDS",
        help="ask for times again, of the part so many seconds around the first answers (default: ask once)",
    )
    group.add_argument(
        "--heads",
        type=Path,
        metavar="FILE",
        help="with --around: that part is what the model's heads in FILE look at (crashchat find-heads)",
    )
    group = parser.add_argument_group("long recordings, in seconds")
    group.add_argument("--window", type=float, help="length of a window (default: max_frames / fps)")
    group.add_argument("--stride", type=float, help="from one window to the next (default: half a window)")
    group.add_argument(
        "--whole-up-to", type=float, default=60.0, help="shorter clips are not cut (default %(default)s)"
    )
    group.add_argument(
        "--merge-gap", type=float, default=1.0, help="findings this close are one event (default %(default)s)"
    )
    group.add_argument(
        "--skip-below",
        type=float,
        metavar="P",
        help="look through a recording first with few frames, and pass over windows where a crash is less "
        "likely than P (`crashchat score … --skip-below` says what that loses; default: look at all)",
    )
    group.add_argument(
        "--skip-fps",
        type=float,
        default=FirstPassSettings.fps,
        help="frames a second of that first look (default %(default)s)",
    )


def cascade_of(arguments: argparse.Namespace) -> tuple[Cascade, WindowSettings]:
    """The model and windows that the command line names.

    Raises AnalyzeError, CheckpointError or WindowError.
    """
    model, linguistic, perception = arguments.model, arguments.linguistic, arguments.perception
    if model is None:
        if linguistic or perception:
            raise AnalyzeError("adapters need the base they were trained on: give --model")
        model, linguistic, perception = default_model()
    for name in ("fps", "max_frames", "max_visual_tokens", "max_new_tokens", "window"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise AnalyzeError(f"--{name.replace('_', '-')} is {value}, expected more than 0")
    skip = arguments.skip_below
    first_pass = None if skip is None else FirstPassSettings(skip, arguments.skip_fps)
    heads = read_heads(arguments.heads) if arguments.heads else None
    if heads and arguments.engine == "vllm":
        raise AnalyzeError("a vLLM server does not tell what it attends to; leave --heads out")
    if arguments.task_set is None:
        use(read_task_set(None, linguistic, model))
    cascade = load_cascade(
        model,
        linguistic,
        perception,
        fps=arguments.fps,
        max_frames=arguments.max_frames,
        max_visual_tokens=arguments.max_visual_tokens,
        token_compression=not arguments.no_token_compression,
        max_new_tokens=arguments.max_new_tokens,
        decode=arguments.decode,
        vision_config=arguments.vision_config,
        engine_address=arguments.engine_address if arguments.engine == "vllm" else None,
    )
    windows = window_settings(
        cascade,
        arguments.window,
        arguments.stride,
        whole_up_to=arguments.whole_up_to,
        merge_gap=arguments.merge_gap,
        first_pass=first_pass,
        around=arguments.around,
        heads=heads,
    )
    if heads:
        text = base_of(cascade.answerer.model).model.language_model.config
        check_fit(heads, text.num_hidden_layers, count=text.num_attention_heads, path=arguments.heads)
    if first_pass and TASKS.of_fact(CRASH) is None:
        raise AnalyzeError(f"none of the tasks {', '.join(TASKS)} asks for a crash; leave --skip-below out")
    return cascade, windows
