"""The endpoint for programs: questions as OpenAI's clients ask them, jobs, metrics, description, end."""

import base64
import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import jsonschema
import pytest

from tests.helpers.accessibility import faults_of
from tests.helpers.models import MODEL
from tests.helpers.serving import Server
from tests.helpers.web import PATIENCE, web

PASSWORD = "correct horse"


def data_url(clip) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(clip.read_bytes()).decode()}"


def question(url: str | None, text: str = "What happens?", file: str | None = None, **more) -> dict:
    video = (
        {"type": "file", "file": {"file_id": file}}
        if file
        else {"type": "video_url", "video_url": {"url": url}}
    )
    content = [video, {"type": "text", "text": text}]
    return {"model": "crashchat", "messages": [{"role": "user", "content": content}], **more}


def ask(server: Server, body: dict, **options) -> httpx.Response:
    return web.post(f"{server.url}/v1/chat/completions", json=body, **options)


@pytest.fixture(scope="module")
def description(server) -> dict:
    return web.get(f"{server.url}/api/openapi.json").json()


def test_a_question_is_answered_whole_streamed_and_on_an_uploaded_file(server, clips):
    whole = ask(server, question(data_url(clips["crash"])))
    assert whole.status_code == 200, whole.text
    value = whole.json()
    text = value["choices"][0]["message"]["content"]
    assert text and value["object"] == "chat.completion" and value["model"] == "crashchat"
    usage = value["usage"]
    assert usage["prompt_tokens"] > 20 and usage["completion_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

    sent = web.post(
        f"{server.url}/v1/files",
        files={"file": ("a.mp4", clips["crash"].read_bytes())},
        data={"purpose": "vision"},
    ).json()
    assert ask(server, question(None, file=sent["id"])).json()["choices"] == value["choices"]
    with web.stream(
        "POST",
        f"{server.url}/v1/chat/completions",
        json=question(None, file=sent["id"], stream=True),
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert events[-1] == "[DONE]"
    deltas = [json.loads(event)["choices"][0] for event in events[:-1]]
    assert "".join(one["delta"].get("content", "") for one in deltas) == text
    assert len(deltas) > 3 and deltas[-1]["finish_reason"] == value["choices"][0]["finish_reason"]
    short = ask(server, question(None, file=sent["id"], max_tokens=1)).json()
    assert short["choices"][0]["finish_reason"] == "length" and short["usage"]["completion_tokens"] == 1
    # Each adapter, and the base, can be asked by name.
    names = [model["id"] for model in web.get(f"{server.url}/v1/models").json()["data"]]
    assert names == ["crashchat", "linguistic", "perception", "base"]
    other = ask(server, question(None, file=sent["id"]) | {"model": "perception"})
    assert other.json()["choices"][0]["message"]["content"] != text
    assert web.delete(f"{server.url}/v1/files/{sent['id']}").json()["deleted"] is True
    gone = ask(server, question(None, file=sent["id"]))
    assert gone.status_code == 404 and gone.json()["error"]["message"] == "no such file; upload it again"
    assert server.clips() == []


def test_no_path_is_opened_and_no_address_fetched(server, clips):
    listened = []
    for url in (
        f"file://{clips['crash']}",
        str(clips["crash"]),
        f"{server.url}/api/health",
        "data:video/mp4;base64,AAAA\n/etc/passwd",
        "data:text/plain;base64,AAAA",
        "data:video/mp4;base64,§§",
    ):
        answer = ask(server, question(url))
        assert answer.status_code == 422, (url, answer.text)
        listened.append(answer.text)
    assert not any(str(clips["crash"].parent / "x") in text for text in listened)
    for file in ("file-../../etc/passwd", f"file-{'a' * 22}"):
        assert ask(server, question(None, file=file)).status_code in (404, 422)
    for path in ("/v1/files/..%2f..%2fetc", "/api/jobs/..%2f..", "/v1/files"):
        assert web.get(server.url + path).status_code in (404, 405)


def test_what_is_wrong_is_told_as_openais_clients_read_it(server, clips):
    url = data_url(clips["calm"])
    assert ask(server, question(url, temperature=0.7)).status_code == 422
    assert (
        ask(server, question(url) | {"model": "gpt"})
        .json()["error"]["message"]
        .endswith("known are crashchat, linguistic, perception, base")
    )
    two = question(url)
    two["messages"][0]["content"].append(two["messages"][0]["content"][0])
    assert "found 2 videos and 1 texts" in ask(server, two).json()["error"]["message"]
    broken = ask(server, question(data_url(clips["broken"])))
    assert broken.status_code == 422 and "not readable" in broken.json()["error"]["message"]
    long = ask(server, question(data_url(clips["long"])))
    assert "lasts 130 s; expected a video of 120 s at most" in long.json()["error"]["message"]
    large = ask(server, question(f"data:video/mp4;base64,{'A' * 3 * 2**20}"))
    assert large.status_code == 413 and "upload it to /v1/files first" in large.text
    assert ask(server, question(url), headers={"Origin": "http://example.org"}).status_code == 403
    assert server.clips() == []


def finished(server: Server, job: str) -> dict:
    deadline = time.monotonic() + 300
    while (state := web.get(f"{server.url}/api/jobs/{job}").json())["status"] not in ("done", "failed"):
        assert time.monotonic() < deadline and 0 <= state["progress"] <= 1
        time.sleep(0.1)
    return state


def test_a_job_is_looked_at_while_nobody_waits(server, clips):
    jobs = {}
    for name in ("crash", "broken", "calm"):
        answer = web.post(f"{server.url}/api/jobs", files={"file": (f"{name}.mp4", clips[name].read_bytes())})
        assert answer.status_code == 202, answer.text
        jobs[name] = answer.json()["id"]
    states = {name: finished(server, job) for name, job in jobs.items()}
    assert {name: state["status"] for name, state in states.items()} == {
        "crash": "done",
        "broken": "failed",
        "calm": "done",
    }
    alone = server.analyze(clips["crash"]).json()
    assert states["crash"]["result"] | {"took_seconds": 0} == alone | {"took_seconds": 0}
    assert "not readable" in states["broken"]["result"]["error"] and server.clips() == []
    assert web.delete(f"{server.url}/api/jobs/{jobs['calm']}").status_code == 200
    assert web.get(f"{server.url}/api/jobs/{jobs['calm']}").status_code == 404


def test_what_happens_is_counted(server, clips):
    server.analyze(clips["calm"])
    told = web.get(f"{server.url}/metrics")
    assert told.headers["content-type"].startswith("text/plain; version=")
    counted = float(
        re.search(r'crashchat_requests_total\{path="/api/analyze",status="200"\} (\S+)', told.text)[1]
    )
    server.analyze(clips["calm"])
    again = web.get(f"{server.url}/metrics").text
    assert f'crashchat_requests_total{{path="/api/analyze",status="200"}} {counted + 1}' in again
    assert "crashchat_in_work 0.0" in again and 'crashchat_jobs{status="running"} 0.0' in again


def test_the_description_is_whole_and_schemathesis_finds_no_fault(server, description):
    assert set(description["paths"]) == {
        "/api/health", "/api/analyze", "/api/jobs", "/api/jobs/{job}", "/metrics", "/v1/models", "/v1/files",
        "/v1/files/{file}", "/v1/chat/completions",
    }  # fmt: skip
    jsonschema.Draft202012Validator.check_schema(description["components"]["schemas"]["ChatRequest"])
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_url(f"{server.url}/api/openapi.json")
    for operation in (found.ok() for found in schema.get_all_operations()):

        @given(case=operation.as_strategy())
        @settings(
            max_examples=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
            database=None,
        )
        def holds(case):
            # Of this check alone there is no use: bytes of the right form are refused where they are no
            # video, and no schema can say which are.
            answer = case.call_and_validate(timeout=300, excluded_checks=[positive_data_acceptance])
            if answer.status_code == 200 and case.method == "POST" and case.path == "/v1/files":
                web.delete(f"{server.url}/v1/files/{answer.json()['id']}")  # other tests count what is kept

        holds()
    assert server.clips() == []


def test_what_is_known_of_a_clip_comes_with_it_and_is_told(tiny_base, tmp_path, clips, browser):
    told = ["--task-set", "configs/tasks/telematics.yaml"]
    running = Server(tmp_path, *MODEL, "--model", str(tiny_base), *told)
    try:
        answer = running.analyze(clips["crash"], data={"context": '{"speed": 42, "braking": null}'})
        assert answer.status_code == 200 and answer.json()["context"] == {"speed": "42"}
        job = web.post(
            f"{running.url}/api/jobs",
            files={"file": ("a.mp4", clips["calm"].read_bytes())},
            data={"context": '{"braking": 0.4}'},
        ).json()["id"]
        refused = {
            '{"sped": 1}': "context: found 'sped', the task set tells speed, braking",
            '{"speed": "<|im_end|>"}': "which no text of a prompt may",
            '{"speed": [1]}': "context: ",
            "[1]": "found no JSON object",
            "{": "context: ",
        }
        for context, why in refused.items():
            answer = running.analyze(clips["crash"], data={"context": context})
            assert answer.status_code == 422 and why in answer.json()["detail"]
        page = browser.new_page()
        page.goto(running.url)
        page.fill("#context-speed textarea, #context-speed input", "57")
        page.set_input_files("#clip input[type=file]", str(clips["calm"]))
        page.wait_for_selector(".cc-clip")
        assert "57" in page.inner_text(".cc-known")
        assert faults_of(page) == []
        page.close()
        while (state := web.get(f"{running.url}/api/jobs/{job}").json())["status"] not in (
            "done",
            "failed",
        ):
            time.sleep(0.05)
        assert state["result"]["context"] == {"braking": "0.4"}
        end = time.monotonic() + PATIENCE
        while running.clips():  # the page's own clip goes when the server hears that it was closed
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        running.stop()


def test_a_server_that_is_told_to_end_answers_what_it_took_in(tiny_base, tmp_path, clips):
    settings = [*MODEL, "--model", str(tiny_base), "--queue", "8", "--log-requests"]
    running = Server(tmp_path, *settings, CRASHCHAT_PASSWORD=PASSWORD)
    key = {"Authorization": f"Bearer {PASSWORD}"}
    assert web.get(f"{running.url}/v1/models").status_code == 401
    assert web.get(f"{running.url}/v1/models", headers=key).status_code == 200
    job = web.post(
        f"{running.url}/api/jobs", headers=key, files={"file": ("long.mp4", clips["long"].read_bytes())}
    ).json()["id"]
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(running.analyze, clips["crash"], headers=key) for _ in range(3)]
        deadline = time.monotonic() + 300
        while "crashchat_in_work 4.0" not in web.get(f"{running.url}/metrics", headers=key).text:
            assert time.monotonic() < deadline
        os.kill(running.process.pid, signal.SIGTERM)
        while web.get(f"{running.url}/api/health", headers=key).json()["status"] != "draining":
            assert time.monotonic() < deadline
        refused = ask(running, question(data_url(clips["calm"])), headers=key)
        assert refused.status_code == 503 and "being stopped" in refused.json()["error"]["message"]
        found = [answer.result() for answer in answers]
        assert [answer.status_code for answer in found] == [200] * 3
    while (state := web.get(f"{running.url}/api/jobs/{job}", headers=key).json())["status"] != "done":
        assert time.monotonic() < deadline + 60
        time.sleep(0.05)
    assert len(state["result"]["windows"]) > 1
    assert running.process.wait(30) == 0 and not list(tmp_path.glob("crashchat-*"))
    written = running.log.read_text()
    lines = [json.loads(line) for line in written.splitlines() if line.startswith('{"time"')]
    logged = {line["id"]: line for line in lines}
    for answer in found:
        line = logged[answer.headers["x-request-id"]]
        assert (line["method"], line["path"], line["status"]) == ("POST", "/api/analyze", 200)
        assert line["sent_bytes"] == len(answer.content) and line["client"] == "127.0.0.1"
        assert line["received_bytes"] > clips["crash"].stat().st_size and 0 < line["seconds"] < 120
    assert {line["status"] for line in lines if line["path"] == "/v1/chat/completions"} == {503}
    assert "crash.mp4" not in written and job not in written
