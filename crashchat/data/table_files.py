"""The rows of CSV and Parquet files, some thousands in memory at a time."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from crashchat.data.records import AnnotationError
from crashchat.errors import opening


def table_rows(path: Path, form: str) -> Iterator[dict]:
    """The rows of a CSV or Parquet file. Raises AnnotationError for a file that cannot be read."""
    if not path.is_file():
        raise AnnotationError(f"{path}: cannot be read: there is no such file; expected a table of questions")
    if not path.stat().st_size:
        raise AnnotationError(f"{path}: is empty (0 bytes), expected a table of questions")
    try:
        yield from _csv_rows(path) if form == "csv" else _parquet_rows(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise AnnotationError(
            f"{path}: cannot be read as {form}: {opening(error)}; expected a table of questions"
        ) from error


def _csv_rows(path: Path) -> Iterator[dict]:
    parse = pyarrow.csv.ParseOptions(
        delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True
    )
    read = pyarrow.csv.ReadOptions(use_threads=False)  # with threads, messages name no row
    with pyarrow.csv.open_csv(path, read_options=read, parse_options=parse) as file:
        names = file.schema.names
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise AnnotationError(f"{path}: has two columns {twice[0]!r}; expected each once")
    convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    with pyarrow.csv.open_csv(path, read_options=read, parse_options=parse, convert_options=convert) as file:
        for batch in file:
            yield from batch.to_pylist()


def _parquet_rows(path: Path) -> Iterator[dict]:
    with pq.ParquetFile(path, memory_map=True) as file:
        for batch in file.iter_batches(batch_size=4096):
            yield from batch.to_pylist()
