"""crashchat serve: a real server, a real browser, and what it must withstand."""

import http.client
import re
import time
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import pytest
from filelock import FileLock

from crashchat.__main__ import main
from crashchat.analysis.clip import window_settings
from crashchat.analysis.results import ClipResult
from crashchat.answering.loading import load_cascade
from crashchat.checkpoints.model_card import DRAWN
from crashchat.serving.clip_service import Busy, ClipService, Limits
from crashchat.serving.serve import IN_USE
from crashchat.video.source import probe
from tests.helpers.clips import ffmpeg
from tests.helpers.flashes import INTERVAL
from tests.helpers.models import CPU, MODEL
from tests.helpers.serving import Server
from tests.helpers.web import web

VALIDATOR = jsonschema.Draft202012Validator(ClipResult.model_json_schema(mode="serialization"))
PASSWORD = "correct horse"


def test_the_endpoint_answers_as_analyze_does(server, clips):
    answer = server.analyze(clips["crash"])
    assert answer.status_code == 200
    result = answer.json()
    VALIDATOR.validate(result)
    assert result["status"] == "crash" and result["path"] == "crash.mp4"
    assert result["windows"][0]["answers"][4]["raw_response"] == INTERVAL
    assert server.analyze(clips["calm"]).json()["status"] == "no crash"
    # What the model learnt on is told by its card, with every answer, of a broken clip too.
    assert result["warnings"] == [DRAWN]
    assert result["model"]["base"]["trained_on"] == [{"name": "CrashChat synthetic", "drawn": True}]
    assert result["model"]["linguistic"]["trained_on"] is None
    assert server.analyze(clips["broken"]).json()["detail"]["warnings"] == [DRAWN]
    health = web.get(f"{server.url}/api/health").json()
    assert health["warnings"] == [DRAWN] and health["model"] == result["model"]
    assert server.clips() == [] and server.private_folder().stat().st_mode & 0o777 == 0o700


def test_what_it_does_not_take_is_told(server, clips, tmp_path):
    broken = server.analyze(clips["broken"])
    assert broken.status_code == 422 and "not readable" in broken.json()["detail"]["error"]
    long = server.analyze(clips["long"])
    assert long.status_code == 422 and "lasts 130 s, the limit is 120 s" in long.json()["detail"]["error"]
    (tmp_path / "big.mp4").write_bytes(bytes(3 * 2**20))
    assert server.analyze(tmp_path / "big.mp4").status_code == 413
    assert server.analyze(clips["calm"], headers={"Origin": "http://example.org"}).status_code == 403
    assert server.analyze(clips["calm"], headers={"Host": "example.org"}).status_code == 400
    chunked = http.client.HTTPConnection("127.0.0.1", server.port)
    chunked.request(
        "POST", "/api/analyze", iter([b"x"] * 3), {"Transfer-Encoding": "chunked"}, encode_chunked=True
    )
    assert chunked.getresponse().status == 411
    assert web.get(f"{server.url}/clips/guess").status_code == 404
    missing = web.post(f"{server.url}/api/analyze", files={"other": ("clip.mp4", b"x")})
    assert missing.status_code == 422 and [fault["loc"] for fault in missing.json()["detail"]] == [
        ["body", "file"]
    ]
    assert server.clips() == []


def test_an_analysis_is_reviewed_beside_the_page(server):
    assert "](review/)" in web.get(server.url).text
    page = web.get(f"{server.url}/review/")
    assert page.status_code == 200 and 'src="static/review.js"' in page.text
    assert web.get(f"{server.url}/review/static/review.js").status_code == 200
    queue = web.get(f"{server.url}/review/api/queue").json()
    body = {"clip": queue["next"][0]["clip"], "verdict": "unsure", "labels": {}}
    assert web.post(f"{server.url}/review/api/decisions", json=body).status_code == 200
    again = web.get(f"{server.url}/review/api/queue").json()
    assert again["decided"] == queue["decided"] + 1 and again["role"] == "lead"
    foreign = {"Origin": "http://example.org"}
    assert web.post(f"{server.url}/review/api/undo", json={}, headers=foreign).status_code == 403
    for path in ("/api/queue", "/review/api/health", "/review/review.sqlite"):
        assert web.get(server.url + path).status_code == 404


def test_a_review_beside_the_page_is_for_this_machine_alone(tmp_path, capsys):
    (tmp_path / "password").write_text(PASSWORD)
    assert main(["serve", "--review", str(tmp_path), "--password-file", str(tmp_path / "password")]) == 2
    assert "is for this machine alone, without a password" in capsys.readouterr().err
    assert main(["serve", "--review", str(tmp_path)]) == 2
    assert "holds no results" in capsys.readouterr().err


def test_what_gradio_has_besides_the_page_is_closed(server):
    closed = (
        "config",
        "openapi.json",
        "docs",
        "monitoring",
        "login",
        "gradio_api/info",
        "gradio_api/openapi.json",
    )
    closed += (
        "gradio_api/dev/reload",
        "gradio_api/queue/status",
        "gradio_api/deep_link?session_hash=a",
        "gradio_api/vibe-code/",
    )
    closed += (
        "gradio_api/run-history/buckets",
        "gradio_api/proxy=https://example.hf.space/",
        "gradio_api/runs",
    )
    closed += tuple(
        f"gradio_api/file={path}" for path in ("/etc/passwd", "README.md", server.private_folder() / IN_USE)
    )
    assert {path: web.get(f"{server.url}/{path}").status_code for path in closed} == dict.fromkeys(
        closed, 404
    )
    for path in (
        "login",
        "gradio_api/run/guarded",
        "gradio_api/call/guarded",
        "gradio_api/component_server",
        "gradio_api/cancel",
    ):
        assert web.post(f"{server.url}/{path}", json={}).status_code == 404


def test_ten_requests_at_once_are_all_answered(server, clips):
    wanted = [clips["crash"], clips["calm"], clips["broken"], clips["calm"], clips["crash"]] * 2
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(server.analyze, wanted))
    assert [answer.status_code for answer in answers] == [200, 200, 422, 200, 200] * 2
    for clip, answer in zip(wanted, answers, strict=True):
        if answer.status_code == 200:
            assert answer.json()["status"] == ("crash" if clip == clips["crash"] else "no crash")


def test_the_page_shows_the_card_and_answers_questions(server, clips, browser):
    page = browser.new_page()
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(server.url)
    banner = page.wait_for_selector(".cc-banner[role=note]")
    assert banner.is_visible() and banner.inner_text() == DRAWN
    assert banner.bounding_box()["y"] < page.locator("h1").bounding_box()["y"] < 400
    models = page.inner_text(".cc-models")
    assert "base tiny_base, learnt on CrashChat synthetic (drawings)" in models
    assert "linguistic adapter flash_linguistic, no card: what it learnt on is not known" in models
    assert page.is_disabled("#ask")

    page.set_input_files("#clip input[type=file]", clips["crash"])
    page.wait_for_selector(".cc-clip[data-status=crash]")
    assert page.inner_text(".cc-drawn") == "model learnt on drawings"
    assert "Its frame rate is 1 a second; that of the training clips" in page.inner_text(".cc-unlike")
    assert "8.0 s – 12.0 s" in page.inner_text(".cc-times")
    assert len(server.clips()) == 1
    page.wait_for_selector("#question textarea:enabled")
    for number, question in enumerate(("Is there a car?", "What happens?"), start=1):
        page.fill("#question textarea", question)
        if number == 1:
            page.press("#question textarea", "Enter")
        else:
            page.click("#ask")
        page.wait_for_selector(f"#chat [data-testid=bot] >> nth={number - 1}")
    assert page.locator("#chat [data-testid=user]").all_inner_texts() == ["Is there a car?", "What happens?"]
    assert all(text.strip() for text in page.locator("#chat [data-testid=bot]").all_inner_texts())
    page.click(".cc-strip")
    page.wait_for_timeout(1000)
    at, error = page.evaluate(
        "(video => [video.currentTime, video.error?.code ?? 0])(document.querySelector('.cc-video video'))"
    )
    assert at >= 8.0 or error == 4  # a browser may lack the codec

    # A broken clip tells what is wrong with it, the one before is deleted, and the next is looked at.
    page.click(
        "#clip button[aria-label='Clear'], #clip button[aria-label='Remove this file'], #clip "
        "button[title='Clear']"
    )
    page.wait_for_selector(".cc-clip", state="detached")
    page.set_input_files("#clip input[type=file]", clips["broken"])
    page.wait_for_selector(".cc-clip[data-status=failed]")
    assert "not readable" in page.inner_text(".cc-fault")
    assert server.clips() == []

    assert faults == [] and asked
    assert all(re.match(rf"({server.url}/|data:|blob:)", url) for url in asked), asked
    page.close()


def test_a_closed_page_leaves_no_clip_behind(server, clips, browser):
    page = browser.new_page()
    page.goto(server.url)
    page.set_input_files("#clip input[type=file]", clips["calm"])
    page.wait_for_selector(".cc-clip[data-status='no crash']")
    assert len(server.clips()) == 1
    page.close()
    deadline = time.monotonic() + 300
    while server.clips() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert server.clips() == []


def test_a_password_guards_everything(tiny_base, tmp_path, browser, clips):
    running = Server(tmp_path, *MODEL, "--model", str(tiny_base), CRASHCHAT_PASSWORD=PASSWORD)
    try:
        for path in ("/", "/api/health", "/gradio_api/info", "/config", "/clips/x"):
            assert web.get(running.url + path).status_code == 401
        assert running.analyze(clips["calm"]).status_code == 401
        assert running.analyze(clips["calm"], auth=("", "wrong")).status_code == 401
        assert running.analyze(clips["calm"], auth=("anyone", PASSWORD)).status_code == 200
        page = browser.new_page(http_credentials={"username": "anyone", "password": PASSWORD})
        page.goto(running.url)
        page.set_input_files("#clip input[type=file]", clips["calm"])
        page.wait_for_selector(".cc-clip")
        page.close()
    finally:
        running.stop()


def test_what_a_killed_server_left_is_deleted_by_the_next(tiny_base, tmp_path):
    killed = Server(tmp_path, *MODEL, "--model", str(tiny_base))
    left = killed.private_folder()
    killed.process.kill()
    killed.process.wait(30)
    assert (left / IN_USE).is_file()
    others, running = tmp_path / "crashchat-of-others", tmp_path / "crashchat-running"
    others.mkdir()
    running.mkdir()
    with FileLock(running / IN_USE):  # as a server that runs holds it
        following = Server(tmp_path, *MODEL, "--model", str(tiny_base))
    kept = set(tmp_path.glob("crashchat-*"))
    following.stop()
    assert left not in kept and {others, running} < kept and len(kept) == 3


def test_others_are_let_in_only_with_a_password(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("CRASHCHAT_PASSWORD", raising=False)
    assert main(["serve", "--host", "0.0.0.0", "--model", "nowhere"]) == 2
    assert "lets others in: give --password-file" in capsys.readouterr().err
    (tmp_path / "password").write_text("\n")
    assert main(["serve", "--password-file", str(tmp_path / "password"), "--model", "nowhere"]) == 2
    assert "is empty, expected a password" in capsys.readouterr().err


def test_the_queue_and_the_open_clips_have_ends(tiny_base, tmp_path, clips):
    cascade = load_cascade(tiny_base, fps=1, max_frames=20, max_new_tokens=4, device=CPU)
    service = ClipService(cascade, window_settings(cascade), tmp_path, Limits(queue=2, kept=1))
    with service.slot(), service.slot(), pytest.raises(Busy, match="2 clips are waiting"):
        service.look_at(clips["calm"], "calm.mp4")
    opened = []
    for session in ("one", "two"):
        path = service.place("calm.MP4")
        path.write_bytes(clips["calm"].read_bytes())
        opened.append(service.keep(session, path, service.look_at(path, "calm.MP4")))
    assert service.opened("one") is None and not opened[0].path.exists()
    assert service.file(opened[1].token) == opened[1].path and opened[1].path.suffix == ".mp4"
    assert (
        service.place("../../etc/passwd.sh").parent == tmp_path and service.place("x.sh").suffix == ".video"
    )
    assert isinstance(service.ask(opened[1], "Why?", None), str)


def test_a_recording_can_be_asked_about(tiny_base, tmp_path, clips):
    cascade = load_cascade(tiny_base, fps=1, max_frames=20, max_new_tokens=4, device=CPU)
    service = ClipService(cascade, window_settings(cascade, whole_up_to=60), tmp_path, Limits())
    path = service.place("long.mp4")
    path.write_bytes(clips["long"].read_bytes())
    opened = service.keep("one", path, service.look_at(path, "long.mp4"))
    assert len(opened.analysis.result.windows) == 12 and service.subject(opened) == (0.0, 20.0)
    assert isinstance(service.ask(opened, "Why?", None), str)


def test_a_clip_that_no_browser_plays_is_shown_as_a_copy(tiny_base, tmp_path, clips):
    cascade = load_cascade(tiny_base, fps=1, max_frames=20, max_new_tokens=4, device=CPU)
    service = ClipService(cascade, window_settings(cascade), tmp_path, Limits())
    path = service.place("calm.avi")
    ffmpeg("-i", clips["calm"], "-c:v", "mpeg4", path)
    opened = service.keep("one", path, service.look_at(path, "calm.avi"))
    copy = service.playable(opened.token)
    assert copy != path and probe(copy).codec == "h264" and service.playable(opened.token) == copy
    service.drop("one")
    assert list(tmp_path.iterdir()) == [] and service.playable(opened.token) is None
