"""What is kept of decisions, by whom, and what does not get through."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crashchat.config import ROOT
from crashchat.review.folder import read_folder
from crashchat.review.labels import Labels, ReviewError, model_labels
from crashchat.review.store import FILE, Store
from tests.helpers.review import make_analysis

DECISIONS, REVIEWERS = int(os.environ.get("CRASHCHAT_DECISIONS", "200")), 4


@pytest.fixture(scope="session")
def analysis(once) -> Path:
    """A folder of ten clips and their results; tests spoil copies."""
    return once("reviewed", make_analysis) / "analysis"


@pytest.fixture
def folder(analysis, tmp_path) -> Path:
    shutil.copytree(analysis, tmp_path / "analysis")
    return tmp_path / "analysis"


@pytest.fixture
def store(folder) -> Store:
    """With a lead, two reviewers and a reader."""
    store = Store(folder)
    store.sync(read_folder(folder))
    for name, role in (("lea", "lead"), ("anna", "reviewer"), ("ben", "reviewer"), ("rob", "reader")):
        store.add_user(name, role, None)
    return store


def moved(labels: Labels, **changes) -> Labels:
    return labels.model_copy(update=changes)


def test_killed_reviewers_lose_nothing(store, folder):
    """What was told as kept is kept, whole and once; 1,000 decisions with CRASHCHAT_DECISIONS=1000."""
    users = [f"user{number}" for number in range(REVIEWERS)]
    for user in users:
        store.add_user(user, "reviewer", None)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    words = [sys.executable, "-m", "tests.helpers.decide", str(folder), str(DECISIONS), *users]
    done = subprocess.run(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    found = json.loads(done.stdout)
    told, kept = found["told"], store.decisions()
    assert len(set(told)) == len(told) >= DECISIONS and found["kills"] > REVIEWERS
    assert set(told) <= {one.id for one in kept}
    # Of each that was killed, at most the last decision was kept and not told.
    assert len(kept) - len(told) <= found["kills"]
    assert {one.user for one in kept} == set(users) and all(one.comment.startswith(one.user) for one in kept)
    with sqlite3.connect(folder / FILE) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.decide(read_folder(folder)["clip00"], "anna", "unsure")


def test_an_undo_is_a_decision_and_nothing_is_ever_changed(store, folder):
    clip = read_folder(folder)["clip00"]
    before = model_labels(clip.result)
    store.decide(clip, "anna", "confirm")
    store.decide(clip, "anna", "correct", moved(before, end=7.0), "longer")
    assert store.standings()["clip00"].final.after.end == 7.0
    assert store.undo("anna").comment == "longer"
    assert store.standings()["clip00"].final.verdict == "confirm"
    store.undo("anna")
    assert "clip00" not in store.standings()
    with pytest.raises(ReviewError, match="anna: has no decision to undo"):
        store.undo("anna")
    told = [(one.user, one.verdict, one.before.end, one.after.end) for one in store.decisions()]
    assert told == [
        ("anna", "confirm", 6.0, 6.0),
        ("anna", "correct", 6.0, 7.0),
        ("anna", "undo", 7.0, 6.0),
        ("anna", "undo", 6.0, 6.0),
    ]
    for words in ("UPDATE decisions SET comment = ''", "DELETE FROM decisions"):
        with (
            sqlite3.connect(folder / FILE) as connection,
            pytest.raises(sqlite3.IntegrityError, match="never"),
        ):
            connection.execute(words)
    assert model_labels(read_folder(folder)["clip00"].result) == before  # the model's answer is its own


def test_a_lead_settles_what_others_disagree_about(store, folder):
    clip = read_folder(folder)["clip00"]
    before = model_labels(clip.result)
    store.decide(clip, "anna", "confirm")
    store.decide(clip, "ben", "correct", moved(before, end=6.9))
    assert not store.standings()["clip00"].disagree  # less than a second apart
    store.decide(clip, "ben", "correct", Labels(crash=False))
    assert store.standings()["clip00"].disagree and store.standings()["clip00"].final is None
    store.decide(clip, "lea", "confirm")
    standing = store.standings()["clip00"]
    assert standing.settled.user == "lea" and standing.final == standing.settled
    assert set(standing.opinions) == {"anna", "ben"}
    store.undo("lea")
    assert store.standings()["clip00"].disagree
    store.decide(clip, "ben", "unsure")  # who is unsure contradicts nobody
    assert store.standings()["clip00"].final.user == "anna"


@pytest.mark.parametrize(
    ("user", "verdict", "changes", "told"),
    [
        ("nobody", "confirm", {}, "unknown user 'nobody'; known are anna, ben, lea, rob"),
        ("rob", "confirm", {}, "rob: is a reader"),
        ("anna", "confirm", {"end": 7.0}, "save this as a correction"),
        ("anna", "correct", {"end": 11.0}, "crash end at 11 s lies outside its clip of 10.0 s"),
        ("anna", "correct", {"first_sign": -1.0}, "first sign at -1 s lies outside its clip"),
        ("anna", "correct", {"first_sign": 5.0}, "first sign at 5 s comes after the crash's start at 4 s"),
        ("anna", "correct", {"start": 7.0}, "ends at 6 s, before its start at 7 s"),
        ("anna", "correct", {"end": None}, "give the crash's start and end, or neither"),
        ("anna", "correct", {"crash": False}, "no crash, but first sign at 3 s"),
        ("anna", "correct", {"crash": None}, "neither crash nor no crash"),
        ("anna", "correct", {"cause": "x" * 5000}, "a text has 5,000 characters"),
        ("anna", "maybe", {}, "verdict 'maybe': expected one of confirm, correct"),
    ],
)
def test_what_cannot_be_said_is_told_in_a_line(store, folder, user, verdict, changes, told):
    clip = read_folder(folder)["clip00"]
    with pytest.raises(ReviewError) as refused:
        store.decide(clip, user, verdict, moved(model_labels(clip.result), **changes))
    assert told in str(refused.value) and "\n" not in str(refused.value)
    assert store.decisions() == []


def _no_analysis(folder: Path) -> None:
    for path in folder.glob("*.json"):
        path.unlink()


def _other_json(folder: Path) -> None:
    (folder / "clip00.json").write_text('{"format": "another"}')


def _version(folder: Path) -> None:
    with sqlite3.connect(folder / FILE) as connection:
        connection.execute("PRAGMA user_version = 99")


def _no_database(folder: Path) -> None:
    for path in folder.glob(f"{FILE}*"):
        path.unlink()
    (folder / FILE).write_text("This is no database. " * 100)


def _another_program(folder: Path) -> None:
    for path in folder.glob(f"{FILE}*"):
        path.unlink()
    with sqlite3.connect(folder / FILE) as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_no_analysis, "holds no results; expected a folder that crashchat analyze wrote"),
        (_other_json, "clip00.json: is no result of crashchat analyze"),
        (_version, "has version 99, this crashchat knows 1"),
        (_no_database, "file is not a database; expected a review"),
        (_another_program, "is another program's database"),
    ],
)
def test_a_folder_that_is_no_analysis_or_no_review_is_told(
    store, folder, spoil: Callable[[Path], None], told
):
    spoil(folder)
    with pytest.raises(ReviewError) as refused:
        Store(folder).sync(read_folder(folder))
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_moved_and_exchanged_videos_are_told(store, folder):
    clips = read_folder(folder)
    clip = clips["clip00"]
    assert clip.missing() is None
    store.decide(clip, "anna", "confirm")
    changed = clip.result.model_copy(update={"bytes": 5})
    path = folder / "clip00.json"
    path.write_text(changed.model_dump_json())
    again = read_folder(folder)
    assert "was 5 bytes when analyzed" in again["clip00"].missing()
    with pytest.raises(ReviewError, match="a new video needs a new name"):
        store.sync(again)
    path.write_text(changed.model_copy(update={"path": "nowhere.mp4"}).model_dump_json())
    assert "moved or deleted since" in read_folder(folder)["clip00"].missing()
    assert len(store.decisions()) == 1


def test_passwords_are_salted_and_checked(store):
    store.add_user("anna", "lead", "correct horse")
    store.add_user("ben", "reviewer", "correct horse")
    assert store.admits("anna", "correct horse") and not store.admits("anna", "wrong")
    assert not store.admits("nobody", "correct horse") and not store.admits("lea", "")
    assert store.roles(with_password=True) == {"anna": "lead", "ben": "reviewer"}
    with sqlite3.connect(store.path) as connection:
        hashes = [row[0] for row in connection.execute("SELECT hash FROM users WHERE hash NOT NULL")]
    assert len(set(hashes)) == 2 and b"correct horse" not in store.path.read_bytes()
    for name in ("", "a:b", "x" * 101, "a\nb"):
        with pytest.raises(ReviewError, match="expected a name"):
            store.add_user(name, "reader", None)
