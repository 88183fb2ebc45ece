"""Clips in, crash reports out: every clip through the cascade (cascade.py), long recordings window by window (windows.py).

    python -m crashchat analyze dashcam/ 'more/*.mp4' --out outputs/analysis
    python -m crashchat analyze clip.mp4 --jsonl - | jq .status

Writes <name>.json for each clip (analysis.schema.json says what is in it), its film strips, and report.html for all of them, into
--out. A file or glob is taken as it is, of a folder all video files below it. Without --model the model is ckpt/tiny_base with
what scripts/demo.sh trained. Exit code: 0 all clips done, 1 some failed (the report says which and why), 2 nothing could run.
"""

import argparse
import contextlib
import glob
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import get_args

from tqdm import tqdm

from crashchat.adapters import CONFIG_FILE
from crashchat.analysis import analyze_clip, blank_result, window_settings
from crashchat.cards import page_html
from crashchat.cascade import MAX_NEW_TOKENS, MAX_VISUAL_TOKENS, Cascade, load_cascade
from crashchat.config import Decode
from crashchat.errors import CrashChatError, exit_code
from crashchat.files import write_bytes_atomic, write_json_atomic, write_text_atomic
from crashchat.tasks import LINGUISTIC, PERCEPTION
from crashchat.windows import FAILED, WindowSettings

ROOT = Path(__file__).resolve().parents[1]
VIDEO_SUFFIXES = set(".mp4 .m4v .mov .mkv .webm .avi .ts .mts .m2ts .mpg .mpeg .flv .wmv .3gp .ogv".split())


class AnalyzeError(CrashChatError):
    """A run that cannot start; the message says why and what to do."""


def find_clips(words: Iterable[str]) -> list[Path]:
    """The clips that files, folders and globs name, in their order, none twice.

    What names nothing stays as it is written, to be reported as a clip that failed.
    """
    found: dict[Path, None] = {}
    for word in words:
        path = Path(word)
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES and not file.is_dir())
            found |= dict.fromkeys(inside or [path])
        elif not path.exists() and glob.has_magic(word):
            found |= dict.fromkeys(Path(match) for match in sorted(glob.glob(word, recursive=True)) or [word])
        else:
            found[path] = None
    return list(found)


def name_clips(paths: list[Path]) -> dict[Path, str]:
    """{path: name of its result files}: the file's own, with its folders where two share one."""
    same = Counter(path.stem for path in paths)
    names: dict[Path, str] = {}
    for path in paths:
        parts = [part for part in path.parts if part not in ("/", "..", ".")]
        name = path.stem if same[path.stem] == 1 else "__".join(parts)
        while name in names.values() or name in ("report", ""):
            name += "_"
        names[path] = name
    return names


def strip_paths(out: Path, result: dict) -> list[Path]:
    """Where a result's film strips lie: <name>.jpg, or <name>.event1.jpg … of a recording."""
    if len(result["windows"]) > 1:
        return [out / f"{result['name']}.event{number}.jpg" for number in range(1, len(result["events"]) + 1)]
    return [out / f"{result['name']}.jpg"] if result["windows"] else []


def _finished(path: Path, expected: dict) -> dict | None:
    """A result of an earlier run that is still good: of the same file, model and sampling, and not failed."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = ("format", "name", "path", "bytes", "model", "sampling")
    good = isinstance(result, dict) and all(result.get(key) == expected[key] for key in same)
    failed = good and (result["status"] == FAILED or any(window["error"] for window in result["windows"]))
    return result if good and not failed else None


def analyze(
    cascade: Cascade,
    paths: list[Path],
    windows: WindowSettings,
    out: Path | None,
    resume: bool = False,
    jobs: int = 2,
    tell: Callable[[dict], None] = lambda result: None,
) -> list[dict]:
    """Look at all clips; write their files and the report to `out` (None: nothing is written). tell: given each result.

    jobs: clips in work at a time: one is read while the model looks at another. resume: take over what an earlier run has done.
    Raises PredictionError where a journal to resume is of a run with another model or settings.
    """
    names = name_clips(paths)
    # A recording is one clip for a long time, so that parts of clips count.
    layout = "{desc}: {percentage:3.0f}%|{bar:20}| {n:.1f}/{total} [{elapsed}<{remaining}{postfix}]"
    bar = tqdm(total=len(paths), desc="clips", file=sys.stderr, bar_format=layout)
    shares: dict[str, float] = {}

    def show(name: str, share: float, step: str) -> None:
        shares[name] = share
        bar.n = sum(shares.values())
        bar.set_postfix_str(f"{name}: {step}"[:70], refresh=False)
        if time.time() - bar.last_print_t > 1:
            bar.last_print_t = time.time()
            bar.refresh()

    def one(path: Path) -> dict:
        name = names[path]
        file = out / f"{name}.json" if out else None
        done = _finished(file, blank_result(name, path, cascade, windows)) if file and resume else None
        if done:
            return done
        journal = out / f"{name}.windows.part.jsonl" if out else None
        if journal and not resume:
            journal.unlink(missing_ok=True)
        analysis = analyze_clip(
            cascade,
            path,
            windows,
            name,
            journal,
            partial(show, name),
            out is not None,
        )
        if out:
            for strip, target in zip(analysis.strips, strip_paths(out, analysis.result), strict=True):
                if strip:
                    write_bytes_atomic(target, strip)
            write_json_atomic(file, analysis.result)
            journal.unlink(missing_ok=True)
        return analysis.result

    results = []
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        futures = [pool.submit(one, path) for path in paths]
        try:
            for future in futures:
                results.append(future.result())
                tell(results[-1])
                show(results[-1]["name"], 1.0, "done")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    bar.refresh()
    bar.close()
    if out:
        analyses = []
        for result in results:
            strips = [path.read_bytes() if path.is_file() else None for path in strip_paths(out, result)]
            analyses.append((result, strips))
        links = {
            result["name"]: os.path.relpath(path.absolute(), out.absolute()) for result, path in zip(results, paths, strict=True)
        }
        write_text_atomic(out / "report.html", page_html(analyses, links))
    return results


# --------------------------------------------------------------------------------------------------------- command line


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
        f"no --model given, and the demo's is not there ({demo}); run bash scripts/demo.sh first, or give --model (and adapters)"
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what looks at the clips, and how; shared with serve."""
    group = parser.add_argument_group("model")
    group.add_argument("--model", type=Path, metavar="DIR", help="a base or merged checkpoint of any layout")
    group.add_argument("--linguistic", type=Path, metavar="DIR", help="adapter that answers the four linguistic tasks")
    group.add_argument("--perception", type=Path, metavar="DIR", help="adapter that localizes (the same folder: one for all six)")
    group.add_argument(
        "--vision-config", type=Path, metavar="FILE", help="the vision encoder's settings, where the model has none"
    )
    group = parser.add_argument_group("frames and answers")
    group.add_argument("--fps", type=float, help="frames a second (default: what the model's folder says)")
    group.add_argument("--max-frames", type=int, help="frames of a clip or window at most (default: the model folder's)")
    group.add_argument("--max-visual-tokens", type=int, default=MAX_VISUAL_TOKENS, help="(default %(default)s)")
    group.add_argument("--no-token-compression", action="store_true", help="keep tokens that do not change between frames")
    group.add_argument(
        "--max-new-tokens", type=int, default=MAX_NEW_TOKENS, help="tokens of an answer at most (default %(default)s)"
    )
    group.add_argument(
        "--decode",
        choices=get_args(Decode),
        default="free",
        help="constrained: recognition says Yes or No, times always parse and lie within the clip (default %(default)s)",
    )
    group = parser.add_argument_group("long recordings, in seconds")
    group.add_argument("--window", type=float, help="length of a window (default: max_frames / fps)")
    group.add_argument("--stride", type=float, help="from one window to the next (default: half a window)")
    group.add_argument("--whole-up-to", type=float, default=60.0, help="shorter clips are not cut (default %(default)s)")
    group.add_argument("--merge-gap", type=float, default=1.0, help="findings this close are one event (default %(default)s)")


def cascade_of(arguments: argparse.Namespace) -> tuple[Cascade, WindowSettings]:
    """The model and windows that the command line names. Raises AnalyzeError, CheckpointError or WindowError."""
    model, linguistic, perception = arguments.model, arguments.linguistic, arguments.perception
    if model is None:
        if linguistic or perception:
            raise AnalyzeError("adapters need the base they were trained on: give --model")
        model, linguistic, perception = default_model()
    for name in ("fps", "max_frames", "max_visual_tokens", "max_new_tokens", "window"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise AnalyzeError(f"--{name.replace('_', '-')} is {value}, expected more than 0")
    cascade = load_cascade(
        model,
        linguistic,
        perception,
        arguments.fps,
        arguments.max_frames,
        arguments.max_visual_tokens,
        not arguments.no_token_compression,
        arguments.max_new_tokens,
        arguments.decode,
        arguments.vision_config,
    )
    gaps = {"whole_up_to": arguments.whole_up_to, "merge_gap": arguments.merge_gap}
    return cascade, window_settings(cascade, arguments.window, arguments.stride, **gaps)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `analyze`."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="video files, folders, globs")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for results and report (default outputs/analysis)")
    parser.add_argument("--jsonl", metavar="FILE", help="stream results as JSON lines, `-` to stdout; then files only with --out")
    parser.add_argument(
        "--resume", action="store_true", help="go on after a kill: keep what --out has of the same model and settings"
    )
    parser.add_argument("--jobs", type=int, default=2, help="clips in work at a time (default %(default)s)")
    add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit code."""
    return exit_code(lambda: _run(arguments), failed=2)


def _run(arguments: argparse.Namespace) -> int:
    out = arguments.out or (None if arguments.jsonl else Path("outputs") / "analysis")
    with contextlib.ExitStack() as stack:
        lines = None
        if arguments.jsonl == "-":
            lines = sys.stdout
        elif arguments.jsonl:
            lines = stack.enter_context(open(arguments.jsonl, "w", encoding="utf-8"))
        # stdout is for results alone; what loading a model has to say goes beside it.
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))

        def tell(result: dict) -> None:
            if lines:
                print(json.dumps(result, ensure_ascii=False), file=lines, flush=True)

        try:
            paths = find_clips(arguments.paths)
            cascade, windows = cascade_of(arguments)
            results = analyze(cascade, paths, windows, out, arguments.resume, arguments.jobs, tell)
        except BrokenPipeError:  # the reader of the stream has left
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would stumble over it once more at exit
            return 1
        counts = Counter(result["status"] for result in results)
        print(", ".join(f"{count} {status}" for status, count in counts.items()))
        for result in results:
            lost = [window for window in result["windows"] if window["error"]]
            if result["status"] == FAILED:
                print(f"failed: {result['path']}: {result['error']}")
            elif lost:
                print(f"failed: {result['path']}: {len(lost)} of {len(result['windows'])} windows; first: {lost[0]['error']}")
        if out:
            print(f"report: {out / 'report.html'}")
    failed = any(result["status"] == FAILED or any(window["error"] for window in result["windows"]) for result in results)
    return 1 if failed else 0
