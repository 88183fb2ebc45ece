"""Broken clips among good ones, through the endpoint: each is answered, with its result or what is wrong."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.analysis.conftest import break_clips
from tests.helpers.flashes import frames, write_video
from tests.helpers.serving import Server
from tests.helpers.web import web

UNSENT = ("gone", "pipe")  # no files that a client could send


def send(server: Server, path: Path, as_job: bool) -> dict:
    """A clip's result, asked again as long as the server is full."""
    where = f"{server.url}/api/{'jobs' if as_job else 'analyze'}"
    deadline = time.monotonic() + 240
    while (answer := web.post(where, files={"file": (path.name, path.read_bytes())})).status_code == 503:
        assert time.monotonic() < deadline and int(answer.headers["Retry-After"]) > 0
        time.sleep(0.2)
    if not as_job:
        return answer.json() if answer.status_code == 200 else answer.json()["detail"]
    state = answer.json()
    while state["status"] not in ("done", "failed"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
        state = web.get(f"{where}/{state['id']}").json()
    return state["result"]


def test_twenty_broken_among_twenty_good_come_out_as_twenty_and_twenty(server, tmp_path):
    wanted: list[tuple[Path, str | None]] = []
    for number in range(20):
        flash = (5, 9) if number % 2 else None
        wanted.append((write_video(tmp_path / f"good{number}.mp4", frames(60 + number, 12, flash)), None))
    folder = tmp_path / "broken"
    folder.mkdir()
    told = break_clips(folder, wanted[1][0])
    causes = [(path, told[path.stem]) for path in sorted(folder.iterdir()) if path.stem not in UNSENT] * 3
    # Alternately, so that a broken one is behind and before a good one.
    every = [one for pair in zip(wanted, causes[:20], strict=True) for one in pair]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda one: send(server, one[1][0], one[0] % 3 == 0), enumerate(every)))
    for (path, cause), result in zip(every, results, strict=True):
        if cause is None:
            expected = "crash" if int(path.stem.removeprefix("good")) % 2 else "no crash"
            assert (result["status"], result["error"]) == (expected, None), path
        else:
            assert result["status"] == "failed" and result["path"] == path.name
            assert cause in result["error"] and str(server.tmp) not in result["error"]
    assert server.clips() == []
