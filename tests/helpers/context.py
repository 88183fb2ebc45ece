"""Task sets with context, and tables that have it."""

import csv
import shutil
from pathlib import Path

from crashchat.config import CONFIG_DIR
from crashchat.tasks import TASKS

SET = CONFIG_DIR / "tasks" / "telematics.yaml"


RECOGNITION, INTERVAL = (TASKS[name] for name in ("crash_recognition", "crash_localization"))


CONTEXT = """
  speed: "Speed: {value} km/h."
  note: {words: "Note: {value}", tasks: [crash_localization]}
"""


def task_set(folder: Path, context: str = CONTEXT) -> Path:
    shutil.copy(CONFIG_DIR / "tasks" / "crashchat.yaml", folder)
    path = folder / "mine.yaml"
    path.write_text(f"name: mine\nbase: crashchat.yaml\nfile_prefix: mine\ncontext:{context}")
    return path


def as_csv(folder: Path, rows: list[dict]) -> Path:
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "rows.csv"
