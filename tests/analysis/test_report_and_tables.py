"""What crashchat analyze writes of many clips for people: the page in a real browser, and tables."""

import csv
from collections.abc import Iterator
from pathlib import Path

from pyarrow import parquet

from crashchat.analysis.cards import clock, page_html, ticks
from crashchat.analysis.result_tables import write_tables
from crashchat.analysis.results import FAILED, ClipResult
from crashchat.html import link
from tests.helpers.accessibility import faults_of
from tests.helpers.analyses import read

CARDS = "[...document.querySelectorAll('.cc-clip')]"


def iter_failed(out: Path) -> Iterator[Path]:
    """The results of clips that failed."""
    return (path for path in sorted(out.glob("*.json")) if read(path)["status"] == FAILED)


def test_the_report_filters_sorts_and_plays_from_the_crash(folder, analyzed, browser):
    asked = []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto((analyzed[0] / "report.html").as_uri())
    shown = f"{CARDS}.map(card => card.dataset.name)"
    assert len(page.evaluate(shown)) == 30
    page.click(".controls button:has-text('failed')")
    assert set(page.evaluate(shown)) == folder[2].keys()
    page.click(".controls button:has-text('no crash')")
    assert len(page.evaluate(shown)) == 13
    page.click(".controls button:has-text('all')")
    page.select_option("#order", "probability")
    order = page.evaluate(f"{CARDS}.map(card => Number(card.dataset.probability))")
    assert order == sorted(order, reverse=True) and order[-1] == -1
    page.fill("#search", "CLIP 00")
    assert page.evaluate(shown) == ["clip 00 #&%"]
    card = page.locator(".cc-clip[data-name='clip 00 #&%']")
    assert faults_of(page) == []
    lane = card.locator(".cc-lane")
    lane.focus()
    for key in ("End", "ArrowLeft", "Home", "PageUp"):
        lane.press(key)
    assert lane.get_attribute("aria-valuenow") == "1.2" and card.locator("video").is_hidden()
    lane.press("Enter")
    assert card.locator("video").is_visible()
    assert card.locator(".cc-strip").evaluate("image => image.complete && image.naturalWidth") > 100
    card.locator(".cc-strip").click()
    # Whether a browser can decode H.264 is its own affair; that it found the file and was sent to the crash
    # is ours.
    page.wait_for_timeout(1000)
    at, duration, error = card.locator("video").evaluate(
        "video => [video.currentTime, video.duration, video.error?.code ?? 0]"
    )
    assert (at >= 8.0 and abs(duration - 12) < 0.5) or error == 4
    assert asked and all(url.startswith(("file:///", "data:")) for url in asked)
    assert any("clip%2000%20%23%26%25.mp4" in url for url in asked)
    page.close()


def test_findings_are_a_line_a_clip_for_spreadsheets_and_data_frames(analyzed, tmp_path):
    lines = list(csv.DictReader((analyzed[0] / "findings.csv").open(newline="")))
    table = parquet.read_table(analyzed[0] / "findings.parquet").to_pylist()
    assert len(lines) == len(table) == 30
    for line, row in zip(lines, table, strict=True):
        result = read(analyzed[0] / f"{row['name']}.json")
        assert line["name"] == row["name"] == result["name"]
        assert line["status"] == row["status"] == result["status"]
        event = result["events"][0] if result["events"] else None
        assert row["events"] == len(result["events"])
        assert row["crash_start"] == (event["start"] if event and event["localized"] else None)
        assert line["crash_start"] == ("" if row["crash_start"] is None else str(row["crash_start"]))
        assert row["error"] == result["error"] and row["warnings"] == "; ".join(result["warnings"])
    hostile = ClipResult.model_validate(read(analyzed[0] / "clip03.json") | {"name": "=1+1", "path": "@x"})
    write_tables(tmp_path / "more", [hostile])
    (line,) = csv.DictReader((tmp_path / "more" / "findings.csv").open(newline=""))
    assert (line["name"], line["path"]) == ("'=1+1", "'@x")


def test_two_thousand_clips_are_one_page_that_shows_fifty(analyzed, browser, tmp_path):
    good, failed = (read(path) for path in (analyzed[0] / "clip03.json", next(iter_failed(analyzed[0]))))
    results = []
    for number in range(2000):
        result = ClipResult.model_validate(
            (failed if number % 100 == 7 else good) | {"name": f"clip {number}"}
        )
        result.crash_probability = number / 2000
        results.append((result, [f"{result.name}.jpg"] if result.windows else []))
    links = {result.name: f"{result.name}.mp4" for result, _ in results}
    assert len(page_html(results[:100], links).encode()) < 10**6
    (tmp_path / "report.html").write_text(page_html(results, links), encoding="utf-8")
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    shown = f"{CARDS}.map(card => card.dataset.name)"
    assert page.evaluate(shown) == [f"clip {number}" for number in range(50)]
    assert page.inner_text(".cc-count") == "2000 of 2000 clips, 50 shown"
    assert 1 < len(asked) < 60  # pictures come into view one by one
    page.click("#more")
    assert len(page.evaluate(shown)) == 100
    page.select_option("#order", "failure")
    assert page.evaluate(shown)[:20] == [f"clip {number}" for number in range(7, 2000, 100)]
    page.select_option("#order", "probability")
    assert page.evaluate(shown)[0] == "clip 1999"
    page.fill("#search", "clip 19")
    assert page.inner_text(".cc-count") == "111 of 2000 clips, 50 shown"
    page.close()


def test_what_a_model_says_is_shown_as_text(analyzed):
    result = read(analyzed[0] / "clip03.json")
    result["name"] = "<script>alert(1)</script>"
    result["windows"][0]["answers"][1]["raw_response"] = "<img src=x onerror=alert(2)>"
    result["model"]["base"]["trained_on"][0]["name"] = "<script>alert(3)</script>"
    page = page_html([(ClipResult.model_validate(result), [None])], {result["name"]: "odd \udcff name?.mp4"})
    assert "<script>alert" not in page and "<img src=x" not in page and "&lt;img src=x" in page
    assert "odd%20%FF%20name%3F.mp4" in page and link("../a b/c.mp4") == "../a%20b/c.mp4"


def test_times_are_written_as_people_read_them():
    assert [clock(3.21), clock(59.97), clock(723.2), clock(4323.2)] == [
        "3.2 s",
        "1:00.0",
        "12:03.2",
        "1:12:03.2",
    ]
    assert ticks(0, 6.7) == [0, 1, 2, 3, 4, 5, 6] and ticks(3595.0, 3603.0) == [3595 + n for n in range(9)]
