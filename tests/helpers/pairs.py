"""Files of pairs of answers."""

import json
from pathlib import Path

from crashchat.tasks import TASKS

TASK = TASKS["crash_description"]


def write_pairs(data: Path, path: Path, split: str, wrong: str = "nothing can be seen.") -> Path:
    """Annotated descriptions, each preferred to one and the same other answer."""
    records = json.loads((data / TASK.annotation_file(split)).read_text())
    path.write_text(json.dumps([record | {"rejected": wrong} for record in records]))
    return path
