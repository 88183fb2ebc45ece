"""What the model learnt on, what a clip is unlike, and contradictions: in results, on terminal and page."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest

from crashchat.__main__ import main
from crashchat.checkpoints.model_card import DRAWN, ModelCard, read_card, write_card
from crashchat.data.datasets import DatasetUse
from crashchat.provenance import CARD_FILE
from crashchat.video.measures import measure_clips
from tests.helpers.analyses import read
from tests.helpers.clips import H264, SCENE, ffmpeg
from tests.helpers.flashes import frames, write_video
from tests.helpers.models import MODEL

# Luminance of a CSS colour, and the contrast of an element's text against its own background (WCAG 2).
CONTRAST = """element => {
  const light = (text) => {
    const [red, green, blue] = text.match(/[\\d.]+/g).slice(0, 3).map(Number)
      .map((one) => one / 255).map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const style = getComputedStyle(element);
  const [low, high] = [light(style.color), light(style.backgroundColor)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""


PICTURE = "Its picture is 112 x 56 pixels; that of the training clips of tiny_base is 224 x 112."


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A grey clip, a larger one, a moving GIF, and four files that are none."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "grey.mp4", frames(90, 15))
    ffmpeg(*SCENE, *H264, folder / "large.mp4")
    ffmpeg("-i", folder / "grey.mp4", folder / "moving.gif")
    for name in ("a.dav", "b.h264", "c.txt", "d.csv"):
        (folder / name).write_bytes(b"x")
    return folder


@pytest.fixture(scope="module")
def analyzed(folder, tiny_base, tmp_path_factory) -> tuple[Path, list[str]]:
    """Where the results of that folder lie, and what was said.

    By the base alone, made to answer Yes or No: it has learnt no task, so that its answers contradict each
    other.
    """
    out = tmp_path_factory.mktemp("drawn")
    words = [*MODEL, "--model", str(tiny_base), "--decode", "constrained", "--out", str(out)]
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main(["analyze", str(folder), *words]) == 0
    return out, said.getvalue().splitlines()


def test_the_terminal_and_the_results_tell(analyzed, tiny_base):
    out, lines = analyzed
    assert lines[0] == f"warning: {DRAWN}"
    assert f"{tiny_base}: learnt on CrashChat synthetic (drawings)" in lines
    counts = lines.index("3 contradiction")
    assert lines[counts - 1] == f"warning: {DRAWN}"
    assert lines[counts + 1] == "3 unlike the clips that the model learnt on (the results say in what)"
    assert lines[counts + 2] == (
        "4 files passed over: a.dav, b.h264, c.txt, … (the ending is no video's; name a file itself to have "
        "it tried)"
    )
    for name in ("grey", "large", "moving"):
        result = read(out / f"{name}.json")
        assert result["format"] == "crashchat.analysis.clip/2" and result["status"] == "contradiction"
        assert result["warnings"] == [DRAWN]
        assert result["model"]["base"]["trained_on"] == [{"name": "CrashChat synthetic", "drawn": True}]
        assert "recognition says No, but the description is" in result["windows"][0]["notes"][0]
    grey, large = (read(out / f"{name}.json") for name in ("grey", "large"))
    assert PICTURE in grey["unlike_training"]
    assert grey["windows"][0]["brightness"] == pytest.approx(90 / 255, abs=0.02)
    rates = [sentence for sentence in large["unlike_training"] if sentence.startswith("Its frame rate is")]
    assert len(rates) == 1 and rates[0].endswith("a second; that of the training clips of tiny_base is 10.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_tells(analyzed, browser, scheme):
    page = browser.new_page(color_scheme=scheme)
    page.goto((analyzed[0] / "report.html").as_uri())
    banner = page.locator(".cc-banner[role=note]")
    assert banner.is_visible() and banner.inner_text() == DRAWN
    assert banner.bounding_box()["y"] < page.locator("h1").bounding_box()["y"]
    pills = page.locator(".cc-status[data-status=contradiction]")
    assert pills.count() == 3 == page.locator(".cc-drawn").count()
    for element in (banner, pills.first, page.locator(".cc-drawn").first):
        assert element.evaluate(CONTRAST) >= 4.5
    page.click(".controls button:has-text('contradiction 3')")
    assert page.inner_text(".cc-count") == "3 of 3 clips, 3 shown"
    assert PICTURE in page.inner_text(".cc-clip[data-name=grey] .cc-unlike")
    assert "model tiny_base, learnt on CrashChat synthetic" in page.inner_text(".cc-models")
    page.close()


def test_it_is_the_card_that_says_so_and_not_the_name(folder, tiny_base, flash_adapters, tmp_path, capsys):
    """A base called drawings, whose card tells of footage, and an adapter whose card says what its clips were
    like.
    """
    base = shutil.copytree(tiny_base, tmp_path / "drawings")
    adapter = shutil.copytree(flash_adapters[0], tmp_path / "adapter")
    (use,) = read_card(tiny_base).data
    footage = use.model_dump() | {"name": "Roads", "drawn": False}
    data = [DatasetUse.model_validate(footage)]
    write_card(base, ModelCard(kind="model", name="drawings", data=data, unknown=["seven"]))
    clips = measure_clips([folder / "grey.mp4"])
    write_card(adapter, ModelCard(kind="adapter", name="adapter", data=data, clips=clips))
    model = [*MODEL, "--model", str(base), "--linguistic", str(adapter), "--perception", str(adapter)]
    clip, out = str(folder / "grey.mp4"), tmp_path / "out"
    assert main(["analyze", clip, str(folder / "large.mp4"), "--out", str(out), *model]) == 0
    said = capsys.readouterr().err
    assert f"{base}: learnt on Roads, and on what is not known of seven" in said
    assert "learnt on drawings" not in said and "1 unlike the clips" in said
    grey, large = (read(out / f"{name}.json") for name in ("grey", "large"))
    assert grey["warnings"] == [] == grey["unlike_training"] and grey["status"] == "no crash"
    assert grey["model"]["base"]["unknown"] == ["seven"]
    assert all("the training clips of adapter" in sentence for sentence in large["unlike_training"])
    page = (out / "report.html").read_text()
    assert 'role="note"' not in page and 'class="cc-drawn"' not in page
    assert "adapter <b>adapter</b>, learnt on Roads" in page

    # Without its card nothing is known, and what an earlier run has found with it is not taken over.
    (base / CARD_FILE).unlink()
    assert main(["analyze", clip, "--out", str(out), "--resume", *model]) == 0
    assert f"{base}: no card: what it learnt on is not known" in capsys.readouterr().err
    assert read(out / "grey.json")["model"]["base"]["trained_on"] is None
    (base / CARD_FILE).write_text("{}")
    assert main(["analyze", clip, "--out", str(out), *model]) == 2
    assert f"error: {base / CARD_FILE}: kind is missing" in capsys.readouterr().err


def test_the_schema_tells_of_all_this(capsys):
    with pytest.raises(SystemExit):
        main(["analyze", "--schema"])
    schema = json.loads(capsys.readouterr().out)
    assert {"warnings", "unlike_training"} <= schema["properties"].keys()
    assert "contradiction" in schema["properties"]["status"]["enum"]
    assert "trained_on" in schema["$defs"]["ModelPart"]["required"]
