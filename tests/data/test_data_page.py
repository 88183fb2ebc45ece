"""docs/data.md: its files are written, its configs loaded and its commands run, in the order of the page."""

import csv
import re
import shlex
import textwrap
from pathlib import Path

import pytest

from crashchat import __main__ as program
from crashchat.config import ROOT, load_config
from crashchat.data.sources import load_sources
from crashchat.data_settings import Columns, DataSource
from crashchat.evaluation_settings import EvalConfig
from tests.data.test_importing import made_clips

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`([\w.]+\.(?:csv|jsonl|json|yaml))`[^\n`]*:\n\n((?:(?: {4,}[^\n]*)?\n)+)")


def files_of_the_page() -> dict[str, str]:
    return {name: textwrap.dedent(block).strip("\n") + "\n" for name, block in NAMED.findall(PAGE)}


def commands_of_the_page(*words: str) -> list[list[str]]:
    lines = re.findall(r"^ {4}crashchat ((?:" + "|".join(words) + r") [^\n]+)$", PAGE, re.MULTILINE)
    return [shlex.split(line) for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The page's files beside made clips, and what its commands wrote."""
    folder = tmp_path_factory.mktemp("page")
    made_clips(folder / "clips", "a.mp4", "b.mp4")
    made_clips(folder / "train", "00822.mp4", "01924.mp4")
    for name, text in files_of_the_page().items():
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in commands_of_the_page("import", "export"):
            assert program.main(words) == 0, words
    return folder


def asked(folder: Path, config: str, monkeypatch) -> dict[str, list[tuple[str, str]]]:
    monkeypatch.chdir(folder)
    sources = load_config(EvalConfig, config).data
    found = {}
    for split in ("train", "val", "test"):
        try:
            videos = load_sources(sources, split, Path("data"), None)
        except Exception as error:
            assert "no question" in str(error)
            continue
        assert all(one.path.is_file() for one in videos)
        found[split] = [(one.path.name, question.answer) for one in videos for question in one.questions]
    return found


def test_the_page_s_files_and_commands_are_found():
    assert set(files_of_the_page()) == {
        "labels.csv", "questions.csv", "table.yaml", "chats.jsonl", "chats.yaml", "hub.yaml", "mixed.yaml",
        "train.csv", "bench.json",
    }  # fmt: skip
    assert len(commands_of_the_page("import", "export")) == 6


def test_the_tables_and_chats(folder, monkeypatch):
    assert asked(folder, "table.yaml", monkeypatch) == {
        "train": [("a.mp4", "Yes")],
        "val": [("b.mp4", "No"), ("b.mp4", "a red car")],
    }
    chats = asked(folder, "chats.yaml", monkeypatch)
    assert sorted(sum(chats.values(), [])) == [("a.mp4", "a bus"), ("b.mp4", "a car")]
    assert asked(folder, "mixed.yaml", monkeypatch) == {
        "train": [("a.mp4", "Yes"), ("a.mp4", "Yes")],
        "val": [("b.mp4", "No"), ("b.mp4", "a red car")],
    }


def test_the_hub_s_form(folder, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    assert asked(folder, "hub.yaml", monkeypatch) == {
        "test": [("a.mp4", "Yes"), ("a.mp4", "1.0 - 2.5 seconds"), ("b.mp4", "No")]
    }


def test_what_the_commands_wrote_loads(folder):
    for name in ("mine", "nexar", "bench", "chats", "table"):
        assert (folder / "data" / name / "dataset.json").is_file()
        assert (folder / "data" / name / "videos").is_symlink() and any(
            (folder / "data" / name / "videos").iterdir()
        )
    with (folder / "labels.csv").open() as file:
        assert [row["clip"] for row in csv.DictReader(file)] == ["a.mp4", "b.mp4"]


def test_the_page_names_every_setting_of_a_source():
    for name in (*DataSource.model_fields, *Columns.model_fields):
        assert f"`{name}`" in PAGE, name
