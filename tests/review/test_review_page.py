"""crashchat review: a real server, and a real browser that is driven by keyboard alone."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from crashchat.__main__ import main
from crashchat.config import ROOT
from crashchat.review.store import Store
from tests.helpers.accessibility import faults_of
from tests.helpers.review import make_analysis
from tests.helpers.serving import free_port


def start(folder: Path, *words: str) -> tuple[subprocess.Popen, str]:
    port = free_port()
    command = [sys.executable, "-m", "crashchat", "review", str(folder), "--port", str(port), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder.parent)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    while True:
        try:
            httpx.get(f"{url}/", timeout=5)
            return process, url
        except httpx.TransportError:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)


@pytest.fixture(scope="module")
def folder(once, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "analysis"
    shutil.copytree(once("reviewed", make_analysis) / "analysis", folder)
    return folder


@pytest.fixture(scope="module")
def server(folder) -> Iterator[str]:
    process, url = start(folder, "--user", "anna")
    yield url
    process.terminate()
    process.wait(30)


def test_clips_are_decided_by_keyboard_alone(server, folder, browser):
    page = browser.new_page(color_scheme="dark")
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.goto(server)
    page.wait_for_selector("body[data-clip=clip09]", timeout=60000)
    assert faults_of(page) == []
    page.keyboard.press("?")
    assert page.is_visible("#help") and "play or pause" in page.inner_text("#help")
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    page.wait_for_selector("body[data-clip=clip08]")
    page.keyboard.press("]")
    page.keyboard.press("f")
    page.keyboard.press("m")
    page.keyboard.type("a comment, c x u")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("body:not([data-clip=clip08])")
    page.keyboard.press("u")
    page.wait_for_selector("#told:has-text('unsure')")
    page.keyboard.press("z")
    page.wait_for_selector("#told:has-text('undone')")
    page.keyboard.press("t")
    page.wait_for_selector("#statistics[open]")
    assert "Random share" in page.inner_text("#figures")
    page.close()
    told = [(one.user, one.clip, one.verdict, one.comment) for one in Store(folder).decisions()]
    assert told[:2] == [("anna", "clip09", "confirm", ""), ("anna", "clip08", "correct", "a comment, c x u")]
    assert [verdict for _, _, verdict, _ in told[2:]] == ["unsure", "undo"]
    assert faults == []


def test_only_the_analysis_is_served(server):
    number = httpx.get(f"{server}/api/queue").json()["next"][0]["clip"]
    part = httpx.get(f"{server}/videos/{number}", headers={"Range": "bytes=0-9"})
    assert part.status_code == 206 and len(part.content) == 10
    for path in ("/videos/9999", "/strips/1/99"):
        assert httpx.get(server + path).status_code == 409
    for path in (
        "/videos/..%2f..%2fetc%2fpasswd",
        "/docs",
        "/static/card.js",
        "/review.sqlite",
    ):
        assert httpx.get(server + path).status_code == 404
    clip = httpx.get(f"{server}/api/clips/{number}").json()
    labels = clip["model"] | {"crash": True, "start": 1, "end": 99, "first_sign": None}
    body = {"clip": number, "verdict": "correct", "labels": labels}
    refused = httpx.post(f"{server}/api/decisions", json=body)
    assert refused.status_code == 409 and "lies outside its clip" in refused.json()["detail"]
    foreign = httpx.post(f"{server}/api/undo", json={}, headers={"Origin": "http://example.org"})
    assert foreign.status_code == 403
    assert httpx.get(server, headers={"Host": "example.org"}).status_code == 400


def test_users_sign_in_and_do_what_their_role_allows(once, tmp_path, capsys):
    folder = tmp_path / "analysis"
    shutil.copytree(once("reviewed", make_analysis) / "analysis", folder)
    assert main(["review", str(folder), "--host", "0.0.0.0"]) == 2
    assert "add users first" in capsys.readouterr().err
    (tmp_path / "password").write_text("correct horse\n")
    for name, role in (("lea", "lead"), ("rob", "reader")):
        words = ["--add-user", name, "--role", role, "--password-file", str(tmp_path / "password")]
        assert main(["review", str(folder), *words]) == 0
    assert main(["review", str(folder), "--user", "lea"]) == 2
    assert "sign in by password" in capsys.readouterr().err
    process, url = start(folder)
    try:
        assert httpx.get(f"{url}/api/queue").status_code == 401
        assert httpx.get(f"{url}/api/queue", auth=("nobody", "correct horse")).status_code == 401
        assert httpx.get(f"{url}/api/queue", auth=("lea", "correct horse")).json()["role"] == "lead"
        body = {"clip": 1, "verdict": "unsure", "labels": {}}
        reader = httpx.post(f"{url}/api/decisions", json=body, auth=("rob", "correct horse"))
        assert reader.status_code == 409 and "is a reader" in reader.json()["detail"]
        assert httpx.post(f"{url}/api/decisions", json=body, auth=("lea", "correct horse")).status_code == 200
    finally:
        process.terminate()
        process.wait(30)
