"""Writing: never half a file, never two at once, nothing left for ever."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crashchat.checkpoints.adapters import load_adapter
from crashchat.files import (
    FolderError,
    delete_leftovers,
    held,
    new_folder,
    scratch_folder,
    write_bytes_atomic,
)
from tests.helpers.commands import ENVIRONMENT, ROOT, forked
from tests.helpers.forks import begin


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_a_file_has_the_mode_that_the_umask_says(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_bytes_atomic(tmp_path / "deep" / "file", b"bytes")
    finally:
        os.umask(before)
    assert (tmp_path / "deep" / "file").stat().st_mode & 0o777 == 0o666 & ~umask
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").write_text("kept")
    with pytest.raises(OSError):
        write_bytes_atomic(tmp_path / "taken", b"bytes")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_what_one_has_is_refused_to_another_until_it_ends(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom crashchat.files import held\n"
        f"with held(Path({str(tmp_path)!r}) / 'lock', 'it'):\n    print('has it', flush=True)\n    "
        "time.sleep(1e6)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout.readline() == "has it\n"
            with pytest.raises(FolderError, match=f"it is in use by process {other.pid} on "):
                with held(tmp_path / "lock", "it"):
                    pass
        finally:
            other.kill()
    assert (tmp_path / "lock").exists()  # a killed process cannot remove it, but has it no more
    with held(tmp_path / "lock", "it"):
        pass
    assert not list(tmp_path.iterdir())


def test_the_children_of_a_killed_holder_are_waited_for(tmp_path):
    """They have its lock too, for a while; that the holder is not yet cleared from the list
    of processes is no matter.
    """
    code = (
        "import os, time\nfrom pathlib import Path\nfrom crashchat.files import held\n"
        f"with held(Path({str(tmp_path)!r}) / 'lock', 'it'):\n"
        "    if os.fork() == 0:\n        time.sleep(3)\n        os._exit(0)\n"
        "    print('has it', flush=True)\n    time.sleep(1e6)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "has it\n"
        other.kill()  # and not waited for: it stays in the list until the end of this block
        with held(tmp_path / "lock", "it"):
            pass


def test_a_new_folder_is_whole_or_not_there(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "made") as folder:
        (folder / "file").write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with new_folder(tmp_path / "made") as folder:
        (folder / "file").write_text("whole")
        with pytest.raises(FolderError, match="is in use by"), new_folder(tmp_path / "made"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["made"] and (
        tmp_path / "made" / "file"
    ).read_text() == "whole"
    with pytest.raises(FolderError, match="is not empty"), new_folder(tmp_path / "made"):
        pass


@pytest.fixture(scope="module")
def merge(tiny_base, tiny_tokenizer, tmp_path_factory) -> list[str]:
    """The command that merges a small adapter into the tiny base, but for --out."""
    from crashchat.checkpoints.folders import load_model
    from crashchat.model.lora import add_adapter

    folder = tmp_path_factory.mktemp("adapter")
    add_adapter(load_model(tiny_base, tiny_tokenizer), rank=2, alpha=2, dropout=0).save_pretrained(folder)
    assert load_adapter(load_model(tiny_base, tiny_tokenizer), folder)
    return ["merge", "--base", str(tiny_base), "--adapter", str(folder)]


@pytest.mark.parametrize("layout", ["native", "local"])
def test_what_a_killed_merge_left_goes_with_the_next(merge, tmp_path, layout):
    def hidden() -> list[Path]:
        return [path for path in tmp_path.glob(".*made_*") if path.name.startswith(".model")]

    command = [*merge, "--out", str(tmp_path / "model"), "--to", layout]
    while not hidden():  # on a loaded machine it may end before it is seen at work
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        with open(os.devnull, "w") as nowhere:
            process = begin(command, nowhere)
            while not hidden() and process.poll() is None:
                time.sleep(0.001)
            process.kill()
            process.wait()
    assert not (tmp_path / "model").exists()
    with scratch_folder(tmp_path / "model.v2") as neighbour, scratch_folder(tmp_path / "mode") as another:
        output = forked(*command)
        assert "deleted, left by a process that was killed" in output and not hidden()[1:]
        assert neighbour.is_dir() and another.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_a_killed_writer_left_is_deleted_and_nothing_else(tmp_path, capsys):
    for name in (
        ".result.json.0a1b2c3d",
        ".lock",
        ".result.json.made_abcd1234",
        "result.json",
        ".hidden.json",
    ):
        (tmp_path / name).write_text("x")
    delete_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock", ".result.json.made_abcd1234", "result.json", ".hidden.json"
    }  # fmt: skip
    assert ".result.json.0a1b2c3d: deleted, left by a process that was killed" in capsys.readouterr().out
    delete_leftovers(tmp_path / "nowhere")
    for name in (".one_test.json.0a1b2c3d", ".one_train.json.0a1b2c3d"):
        (tmp_path / name).write_text("x")
    delete_leftovers(tmp_path, of="one_test")
    left = {path.name for path in tmp_path.glob(".one_*")}
    assert left == {".one_train.json.0a1b2c3d"}  # another run may be writing it
