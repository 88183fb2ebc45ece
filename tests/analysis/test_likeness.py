"""In what a clip is said to be unlike what the models learnt on, and which models count."""

import pytest

from crashchat.analysis.likeness import unlike_training
from crashchat.analysis.results import NO_CRASH, Window
from crashchat.answering.answerer import BASE
from crashchat.answering.cascade import LINGUISTIC, PERCEPTION
from crashchat.checkpoints.model_card import ModelCard
from crashchat.video.measures import ClipSpreads, Spread
from crashchat.video.source import Source, probe
from tests.helpers.flashes import frames, write_video


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Source:
    """90 s of grey, 112 x 56 pixels, a frame a second."""
    return probe(write_video(tmp_path_factory.mktemp("grey") / "grey.mp4", frames(90, 90)))


def card(name: str, width: float = 112, seconds: float = 20, brightness: float = 0.35) -> ModelCard:
    def flat(value: float) -> Spread:
        return Spread(least=value, low=value, middle=value, high=value, greatest=value)

    clips = ClipSpreads(
        videos=9,
        width=flat(width),
        height=flat(56),
        fps=flat(1),
        seconds=flat(seconds),
        brightness=flat(brightness),
    )
    return ModelCard(kind="adapter", name=name, clips=clips)


def window(start: float, end: float, brightness: float | None = 0.35) -> Window:
    return Window(start=start, end=end, status=NO_CRASH, brightness=brightness)


def test_without_a_card_nothing_is_said(source):
    told_nothing = ModelCard(kind="model", name="silent")
    assert unlike_training(source, [window(0, 90)], {BASE: None, LINGUISTIC: told_nothing}) == []


def test_of_a_recording_the_windows_count(source):
    cards = {BASE: card("base")}
    whole = unlike_training(source, [window(0, 90)], cards)
    assert whole == ["It lasts 90.0 s; the training clips of base last 20 s."]
    assert unlike_training(source, [window(0, 20), window(70, 90)], cards) == []
    dark = [window(0, 20, 0.0), window(20, 40, 0.1), window(40, 60, None)]
    assert unlike_training(source, dark, cards) == [
        "Its brightness is 0.05 (0 is black, 1 white); that of the training clips of base is 0.35."
    ]


def test_the_adapters_count_before_the_base_and_one_set_is_told_once(source):
    windows = [window(0, 20), window(70, 90)]
    wide = {BASE: card("base", 1280), LINGUISTIC: card("words", 640), PERCEPTION: card("times", 640)}
    assert unlike_training(source, windows, wide) == [
        "Its picture is 112 x 56 pixels; that of the training clips of words and times is 640 x 56."
    ]
    assert unlike_training(source, windows, wide | {LINGUISTIC: card("times", 640)}) == [
        "Its picture is 112 x 56 pixels; that of the training clips of times is 640 x 56."
    ]
    two = unlike_training(source, windows, wide | {PERCEPTION: card("times", 320)})
    assert [line.split("clips of ")[1] for line in two] == [
        "words is 640 x 56.",
        "times is 320 x 56.",
    ]
    assert unlike_training(source, windows, wide | {LINGUISTIC: None, PERCEPTION: card("times")}) == []
