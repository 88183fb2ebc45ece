"""Model cards: written, read, joined by merging, kept by conversion, and no part of what they describe."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from crashchat.checkpoints.adapters import read_adapter, write_adapter, write_released_adapter
from crashchat.checkpoints.conversion import convert
from crashchat.checkpoints.layouts import CheckpointError
from crashchat.checkpoints.merge import merge
from crashchat.checkpoints.model_card import (
    DRAWN,
    PARTLY_DRAWN,
    README,
    ModelCard,
    as_readme,
    learnt_on,
    read_card,
    tell_cards,
    warnings_of,
    write_card,
)
from crashchat.checkpoints.weights import DTYPES
from crashchat.data.datasets import DatasetUse
from crashchat.provenance import CARD_FILE, content_hash
from crashchat.training.card import task_set


def use(name: str, drawn: bool, split: str = "train") -> DatasetUse:
    return DatasetUse(
        name=name, drawn=drawn, split=split, videos=3, questions=18, annotations={}, names_sha256=None
    )


def card(name: str, *uses: DatasetUse, **more) -> ModelCard:
    return ModelCard(kind="adapter", name=name, data=list(uses), **more)


@pytest.fixture
def adapter(flash_adapters, tmp_path) -> Path:
    """A copy of an adapter, without a card."""
    return shutil.copytree(flash_adapters[0], tmp_path / "flash")


def files(folder: Path) -> dict[str, bytes]:
    """What a folder holds but its card and README."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in (CARD_FILE, README)}


def front_matter(folder: Path) -> dict:
    return yaml.safe_load((folder / README).read_text().split("---\n")[1])


def test_tiny_base_says_that_it_learnt_on_drawings(tiny_base):
    known = read_card(tiny_base)
    assert [(data.name, data.drawn) for data in known.trained_on] == [("CrashChat synthetic", True)]
    assert (tiny_base / README).read_text() == as_readme(known) and DRAWN in as_readme(known)
    assert front_matter(tiny_base)["datasets"] == ["CrashChat synthetic"]


def test_a_card_is_read_as_it_was_written_and_shown_as_the_hub_has_it(tmp_path):
    base = {"name": "seven | b", "sha256": "a" * 64}
    written = card("mine", use("CrashChat", False), use("CrashChat", False, "val"), base=base)
    written.tasks = task_set(["crash_recognition", "crash_description"])
    write_card(tmp_path, written)
    assert read_card(tmp_path) == written
    front = front_matter(tmp_path)
    assert front["base_model"] == "seven | b" and front["library_name"] == "peft" and "license" not in front
    assert front["datasets"] == ["CrashChat"] and {"crashchat", "lora"} <= set(front["tags"])
    text = (tmp_path / README).read_text()
    assert "| CrashChat | no | val | 3 | 18 |" in text and "crash_recognition, crash_description" in text
    assert "drawings." not in text
    assert not [path for path in tmp_path.iterdir() if path.name not in (README, CARD_FILE)]


@pytest.mark.parametrize(
    "theirs",
    ["# Somebody's notes\n", "---\nlibrary_name: peft\n---\n\ncrashchat_card: crashchat_card.json\n", ""],
)
def test_a_readme_of_somebody_else_is_left(tmp_path, capsys, theirs):
    (tmp_path / README).write_text(theirs)
    write_card(tmp_path, card("mine"))
    assert (tmp_path / README).read_text() == theirs and read_card(tmp_path) == card("mine")
    assert "left as it is" in capsys.readouterr().out


def test_our_own_readme_is_renewed(tmp_path):
    for name in ("one", "two"):
        write_card(tmp_path, card(name))
    assert "# two" in (tmp_path / README).read_text()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda value: value | {"format": "crashchat.card/9"}, "format"),
        (lambda value: value | {"kind": "thing"}, "kind"),
        (lambda value: value | {"name": "a\x1b[2Jb"}, "name"),
        (lambda value: value | {"data": [{"name": "\n"}]}, "data.0.name"),
        (lambda value: value | {"more": 1}, "more"),
        (lambda value: value | {"best_validation_loss": "low"}, "best_validation_loss"),
        (lambda value: [value], "expected an object"),
    ],
)
def test_a_damaged_card_is_named_before_anything_is_loaded(tiny_base, tmp_path, change, message):
    copy = shutil.copytree(tiny_base, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"not looked at")
    (copy / CARD_FILE).write_text(json.dumps(change(json.loads((copy / CARD_FILE).read_text()))))
    for read in (lambda: read_card(copy), lambda: convert(copy, tmp_path / "out")):
        with pytest.raises(CheckpointError, match=CARD_FILE) as error:
            read()
        assert message in str(error.value) and "\x1b" not in str(error.value)


def test_a_card_that_is_a_link_out_is_refused(tiny_base, tmp_path):
    copy = shutil.copytree(tiny_base, tmp_path / "copy")
    (copy / CARD_FILE).rename(tmp_path / "outside.json")
    (copy / CARD_FILE).symlink_to(tmp_path / "outside.json")
    with pytest.raises(CheckpointError, match="a link out of its folder"):
        read_card(copy)


def test_a_card_changes_no_hash(tiny_base, tmp_path):
    copy = shutil.copytree(tiny_base, tmp_path / "copy")
    (copy / CARD_FILE).unlink()
    (copy / README).unlink()
    assert content_hash(copy) == content_hash(tiny_base)


def test_merging_joins_what_both_learnt_on_and_changes_no_weight(tiny_base, adapter, tmp_path):
    def merged(name: str, base: Path, to: str = "native") -> Path:
        merge(base, adapter, tmp_path / name, dtype=DTYPES["float32"], to=to)
        return tmp_path / name

    plain = shutil.copytree(tiny_base, tmp_path / "plain")
    (plain / CARD_FILE).unlink()
    neither = merged("neither", plain)
    assert read_card(neither) is None and not (neither / README).exists()

    only_base = read_card(merged("only_base", tiny_base))
    assert only_base.name == "only_base" and only_base.kind == "model"
    assert [data.name for data in only_base.trained_on] == ["CrashChat synthetic"]
    assert only_base.unknown == ["flash"] and only_base.tasks is None and only_base.settings == {}

    write_card(
        adapter, card("flash", use("Roads", False), best_validation_loss=0.5, settings={"lora_rank": 4})
    )
    only_adapter = read_card(merged("only_adapter", plain))
    assert [data.name for data in only_adapter.trained_on] == ["Roads"] and only_adapter.unknown == ["plain"]

    both = merged("both", tiny_base)
    known = read_card(both)
    assert [(data.name, data.drawn) for data in known.trained_on] == [
        ("CrashChat synthetic", True),
        ("Roads", False),
    ]
    assert known.unknown == [] and known.best_validation_loss == 0.5 and known.settings == {"lora_rank": 4}
    assert known.base.name == "tiny_base" and known.base.sha256 == content_hash(tiny_base)
    assert known.clips == read_card(tiny_base).clips  # the adapter's own are not known
    assert known.made and front_matter(both)["library_name"] == "transformers"
    assert PARTLY_DRAWN in (both / README).read_text()
    assert files(both) == files(neither)
    assert read_card(merged("local", tiny_base, to="local")).trained_on == known.trained_on


def test_conversion_keeps_the_card(tiny_base, adapter, tmp_path):
    convert(tiny_base, tmp_path / "local", to="local")
    convert(tmp_path / "local", tmp_path / "native")
    for name in (CARD_FILE, README):
        for folder in ("local", "native"):
            assert (tmp_path / folder / name).read_bytes() == (tiny_base / name).read_bytes()
    write_released_adapter(adapter, tmp_path / "without")
    write_card(adapter, card("flash", use("Roads", False)))
    write_released_adapter(adapter, tmp_path / "released")
    write_adapter(tmp_path / "released", tmp_path / "ours")
    assert read_card(tmp_path / "released") == read_card(tmp_path / "ours") == read_card(adapter)
    assert read_card(tmp_path / "without") is None
    assert files(tmp_path / "without") == files(tmp_path / "released")
    assert read_adapter(tmp_path / "ours").form == "ours"


def test_what_is_said_of_drawings_comes_from_the_cards(capsys):
    drawn, real = card("real_roads", use("Drawings", True)), card("drawings", use("Roads", False))
    assert warnings_of([]) == warnings_of([None]) == warnings_of([real, None]) == []
    assert warnings_of([drawn, None]) == [DRAWN] and warnings_of([real, drawn]) == [PARTLY_DRAWN]
    assert learnt_on(None, []) == "no card: what it learnt on is not known"
    assert learnt_on(drawn.trained_on, []) == "learnt on Drawings (drawings)"
    assert learnt_on(real.trained_on, ["seven"]) == "learnt on Roads, and on what is not known of seven"
    tell_cards({Path("a"): drawn, Path("b"): None})
    assert capsys.readouterr().out.splitlines() == [
        f"warning: {DRAWN}",
        "a: learnt on Drawings (drawings)",
        "b: no card: what it learnt on is not known",
    ]
