"""The commands that README and docs/ show: the recipe's run on stand-ins; all name what there is."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from crashchat.__main__ import COMMANDS, main
from crashchat.config import ROOT
from crashchat.tasks import TASKS
from tests.helpers.commands import SETTINGS, forked

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]


def commands_of(page: Path) -> list[str]:
    """The lines of a page's indented blocks that begin with one of our commands, without remarks."""
    text = re.sub(r"\s*\\\n\s*", " ", page.read_text())  # a command that goes on in the next line
    shown = re.findall(r"^    ((?:crashchat|bash|python|make) .*)$", text, re.MULTILINE)
    return [re.split(r"\s{2,}#|\s\|\s", line)[0].strip() for line in shown]


def test_the_recipes_commands_run_one_after_the_other(tiny_base, tiny_data, tmp_path):
    """As they stand in README, but for the tiny model and set, and one process instead of eight."""
    text = (ROOT / "README.md").read_text()
    block = text[text.index("## The full-size recipe") : text.index("## What the demo")]
    lines = [line.strip() for line in block.splitlines() if line.startswith("    ")]
    assert len(lines) == 5
    stand_ins = {
        "ckpt/videollama3_baseline": tiny_base,
        "ckpt/crashchat": tmp_path / "merged",
        "outputs/train/heterogeneous": tmp_path / "adapter",
        "data": tiny_data,
        "8": 1,
    }
    more = {
        "scripts/train/": [*SETTINGS, f"data_dir={tiny_data}", f"output_dir={tmp_path / 'adapter'}"],
        "scripts/eval/eval": [
            f"model={tmp_path / 'merged'}",
            f"data_dir={tiny_data}",
            f"output_dir={tmp_path / 'outputs'}",
            "max_new_tokens=8",
            "num_workers=0",
        ],
    }
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for line in lines:
        words = [str(stand_ins.get(word, word)) for word in shlex.split(line)]
        words += next((added for start, added in more.items() if start in line), [])
        if words[0] == "crashchat":
            forked(*words[1:])
            continue
        if words[0] == "python":
            words[0] = sys.executable
        words = [str(ROOT / word) if word.startswith("scripts/") else word for word in words]
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{line}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert "mIoU" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shown_commands_and_options_exist(page, capsys):
    for line in commands_of(page):
        first, *words = shlex.split(line)
        if first == "crashchat":
            assert words[0] in COMMANDS, line
            asked = words[:1]
            if words[0] == "score":  # docs/tasks.md scores a task of its own making
                asked = words[:2] if words[1] in TASKS else ["score", next(iter(TASKS))]
            with pytest.raises(SystemExit):
                main([*asked, "--help"])
            told = capsys.readouterr().out
            unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in told]
            assert not unknown, f"{page.name}: {line}: {unknown}"
        elif first == "make":
            assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
        else:
            assert words[0].startswith("-") or (ROOT / words[0]).is_file(), line
