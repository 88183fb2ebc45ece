"""Analyses as a user runs them, and their results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema

from crashchat.analysis.results import ClipResult
from crashchat.config import ROOT

VALIDATOR = jsonschema.Draft202012Validator(ClipResult.model_json_schema(mode="serialization"))


def start(*words: str | Path) -> subprocess.Popen:
    """`crashchat analyze …` in a process of its own."""
    command = [sys.executable, "-m", "crashchat", "analyze", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def read(path: Path) -> dict:
    """A result, held against the schema."""
    result = json.loads(path.read_text())
    VALIDATOR.validate(result)
    return result
