"""What was found, a line a clip, for spreadsheets and data frames: findings.csv and findings.parquet."""

import csv
import io
from pathlib import Path

import pyarrow
from pyarrow import parquet

from crashchat.analysis.results import ClipResult
from crashchat.files import write_bytes_atomic, write_text_atomic

# Times are seconds from the clip's start, of the first event; where there are several, `events` says so.
COLUMNS = pyarrow.schema(
    [
        ("name", pyarrow.string()),
        ("path", pyarrow.string()),
        ("status", pyarrow.string()),
        ("crash_probability", pyarrow.float64()),
        ("seconds", pyarrow.float64()),
        ("events", pyarrow.int64()),
        ("crash_start", pyarrow.float64()),
        ("crash_end", pyarrow.float64()),
        ("first_sign", pyarrow.float64()),
        ("description", pyarrow.string()),
        ("cause", pyarrow.string()),
        ("prevention", pyarrow.string()),
        ("windows", pyarrow.int64()),
        ("windows_failed", pyarrow.int64()),
        ("notes", pyarrow.string()),
        ("unlike_training", pyarrow.string()),
        ("warnings", pyarrow.string()),
        ("error", pyarrow.string()),
    ]
)


def row(result: ClipResult) -> dict:
    """One clip's line; what is not known is None."""
    event = result.events[0] if result.events else None
    localized = event if event and event.localized else None
    return {
        "name": result.name,
        "path": result.path,
        "status": result.status,
        "crash_probability": result.crash_probability,
        "seconds": result.seconds,
        "events": len(result.events),
        "crash_start": localized.start if localized else None,
        "crash_end": localized.end if localized else None,
        "first_sign": event.first_sign if event else None,
        "description": event.description if event else None,
        "cause": event.cause if event else None,
        "prevention": event.prevention if event else None,
        "windows": len(result.windows),
        "windows_failed": sum(window.error is not None for window in result.windows),
        "notes": "; ".join(note for window in result.windows for note in window.notes) or None,
        "unlike_training": "; ".join(result.unlike_training) or None,
        "warnings": "; ".join(result.warnings) or None,
        "error": result.error,
    }


def write_tables(out: Path, results: list[ClipResult]) -> None:
    """Write findings.csv and findings.parquet, whole or not at all each. Raises OSError."""
    write_findings(out, [row(result) for result in results], COLUMNS)


def write_findings(out: Path, rows: list[dict], columns: pyarrow.Schema) -> None:
    """Write lines as findings.csv and findings.parquet, whole or not at all each. Raises OSError."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns.names, lineterminator="\n")
    writer.writeheader()
    # A cell that begins like a formula would be one to a spreadsheet; an apostrophe makes it a text.
    writer.writerows({key: _plain(value) for key, value in line.items()} for line in rows)
    write_text_atomic(out / "findings.csv", text.getvalue())
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows, columns), sink)
    write_bytes_atomic(out / "findings.parquet", sink.getvalue().to_pybytes())


def _plain(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value
