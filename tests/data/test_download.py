"""crashchat download as a program, against a stand-in for the hub's HTTP interface on this machine."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crashchat.config import ROOT
from tests.helpers.hub import Hub

pytest.importorskip("huggingface_hub")

MIB = 2**20
WEIGHTS = bytes(range(251)) * (4 * MIB // 251)  # no power of two in its period: a shifted byte shows
BASE = "DAMO-NLP-SG/VideoLLaMA3-7B"
MODEL_FILES = {
    "config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "modeling_evil.py": b"raise SystemExit",
    "README.md": b"hi",
}


@pytest.fixture
def serve():
    """serve(files, repo) -> Hub."""
    hubs = []

    def start(files: dict[str, bytes], repo: str = BASE) -> Hub:
        hubs.append(Hub(repo, dict(files)))
        return hubs[-1]

    yield start
    for hub in hubs:
        hub.release.set()
        hub.server.shutdown()
        hub.server.server_close()


def command(hub_url: str, *arguments: object) -> dict:
    """What subprocess needs to run the tool against a hub."""
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": hub_url, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_HUB_OFFLINE": "0"}
    return {
        "args": [sys.executable, "-m", "crashchat", "download", *map(str, arguments)],
        "cwd": ROOT,
        "env": environment,
        "text": True,
    }


def run(hub_url: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run it with no one to ask."""
    return subprocess.run(
        **command(hub_url, *arguments), stdin=subprocess.DEVNULL, capture_output=True, timeout=300
    )


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_checkpoint_comes_whole_without_code_and_is_not_fetched_twice(serve, tmp_path):
    hub, out = serve(MODEL_FILES), tmp_path / "base"
    listed = run(hub.url, "base", "--out", out, "--dry-run")
    assert listed.returncode == 0 and "model.safetensors" in listed.stdout and "to fetch" in listed.stdout
    assert not out.exists() and not hub.gets
    first = run(hub.url, "base", "--out", out)
    assert first.returncode == 0, first.stderr
    assert "GiB in all" in first.stdout and "modeling_evil.py" in first.stdout  # as left out
    assert files_in(out) == {"config.json": b"{}", "model.safetensors": WEIGHTS}
    assert not (out / ".partial").exists()
    assert {name for name, _ in hub.gets} == {"config.json", "model.safetensors"}
    assert all(BASE in path for path in hub.paths), hub.paths  # no telemetry, nothing else asked of the hub
    hub.gets.clear()
    again = run(hub.url, "base", "--out", out)
    assert again.returncode == 0 and not hub.gets, again.stderr


def test_a_broken_connection_is_taken_up_again(serve, tmp_path):
    hub = serve(MODEL_FILES)
    hub.cut_after = 2 * MIB + 5
    assert run(hub.url, "base", "--out", tmp_path).returncode == 0
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS
    asked = [wanted for name, wanted in hub.gets if name == "model.safetensors"]
    assert asked == [None, f"bytes={2 * MIB}-"]


def test_a_killed_download_goes_on_in_the_next_run(serve, tmp_path):
    hub = serve(MODEL_FILES)
    hub.stall_after = 3 * MIB
    process = subprocess.Popen(
        **command(hub.url, "base", "--out", tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert hub.stalled.wait(300)
        deadline = time.monotonic() + 300
        while (
            sum(path.stat().st_size for path in tmp_path.glob(".partial/*")) < 3 * MIB
            and time.monotonic() < deadline
        ):
            time.sleep(0.02)
        second = run(hub.url, "base", "--out", tmp_path)
        assert second.returncode == 1 and "another download" in second.stderr
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    hub.release.set()
    assert not (tmp_path / "model.safetensors").exists()
    hub.stall_after = None
    result = run(hub.url, "base", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert ("model.safetensors", f"bytes={3 * MIB}-") in hub.gets
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_what_differs_from_the_checksum_is_removed(serve, tmp_path, name):
    hub = serve(MODEL_FILES)
    hub.sent[name] = b"X" + MODEL_FILES[name][1:]
    result = run(hub.url, "base", "--out", tmp_path)
    assert result.returncode == 1 and "checksum" in result.stderr and name in result.stderr
    assert set(files_in(tmp_path)) == {"model.safetensors", "config.json"} - {name}
    hub.sent.clear()
    assert run(hub.url, "base", "--out", tmp_path).returncode == 0
    (tmp_path / name).write_bytes(b"Y" + MODEL_FILES[name][1:])  # damaged on the disk
    result = run(hub.url, "base", "--out", tmp_path)
    assert result.returncode == 1 and "checksum" in result.stderr and not (tmp_path / name).exists()


@pytest.mark.parametrize(
    "name",
    ["../evil.json", "/tmp/evil.json", "a/../../evil.json", "C:evil.json", "..\\evil.json", "a//b.json"],
)
def test_names_that_lead_elsewhere_are_refused(serve, tmp_path, name):
    hub = serve({**MODEL_FILES, name: b"evil"})
    result = run(hub.url, "base", "--out", tmp_path / "out")
    assert result.returncode == 1 and "no plain path" in result.stderr
    assert not hub.gets and not list(tmp_path.iterdir())


def test_nothing_is_written_through_a_link(serve, tmp_path):
    hub, out, elsewhere = serve({"sub/config.json": b"{}"}), tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "sub").symlink_to(elsewhere)
    result = run(hub.url, "base", "--out", out)
    assert result.returncode == 1 and "symbolic link" in result.stderr
    (out / "sub").unlink()
    (out / ".partial").symlink_to(elsewhere)
    assert run(hub.url, "base", "--out", out).returncode == 1
    assert not list(elsewhere.iterdir())


def test_above_one_gib_someone_must_agree(serve, tmp_path):
    hub = serve(MODEL_FILES)
    hub.sizes["model.safetensors"] = 2 * 2**30
    result = run(hub.url, "base", "--out", tmp_path)
    assert result.returncode == 2 and "--yes" in result.stderr and "2.00 GiB to fetch" in result.stdout
    master, slave = pty.openpty()
    os.write(master, b"n\n")
    refused = subprocess.run(
        **command(hub.url, "base", "--out", tmp_path), stdin=slave, capture_output=True, timeout=300
    )
    os.close(slave)
    os.close(master)
    assert refused.returncode == 2 and "Go on?" in refused.stdout
    hub.sizes["model.safetensors"] = 2**60
    full = run(hub.url, "base", "--out", tmp_path, "--yes")  # goes on, as far as the disk allows
    assert full.returncode == 1 and "GiB free" in full.stderr
    assert not hub.gets and not list(tmp_path.iterdir())


def test_annotations_and_videos_come_without_the_repositorys_folder(serve, tmp_path):
    files = {
        "annotations/a_val.json": b"[]",
        "videos/cap_1.mp4": b"video",
        "load.py": b"",
        "stats.json": b"{}",
    }
    hub = serve(files, "someone/crash-set")
    for kind, expected in (("annotations", {"a_val.json": b"[]"}), ("videos", {"cap_1.mp4": b"video"})):
        result = run(hub.url, kind, "--repo", "someone/crash-set", "--out", tmp_path / kind)
        assert result.returncode == 0, result.stderr
        assert files_in(tmp_path / kind) == expected
    whole = run(
        hub.url, "annotations", "--repo", "someone/crash-set", "--folder", "", "--out", tmp_path / "all"
    )
    assert whole.returncode == 0 and set(files_in(tmp_path / "all")) == {
        "annotations/a_val.json",
        "stats.json",
    }


def test_errors_say_what_to_do(serve, tmp_path):
    hub = serve({"notes.md": b"nothing here"})
    missing = run(hub.url, "crashchat", "--out", tmp_path)
    assert missing.returncode == 2 and "--repo OWNER/NAME is required" in missing.stderr
    unknown = run(hub.url, "crashchat", "--repo", "no/where", "--out", tmp_path)
    assert unknown.returncode == 1 and "check --repo" in unknown.stderr
    empty = run(hub.url, "base", "--out", tmp_path)
    assert empty.returncode == 1 and ".safetensors" in empty.stderr
    hub.server.shutdown()
    hub.server.server_close()
    down = run(hub.url, "base", "--out", tmp_path)
    assert down.returncode == 1 and "it resumes" in down.stderr and "Traceback" not in down.stderr
