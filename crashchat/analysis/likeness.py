"""In what a clip is unlike those that the model learnt on, as far as that can be measured."""

from dataclasses import replace

from crashchat.analysis.results import Window
from crashchat.answering.engines import BASE
from crashchat.checkpoints.model_card import ModelCard
from crashchat.video.measures import ClipSpreads, measures_of, unlike
from crashchat.video.source import Source


def unlike_training(source: Source, windows: list[Window], cards: dict[str, ModelCard | None]) -> list[str]:
    """A sentence for each measure in which a clip is unlike the training clips, as the cards tell of them.

    cards: of BASE and the adapters; the base's counts only where no adapter's tells of clips, as it is the
    adapters that learnt the tasks. Of a recording the model sees windows: their length counts, and their
    mean brightness.
    """
    lights = [window.brightness for window in windows if window.brightness is not None]
    clip = replace(measures_of(source), brightness=sum(lights) / len(lights) if lights else None)
    if len(windows) > 1:
        clip = replace(clip, seconds=max(window.end - window.start for window in windows))
    sets: dict[ClipSpreads, list[str]] = {}
    for part, card in cards.items():
        if card and card.clips and part != BASE:
            sets.setdefault(card.clips, []).append(card.name)
    base = cards.get(BASE)
    if not sets and base and base.clips:
        sets[base.clips] = [base.name]
    return [
        sentence
        for clips, names in sets.items()
        for sentence in unlike(clip, clips, f"the training clips of {' and '.join(dict.fromkeys(names))}")
    ]
