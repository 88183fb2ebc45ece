"""What came out of a review, a line a clip: for spreadsheets and data frames."""

import io

import pyarrow
from openpyxl import Workbook

from crashchat.review.agreement import said
from crashchat.review.folder import Reviewed
from crashchat.review.labels import model_labels
from crashchat.review.standing import Standing
from crashchat.review.store import ClipRow

_LABELS = [
    ("crash", pyarrow.bool_()),
    ("start", pyarrow.float64()),
    ("end", pyarrow.float64()),
    ("first_sign", pyarrow.float64()),
    ("description", pyarrow.string()),
    ("cause", pyarrow.string()),
    ("prevention", pyarrow.string()),
]
# Times are seconds from the clip's start; model_… is what the model said. outcome: crash, no crash, unsure,
# unusable, disagreement or open.
COLUMNS = pyarrow.schema(
    [
        ("name", pyarrow.string()),
        ("path", pyarrow.string()),
        ("split", pyarrow.string()),
        ("random_share", pyarrow.bool_()),
        ("outcome", pyarrow.string()),
        ("verdict", pyarrow.string()),
        ("decided_by", pyarrow.string()),
        ("decided_at", pyarrow.string()),
        ("opinions", pyarrow.int64()),
        ("settled", pyarrow.bool_()),
        ("comment", pyarrow.string()),
        *_LABELS,
        ("model_status", pyarrow.string()),
        ("model_crash_probability", pyarrow.float64()),
        *((f"model_{name}", kind) for name, kind in _LABELS),
    ]
)


def finding(clip: Reviewed, row: ClipRow, standing: Standing, split: str | None) -> dict:
    """One clip's line; what is not known is None."""
    final = standing.final
    labels = final.after if final and final.labelled else None
    model = model_labels(clip.result)
    return {
        "name": clip.name,
        "path": clip.result.path,
        "split": split,
        "random_share": row.random,
        "outcome": said(final) if final else "disagreement" if standing.disagree else "open",
        "verdict": final.verdict if final else None,
        "decided_by": final.user if final else None,
        "decided_at": final.at if final else None,
        "opinions": len(standing.opinions),
        "settled": standing.settled is not None,
        "comment": (final.comment or None) if final else None,
        **{name: _known(getattr(labels, name, None)) for name, _ in _LABELS},
        "model_status": clip.result.status,
        "model_crash_probability": clip.result.crash_probability,
        **{f"model_{name}": _known(getattr(model, name)) for name, _ in _LABELS},
    }


def _known(value: object) -> object:
    return None if value == "" else value


def workbook(rows: list[dict]) -> bytes:
    """The lines as an Excel file: texts stay texts, whatever they begin with."""
    book = Workbook(write_only=False)
    sheet = book.active
    sheet.title = "findings"
    sheet.freeze_panes = "B2"
    sheet.append(COLUMNS.names)
    for row in rows:
        sheet.append([None] * len(COLUMNS.names))
        for cell, value in zip(sheet[sheet.max_row], row.values(), strict=True):
            if isinstance(value, str):
                value = _printable(value)
            cell.value = value
            if isinstance(value, str):
                cell.data_type = "s"  # not a formula
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def _printable(text: str) -> str:
    """Without control characters, which a workbook cannot hold."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)
