"""Clips in, crash reports out: every clip through the cascade (cascade.py),
long recordings window by window (windows.py).

    crashchat analyze dashcam/ 'more/*.mp4' --out outputs/analysis
    crashchat analyze clip.mp4 --jsonl - | jq .status

Writes <name>.json for each clip (--schema says what is in it), its film strips, and report.html for all of
them, into --out. A file or glob is taken as it is, of a folder all video files below it; files with another
ending are counted and passed over. Without --model the model is ckpt/tiny_base with what scripts/demo.sh
trained: it learnt on drawings. Exit code: 0 all clips done, 1 some failed (the report says which and why),
2 nothing could run.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from types import MappingProxyType

from tqdm import tqdm

from crashchat.analysis.clip import analyze_clip, as_text, blank_result
from crashchat.analysis.contexts import Known, add_context, contexts_of
from crashchat.analysis.options import add_model_options, cascade_of, find_clips
from crashchat.analysis.result_files import finished, kept, name_clips, write_report
from crashchat.analysis.results import FAILED, ClipResult
from crashchat.analysis.spread import analyze_on_ray, share_clips
from crashchat.analysis.windows import WindowSettings
from crashchat.answering.cascade import Cascade
from crashchat.command import make_parser, with_task_set
from crashchat.errors import error_line, exit_code
from crashchat.files import owned
from crashchat.processes import rank, start_processes, under_torchrun


def analyze(
    cascade: Cascade,
    paths: list[Path],
    windows: WindowSettings,
    out: Path | None,
    resume: bool = False,
    jobs: int = 2,
    tell: Callable[[ClipResult], None] | None = None,
    claims: Iterable[int] | None = None,
    contexts: Mapping[str, Known] = MappingProxyType({}),
) -> dict[int, ClipResult]:
    """Look at clips and write their files to `out` (None: nothing is written); {clip's number: result}.

    jobs: clips in work at a time: one is read while the model looks at another. resume: take over what an
    earlier run has done. tell: given each result, in order. claims: the numbers of the clips to look at, each
    asked for when its turn comes; None: all. contexts: what is known of clips, by their files'
    names. A clip that cannot be read, or whose files cannot be written,
    fails alone.
    """
    names = name_clips(paths)
    # A recording is one clip for a long time, so that parts of clips count.
    layout = "{desc}: {percentage:3.0f}%|{bar:20}| {n:.1f}/{total} [{elapsed}<{remaining}{postfix}]"
    bar = tqdm(total=len(paths), desc="clips", file=sys.stderr, bar_format=layout, disable=rank() > 0)
    shares: dict[str, float] = {}

    def show(name: str, share: float, step: str) -> None:
        if bar.disable:
            return
        shares[name] = share
        bar.n = sum(shares.values())
        bar.set_postfix_str(f"{name}: {step}"[:70], refresh=False)
        if time.time() - bar.last_print_t > 1:
            bar.last_print_t = time.time()
            bar.refresh()

    def look_at(path: Path) -> ClipResult:
        name = names[path]
        known = contexts.get(path.name, {})
        blank = blank_result(name, path, cascade, windows, known=known)
        if out and resume and (done := finished(out, blank)):
            return done
        return kept(
            out,
            blank,
            lambda journal: analyze_clip(
                cascade,
                path,
                windows,
                name=name,
                journal=journal,
                progress=partial(show, name),
                draw=out is not None,
                known=known,
            ),
            resume=resume,
        )

    def one(path: Path) -> ClipResult:
        result = look_at(path)
        show(result.name, 1.0, "done")
        return result

    results: dict[int, ClipResult] = {}
    waited_for = [0]  # the first clip that is not told of
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        pending: dict[Future[ClipResult], int] = {}

        def settle(most: int) -> None:
            """Wait until at most so many clips are in work, and tell of those that are done, in order."""
            while len(pending) > most:
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    results[pending.pop(future)] = future.result()
                while tell and waited_for[0] in results:
                    tell(results[waited_for[0]])
                    waited_for[0] += 1

        try:
            for number in claims or range(len(paths)):
                pending[pool.submit(one, paths[number])] = number
                settle(jobs)
            settle(0)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    bar.set_postfix_str("", refresh=False)  # which clip ended last says nothing
    bar.refresh()
    bar.close()
    return results


def analyze_clips(
    arguments: argparse.Namespace,
    paths: list[Path],
    out: Path | None,
    *,
    tell: Callable[[ClipResult], None],
    begin: Callable[[], None],
) -> list[ClipResult] | None:
    """The results of all clips, by the processes that the command line asks for; None in those that torchrun
    started besides the first.

    begin: called before anything is written, when it is known that the model loads.
    """
    if arguments.ray:
        return analyze_on_ray(arguments, paths, out, tell=tell, begin=begin)
    cascade, windows = cascade_of(arguments)
    contexts = contexts_of(arguments.context, paths)
    begin()
    look = partial(
        analyze,
        cascade,
        paths,
        windows=windows,
        out=out,
        resume=arguments.resume,
        jobs=arguments.jobs,
        contexts=contexts,
    )
    if not under_torchrun():
        found = look(tell=tell)
    else:
        shared = share_clips(lambda claims: look(claims=claims), len(paths))
        if shared is None:
            return None
        found = shared
        for number in range(len(paths)):
            tell(found[number])
    return [found[number] for number in range(len(paths))]


def summary(results: list[ClipResult], passed_over: list[Path]) -> list[str]:
    """The last lines of a run: what nobody must overlook, how many clips of each status, what failed."""
    lines = [f"warning: {warning}" for warning in dict.fromkeys(w for r in results for w in r.warnings)]
    counts = Counter(result.status for result in results)
    lines.append(", ".join(f"{count} {status}" for status, count in counts.items()))
    unlike = sum(bool(result.unlike_training) for result in results)
    if unlike:
        lines.append(f"{unlike} unlike the clips that the model learnt on (the results say in what)")
    for result in results:
        lost = [window for window in result.windows if window.error]
        if result.status == FAILED:
            lines.append(f"failed: {result.path}: {result.error}")
        elif lost:
            count = f"{len(lost)} of {len(result.windows)} windows"
            lines.append(f"failed: {result.path}: {count}; first: {lost[0].error}")
    if passed_over:
        names = ", ".join(as_text(path.name) for path in passed_over[:3])
        more = ", …" if len(passed_over) > 3 else ""
        files = "file" if len(passed_over) == 1 else "files"
        lines.append(
            f"{len(passed_over)} {files} passed over: {names}{more} (the ending is no video's; name a file "
            "itself to have it tried)"
        )
    return lines


class _PrintSchema(argparse.Action):
    """Prints the JSON schema of a result and ends, as --help does."""

    def __call__(self, parser, *_):
        print(json.dumps(ClipResult.model_json_schema(mode="serialization"), indent=1))
        parser.exit()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `analyze`."""
    parser.add_argument(
        "--schema", nargs=0, action=_PrintSchema, help="print the JSON schema of a result, and end"
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="video files, folders, globs")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="for results and report (default outputs/analysis)"
    )
    parser.add_argument(
        "--jsonl",
        metavar="FILE",
        help="stream results as JSON lines, `-` to stdout; then files only with --out",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on after a kill: keep what --out has of the same model and settings",
    )
    add_context(parser)
    group = parser.add_argument_group("many processes (docs/fleet.md)")
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="share the clips among the processes of a Ray cluster; auto: the one here, else one made now",
    )
    group.add_argument(
        "--gpus",
        type=int,
        metavar="N",
        help="share the clips among N processes of this machine, each with a GPU where there are any",
    )
    parser.add_argument("--jobs", type=int, default=2, help="clips in work at a time (default %(default)s)")
    add_model_options(parser)


@with_task_set
def main(argv: list[str]) -> int:
    """Command line; returns the exit code."""
    parser = make_parser("analyze", __doc__)
    add_arguments(parser)
    return run(parser.parse_intermixed_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit code."""
    if arguments.gpus is not None and not under_torchrun():
        return exit_code(lambda: start_processes(arguments.gpus), failed=2)
    return exit_code(lambda: _run(arguments), failed=2)


def _run(arguments: argparse.Namespace) -> int:
    out = arguments.out or (None if arguments.jsonl else Path("outputs") / "analysis")
    with contextlib.ExitStack() as stack:
        # stdout is for results alone; what loading a model has to say goes beside it.
        stdout = sys.stdout
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        try:
            lines = None
            if arguments.jsonl:
                lines = (
                    stdout
                    if arguments.jsonl == "-"
                    else stack.enter_context(open(arguments.jsonl, "w", encoding="utf-8"))
                )

            def tell(result: ClipResult) -> None:
                if lines:
                    print(json.dumps(result.as_json(), ensure_ascii=False), file=lines, flush=True)

            def begin() -> None:
                if out:
                    out.mkdir(parents=True, exist_ok=True)
                    if rank() == 0:  # has the folder for all processes
                        stack.enter_context(owned(out))

            paths, passed_over = find_clips(arguments.paths)
            results = analyze_clips(arguments, paths, out, tell=tell, begin=begin)
            if results is None:  # the first process has them
                return 0
        except BrokenPipeError:  # the reader of the stream has left
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would stumble over it once more at exit
            return 1
        print("\n".join(summary(results, passed_over)))
        if out:
            try:
                print(f"report: {write_report(out, paths, results)}")
            except OSError as error:
                print(f"error: no report: {error_line(error)}", file=sys.stderr)
                return 1
    return 1 if any(result.has_failed for result in results) else 0
