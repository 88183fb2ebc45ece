"""The files that results lie in: their names, and how they are written and found again.

    <name>.json                  what was found in a clip
    <name>.jpg                   its film strip; of a recording <name>.event1.jpg, …
    <name>.windows.part.jsonl    a recording's windows, until all are done
    report.html                  all clips
    findings.csv, .parquet       a line a clip

A name is the clip's own as far as file systems allow (name_clips).
"""

import os
import re
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from pydantic import ValidationError

from crashchat.analysis.cards import page_html
from crashchat.analysis.clip import Analysis, as_text
from crashchat.analysis.result_tables import write_tables
from crashchat.analysis.results import ClipResult
from crashchat.files import write_bytes_atomic, write_json_atomic, write_text_atomic

# Bytes of a name: file systems take 255, of which suffixes and the temporary files of atomic writes need
# some.
LONGEST_NAME = 200


def name_clips(paths: list[Path]) -> dict[Path, str]:
    """{path: name of its result files}: the file's own, with its folders where two share one.

    One that is no UTF-8 or too long for a file system is mended, and ends with a hash of the path.
    """
    same = Counter(path.stem for path in paths)
    names: dict[Path, str] = {}
    taken = {"report", "findings", ""}
    for path in paths:
        parts = [part for part in path.parts if part not in ("/", "..", ".")]
        name = _safe(path.stem if same[path.stem] == 1 else "__".join(parts), path)
        while name in taken or re.search(r"\.event\d+$", name):  # what a recording's film strips are called
            name += "_"
        taken.add(name)
        names[path] = name
    return names


def _safe(name: str, path: Path) -> str:
    text = as_text(name)
    cut = text.encode()[:LONGEST_NAME].decode(errors="ignore")
    return name if cut == name else f"{cut}~{blake2b(os.fsencode(path), digest_size=6).hexdigest()}"


def result_path(out: Path, name: str) -> Path:
    """Where a clip's result lies."""
    return out / f"{name}.json"


def journal_path(out: Path, name: str) -> Path:
    """Where the windows of a recording are kept until all are done."""
    return out / f"{name}.windows.part.jsonl"


def strip_paths(out: Path, result: ClipResult) -> list[Path]:
    """Where a result's film strips lie: <name>.jpg, or <name>.event1.jpg … of a recording."""
    if result.is_recording:
        return [out / f"{result.name}.event{number}.jpg" for number in range(1, len(result.events) + 1)]
    return [out / f"{result.name}.jpg"] if result.windows else []


def finished(out: Path, expected: ClipResult) -> ClipResult | None:
    """A result of an earlier run that is still good: of the same file, model and sampling, and not failed. A
    journal that a kill left beside it goes.

    expected: what a result of this run holds before anything is known of the clip.
    """
    try:
        result = ClipResult.model_validate_json(result_path(out, expected.name).read_bytes())
    except (OSError, ValidationError):
        return None
    same = ("name", "path", "bytes", "model", "sampling", "context")
    good = all(getattr(result, key) == getattr(expected, key) for key in same)
    if not good or result.has_failed:
        return None
    journal_path(out, expected.name).unlink(missing_ok=True)
    return result


def write_result(out: Path, analysis: Analysis) -> None:
    """Write a clip's film strips and then its result; the journal that its windows are from goes.

    Raises OSError.
    """
    result = analysis.result
    for strip, target in zip(analysis.strips, strip_paths(out, result), strict=True):
        if strip:
            write_bytes_atomic(target, strip)
    write_json_atomic(result_path(out, result.name), result.as_json())
    if result.windows:
        journal_path(out, result.name).unlink(missing_ok=True)


def kept(
    out: Path | None, blank: ClipResult, look: Callable[[Path | None], Analysis], resume: bool
) -> ClipResult:
    """The result of a clip, written to `out` (None: nothing is).

    blank: the result before anything is known. look: makes the analysis, given where windows may be kept.
    resume: windows that an earlier run has kept are taken over. What cannot be written fails.
    """
    journal = journal_path(out, blank.name) if out else None
    try:
        if journal and not resume:
            journal.unlink(missing_ok=True)
        analysis = look(journal)
        if out:
            write_result(out, analysis)
    except OSError as error:
        file = error.filename2 or error.filename or out
        blank.error = as_text(f"its results can't be written: {file}: {error.strerror}")
        return blank
    return analysis.result


def write_report(out: Path, paths: list[Path], results: list[ClipResult]) -> Path:
    """Write the page of all clips and their tables; returns where the page lies. paths: of the clips.

    Raises OSError.
    """
    analyses = []
    for result in results:
        strips = [path.name if path.is_file() else None for path in strip_paths(out, result)]
        analyses.append((result, strips))
    links = {
        result.name: os.path.relpath(path.absolute(), out.absolute())
        for result, path in zip(results, paths, strict=True)
    }
    write_tables(out, results)
    write_text_atomic(out / "report.html", page_html(analyses, links))
    return out / "report.html"
