"""Prediction records on disk as they are made, so that a killed evaluation goes on where it stopped.

Each process appends to a journal of its own beside the file that the journals become when all is done.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from crashchat.data.predictions import PredictionError, first_few
from crashchat.errors import writing
from crashchat.files import write_json_atomic
from crashchat.json_files import parse_json


def journal_path(final_path: str | Path, rank: int = 0) -> Path:
    """The journal of one process beside the file it will become: `….json.rank0.part.jsonl`."""
    final_path = Path(final_path)
    return final_path.with_name(f"{final_path.name}.rank{rank}.part.jsonl")


def find_journals(final_path: str | Path) -> list[Path]:
    """Every journal beside `final_path`, of however many processes the killed run had."""
    final_path = Path(final_path)
    # No glob: a model's name may hold brackets, which glob would take for a pattern.
    start, end = f"{final_path.name}.rank", ".part.jsonl"
    if not final_path.parent.is_dir():
        return []
    return sorted(p for p in final_path.parent.iterdir() if p.name.startswith(start) and p.name.endswith(end))


def done_ids(final_path: str | Path, run: dict | None = None) -> set:
    """The data_ids in all journals beside `final_path`: what need not be done again,
    with however many processes now.

    A record with an `error` is not done: what kept its video from being read may be gone.
    Raises PredictionError for a journal that is damaged or of another run (see PredictionJournal).
    """
    done: set = set()
    for path in find_journals(final_path):
        begun_by, records, good_bytes = _read_journal(path)
        if good_bytes:
            _check_run(path, begun_by, run)
        done |= _ids(records)
    return done


def _ids(records: list[dict]) -> set:
    return {record["data_id"] for record in records if "error" not in record}


def _check_run(path: Path, begun_by: dict | None, run: dict | None) -> None:
    if begun_by != run:
        raise PredictionError(
            f"{path}: was begun by another run ({json.dumps(begun_by)}), this one is {json.dumps(run)}; "
            f"delete the journal to start over, or give the settings it was begun with"
        )


class PredictionJournal:
    """Records on disk as they are made, one JSON line each, so that a killed run goes on where it stopped.

    Each process writes its own. Opening an existing journal reads it: `records` are its records, `done` the
    set of their data_ids but for those with an `error`; a last line that was being written when the run died
    is cut off (that answer is made again).
    run: what the answers depend on (model, settings; any JSON). It is the journal's first line, and a journal
    of another run is refused, because half of one model's answers and half of another's are nobody's.
    Raises PredictionError when the journal is of another run or damaged before its last line.
    """

    def __init__(self, path: str | Path, run: dict | None = None):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        begun_by, self.records, good_bytes = _read_journal(self.path) if self.path.exists() else (None, [], 0)
        if good_bytes:
            _check_run(self.path, begun_by, run)
        self.done = _ids(self.records)
        self._file = open(self.path, "ab")
        self._file.truncate(good_bytes)
        if not good_bytes:
            self._write({"run": run})

    def append(self, record: dict) -> None:
        """Add one record; when this returns it is on disk.

        Raises PredictionError for a data_id that is done.
        """
        if record["data_id"] in self.done:
            raise PredictionError(f"{self.path}: data_id {record['data_id']!r} is already in the journal")
        self._write(record)
        self.records.append(record)
        self.done |= _ids([record])

    def _write(self, value: dict) -> None:
        with writing(self.path):
            self._file.write(json.dumps(value).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "PredictionJournal":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _read_journal(path: Path) -> tuple[dict | None, list[dict], int]:
    """Run, records, and the number of bytes that are whole lines.

    Raises PredictionError for damage before the end.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    values: list[dict] = []
    good_bytes = 0
    for number, line in enumerate(lines, start=1):
        expected = "run" if number == 1 else "data_id"
        value = _parse_line(line, expected)
        if value is None:
            if number == len(lines):
                break  # the line that was being written when the run died
            raise PredictionError(
                f"{path}: line {number} is damaged (no JSON record with {expected!r}); delete the journal "
                "to start over"
            )
        values.append(value)
        good_bytes += len(line)
    return (values[0]["run"] if values else None), values[1:], good_bytes


def _parse_line(line: bytes, expected: str) -> dict | None:
    """The JSON object of a whole line that has the key `expected`; None for any other line."""
    try:
        value = parse_json(line, nan=True)
    except ValueError:
        return None
    if not line.endswith(b"\n") or not isinstance(value, dict) or expected not in value:
        return None
    return None if expected == "data_id" and not isinstance(value["data_id"], int | str) else value


def merge_journals(
    paths: Iterable[str | Path], final_path: str | Path, expected_ids: Iterable | None = None
) -> list[dict]:
    """Join the journals of all processes into the prediction file,
    sorted by data_id and written whole; returns it.

    A data_id that comes up again must be the same record; only one with an `error` gives way to what was made
    after it, or to an answer. expected_ids: the data_ids the file must have.
    Journals are left in place. Raises PredictionError for a journal that is missing, damaged or of another
    run than the first, for contradicting records, and for records missing from or not in expected_ids; then
    nothing is written.
    """
    merged: dict = {}
    first: tuple[Path, dict | None] | None = None
    for path in map(Path, paths):
        if not path.exists():
            raise PredictionError(
                f"{path}: no such journal; the process that writes it did not start or lost its disk"
            )
        run, records, good_bytes = _read_journal(path)
        if not good_bytes:
            # Killed before its first line: it holds nothing, and expected_ids will tell what is missing.
            continue
        first = first or (path, run)
        if run != first[1]:
            raise PredictionError(
                f"{path} and {first[0]} are of different runs ({json.dumps(run)}, {json.dumps(first[1])}); "
                f"delete the journals of the older run"
            )
        for record in records:
            known = merged.setdefault(record["data_id"], record)
            if "error" in known:
                merged[record["data_id"]] = record
            elif "error" not in record and known != record:
                raise PredictionError(
                    f"{path}: data_id {record['data_id']!r} has another answer in an earlier journal of "
                    f"{final_path}; "
                    f"delete the journals to start over"
                )
    if expected_ids is not None:
        expected = set(expected_ids)
        missing = sorted(expected - merged.keys(), key=str)
        unknown = sorted(merged.keys() - expected, key=str)
        if missing or unknown:
            raise PredictionError(
                f"{final_path}: not written: of {len(expected)} records {len(missing)} are missing "
                f"({first_few(missing)}) "
                f"and {len(unknown)} do not belong ({first_few(unknown)}); run the same command again"
            )
    records = sorted(merged.values(), key=lambda r: (isinstance(r["data_id"], str), r["data_id"]))
    write_json_atomic(final_path, records)
    return records
