"""The report in a real browser: for everyone, on a phone, in the dark and on paper."""

from pathlib import Path

import pytest

from crashchat.files import write_json_atomic
from crashchat.reporting.compare import write_report
from tests.helpers.accessibility import faults_of
from tests.helpers.predictions import write_row


@pytest.fixture(scope="module")
def report(tiny_data, tmp_path_factory) -> Path:
    """Of a model that is always right, one that is not, and one of two seeds."""
    folder = tmp_path_factory.mktemp("report")
    history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 2, "eval_loss": 1.6}]
    write_json_atomic(folder / "train" / "checkpoint-2" / "trainer_state.json", {"log_history": history})
    mute = write_row(folder / "mute", tiny_data, lambda task, truth: "")
    perfect = write_row(folder / "perfect", tiny_data, lambda task, truth: truth)
    rows = {"mute": [mute], "perfect_model_of_a_long_name": [perfect], "seeds": [mute, perfect]}
    write_report(rows, tiny_data, folder / "out", losses=folder / "train")
    return folder / "out" / "report.html"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_nothing_in_it_shuts_anybody_out(browser, report, scheme, width):
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert faults_of(page) == []
    # Wide tables scroll by themselves; the page does not.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    if width == 1280:
        tables, links = page.locator("table"), page.locator("nav a")
        assert tables.count() > 10 and links.count() > 5
        nameless = "table => !table.caption || !table.querySelector('th[scope=col]')"
        assert tables.evaluate_all(f"tables => tables.filter({nameless}).map(table => table.outerHTML)") == []
        # Every entry of the contents leads somewhere.
        lost = "links => links.filter(link => !document.querySelector(link.getAttribute('href'))).map(String)"
        assert links.evaluate_all(lost) == []
    page.close()


def test_it_is_printed_whole(browser, report):
    page = browser.new_page(viewport={"width": 1047, "height": 718})  # A4 across, without its margins
    page.emulate_media(media="print")
    page.goto(report.as_uri())
    cut = """() => [...document.querySelectorAll("table")]
        .filter((table) => table.getBoundingClientRect().right > window.innerWidth + 1)
        .map((table) => table.caption.textContent)"""
    assert page.evaluate(cut) == []
    hidden = "() => [...document.querySelectorAll('details td')].filter((cell) => !cell.offsetHeight).length"
    assert page.locator("details td").count() > 100 and page.evaluate(hidden) == 0
    assert page.locator("nav").is_hidden()
    page.close()
