"""crashchat review: a real server, and a real browser that is driven by keyboard alone."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from crashchat.__main__ import main
from crashchat.review.folder import read_folder
from crashchat.review.labels import model_labels
from crashchat.review.store import Store
from tests.helpers.accessibility import faults_of
from tests.helpers.forks import Fork, begin, free_port
from tests.helpers.review import make_analysis
from tests.helpers.web import web


def start(folder: Path, *words: str) -> tuple[Fork, str]:
    port = free_port()
    command = ["review", str(folder), "--port", str(port), *words]
    with open(folder.parent / "log", "ab") as log:
        process = begin(command, log, environment={"TMPDIR": str(folder.parent)})
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    while True:
        try:
            web.get(f"{url}/", timeout=5)
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


def shown(page, name: str | None = None, other_than: str = "") -> str:
    """Wait until a clip can be decided: this one, or any other than that; returns its name."""
    page.wait_for_function(
        "([name, other]) => { const clip = document.body.dataset.clip;"
        " return clip && (name ? clip === name : clip !== other); }",
        arg=[name, other_than],
    )
    return page.evaluate("document.body.dataset.clip")


def told(page, text: str) -> None:
    page.wait_for_selector(f"#told:has-text('{text}')")


def press_at_once(page, *keys: str, repeat: bool = False) -> None:
    """Keys so quick behind each other that the page answers none before the last one came."""
    script = (
        "([keys, repeat]) => { for (const key of keys)"
        " document.body.dispatchEvent(new KeyboardEvent('keydown', { key, repeat, bubbles: true })); }"
    )
    page.evaluate(script, [list(keys), repeat])


@pytest.fixture
def page(server, browser):
    """The review in a browser, whose errors fail the test."""
    page, faults = browser.new_page(color_scheme="dark"), []
    page.on("pageerror", lambda error: faults.append(str(error)))

    def written(message) -> None:
        if message.type == "error" and "503" not in message.text:  # what a test answers on purpose
            faults.append(message.text)

    page.on("console", written)
    page.goto(server)
    yield page
    page.close()
    assert faults == []


def decisions(folder: Path) -> list[tuple[str, str, str, str]]:
    return [(one.user, one.clip, one.verdict, one.comment) for one in Store(folder).decisions()]


def test_clips_are_decided_by_keyboard_alone(page, folder):
    shown(page, "clip09")
    assert faults_of(page) == []
    page.keyboard.press("?")
    assert page.is_visible("#help") and "play or pause" in page.inner_text("#help")
    page.keyboard.press("Escape")
    page.wait_for_selector("#help", state="hidden")
    page.keyboard.press("c")
    shown(page, "clip08")
    page.wait_for_function("() => document.querySelector('#screen video').readyState > 0")
    page.keyboard.press("]")
    page.keyboard.press("f")
    page.keyboard.press("m")
    page.keyboard.type("a comment, c x u")
    page.keyboard.press("Control+Enter")
    third = shown(page, other_than="clip08")
    page.keyboard.press("u")
    told(page, f"{third}: unsure")
    page.keyboard.press("z")  # the next clip may not be there yet: it is taken all the same
    told(page, f"{third}: undone")
    page.keyboard.press("t")
    page.wait_for_selector("#statistics[open]")
    assert "Random share" in page.inner_text("#figures")
    assert decisions(folder) == [
        ("anna", "clip09", "confirm", ""),
        ("anna", "clip08", "correct", "a comment, c x u"),
        ("anna", third, "unsure", ""),
        ("anna", third, "undo", ""),
    ]


def test_a_quick_reviewer_decides_no_clip_unseen_and_loses_no_decision(page, folder):
    before, first = decisions(folder), shown(page)
    press_at_once(page, "u", repeat=True)  # a key that is held down
    press_at_once(page, "u", "u", "c", "n", "u")
    second = shown(page, other_than=first)
    assert decisions(folder) == [*before, ("anna", first, "unsure", "")]

    held = []

    def hold(route) -> None:  # as a slow server does
        held.append(route)

    page.route("**/api/decisions", hold)
    page.keyboard.press("b")
    page.wait_for_function("() => document.querySelector('main').inert")
    while not held:
        page.wait_for_timeout(20)
    for key in ("o", "n", "c", "u"):
        page.keyboard.press(key)
        told(page, "Not taken")
    press_at_once(page, "z", "z", "z")  # of the decision that is on its way, and of no other
    held.pop().continue_()
    told(page, f"{second}: undone")
    shown(page, second)
    assert page.input_value("[name=crash]") == {True: "yes", False: "no"}.get(model_says(folder, second), "")
    ours = [("anna", first, "unsure", ""), ("anna", second, "unusable", ""), ("anna", second, "undo", "")]
    assert decisions(folder) == [*before, *ours]

    page.route("**/api/decisions", lambda route: route.fulfill(status=503, json={"detail": "try again"}))
    page.keyboard.press("u")
    told(page, "try again")
    shown(page, second)  # it stays until it is saved
    page.unroute("**/api/decisions")


def test_what_was_written_of_a_clip_is_there_when_it_comes_again(page, folder):
    first = shown(page)
    page.keyboard.press("u")
    second = shown(page, other_than=first)
    page.keyboard.press("m")
    page.keyboard.type("half a comm")
    page.keyboard.press("Escape")
    page.keyboard.press("z")
    shown(page, first)
    assert page.input_value("[name=comment]") == ""
    page.keyboard.press("n")
    shown(page, second)
    assert page.input_value("[name=comment]") == "half a comm"
    assert decisions(folder)[-1][2] == "undo"


def model_says(folder: Path, name: str) -> bool | None:
    return model_labels(read_folder(folder)[name].result).crash


def test_only_the_analysis_is_served(server):
    number = web.get(f"{server}/api/queue").json()["next"][0]["clip"]
    part = web.get(f"{server}/videos/{number}", headers={"Range": "bytes=0-9"})
    assert part.status_code == 206 and len(part.content) == 10
    for path in ("/videos/9999", "/strips/1/99"):
        assert web.get(server + path).status_code == 409
    for path in (
        "/videos/..%2f..%2fetc%2fpasswd",
        "/docs",
        "/static/card.js",
        "/review.sqlite",
    ):
        assert web.get(server + path).status_code == 404
    clip = web.get(f"{server}/api/clips/{number}").json()
    labels = clip["model"] | {"crash": True, "start": 1, "end": 99, "first_sign": None}
    body = {"clip": number, "verdict": "correct", "labels": labels}
    refused = web.post(f"{server}/api/decisions", json=body)
    assert refused.status_code == 409 and "lies outside its clip" in refused.json()["detail"]
    foreign = web.post(f"{server}/api/undo", json={}, headers={"Origin": "http://example.org"})
    assert foreign.status_code == 403
    assert web.get(server, headers={"Host": "example.org"}).status_code == 400


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
        assert web.get(f"{url}/api/queue").status_code == 401
        assert web.get(f"{url}/api/queue", auth=("nobody", "correct horse")).status_code == 401
        assert web.get(f"{url}/api/queue", auth=("lea", "correct horse")).json()["role"] == "lead"
        body = {"clip": 1, "verdict": "unsure", "labels": {}}
        reader = web.post(f"{url}/api/decisions", json=body, auth=("rob", "correct horse"))
        assert reader.status_code == 409 and "is a reader" in reader.json()["detail"]
        assert web.post(f"{url}/api/decisions", json=body, auth=("lea", "correct horse")).status_code == 200
    finally:
        process.terminate()
        process.wait(30)
