"""A model's card: what it learnt on, how, and what it is not good for.

crashchat_card.json beside the weights, and the same as README.md in the hub's form. Training writes it,
merging joins the base's and the adapter's, conversion keeps it; where a folder has none, nothing is known.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field

from crashchat.checkpoints.layouts import CheckpointError, file_in
from crashchat.data.datasets import DatasetUse
from crashchat.files import write_json_atomic, write_text_atomic
from crashchat.html import TEMPLATES
from crashchat.json_files import Exact, Line, as_line, checked, read_json
from crashchat.processes import print_once
from crashchat.provenance import CARD_FILE, command_line, content_hash, now, versions
from crashchat.video.measures import ClipSpreads

FORMAT: Literal["crashchat.card/1"] = "crashchat.card/1"
README = "README.md"
OURS = f"crashchat_card: {CARD_FILE}"  # the line of a README.md's front matter that says we wrote it
DRAWN = "This model learnt on drawings. Its answers on real footage mean nothing."
PARTLY_DRAWN = (
    "This model learnt on drawings as well as on footage. How far its answers on real footage hold is not "
    "known."
)
USE = "Research: to answer questions about crashes in traffic videos, those that it was trained on."
LIMITS = [
    "Its answers are guesses, also where it is sure of them: look at the video before anything is decided.",
    "It saw no more of the world than the videos below; on other roads, cameras, weather and light it may "
    "fail without a sign of it.",
]
MEASURES = {
    "width": "width, pixels",
    "height": "height, pixels",
    "fps": "frames a second",
    "seconds": "length, seconds",
    "brightness": "brightness (0 black, 1 white)",
}
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Origin(Exact):
    """A folder that training or merging started from."""

    name: Line
    """The folder's name."""
    sha256: Sha256
    """Over its files' names and contents."""


class TaskSet(Exact):
    """Which of the six tasks were trained."""

    names: list[Line]
    sha256: Sha256
    """Over their names and prompts, a line each."""


class Score(Exact):
    """A figure that was measured."""

    dataset: Line
    split: Line
    metric: Line
    value: float


class TrainingSet(Exact):
    """A data set that a model learnt on."""

    name: Line
    drawn: bool
    """Whether its videos are drawings of traffic, not footage."""


class ModelCard(Exact):
    """What is known of a model or adapter; what is not known is null or empty."""

    format: Literal["crashchat.card/1"] = FORMAT
    kind: Literal["adapter", "model"]
    name: Line
    base: Origin | None = None
    """What training started from; none: random weights, or not known."""
    data: list[DatasetUse] = []
    """What its weights learnt on, training and validation; of a whole model, its base's too."""
    unknown: list[Line] = []
    """Models it was made from that have no card: what they learnt on is not known."""
    tasks: TaskSet | None = None
    """None: general questions alone, or not known."""
    settings: dict[str, bool | int | float | str | None] = {}
    """How it was trained, and which frames of a video it was shown."""
    clips: ClipSpreads | None = None
    """What was measured of the training clips."""
    best_validation_loss: float | None = None
    """Mean over the answers' tokens, of the weights that were kept."""
    scores: list[Score] = []
    use: str = USE
    limits: list[str] = LIMITS
    notes: list[str] = []
    """What else is known of how it was made."""
    versions: dict[str, str] = {}
    made: Line | None = None
    """When, in UTC, as ISO 8601."""
    command: str | None = None

    @property
    def trained_on(self) -> list[TrainingSet]:
        """The data sets, each once."""
        sets = dict.fromkeys((use.name, use.drawn) for use in self.data)
        return [TrainingSet(name=name, drawn=drawn) for name, drawn in sets]


def read_card(folder: str | Path) -> ModelCard | None:
    """The card of a model or adapter folder, None where it has none.

    Raises CheckpointError for a card that is damaged, or a link out of the folder.
    """
    path = file_in(folder, CARD_FILE)
    if not path.exists():
        return None
    value = read_json(path, CheckpointError, "a model card")
    return checked(ModelCard, value, path, CheckpointError)


def write_card(folder: Path, card: ModelCard) -> None:
    """Write a card to a folder, and the same as README.md unless somebody else's is there."""
    readme = folder / README
    if readme.exists() and not _is_ours(readme):
        print_once(f"{readme}: left as it is, as it is not of crashchat; the card is in {CARD_FILE}")
    else:
        write_text_atomic(readme, as_readme(card))
    write_json_atomic(folder / CARD_FILE, card.as_json())


def _is_ours(readme: Path) -> bool:
    text = readme.read_text(encoding="utf-8", errors="replace")
    front = text.split("\n---\n", 1)[0] if text.startswith("---\n") else ""
    return OURS in front.splitlines()


def as_readme(card: ModelCard) -> str:
    """A card as the hub shows it: YAML front matter and Markdown."""
    front = {
        "base_model": card.base.name if card.base else None,
        "library_name": "peft" if card.kind == "adapter" else "transformers",
        "pipeline_tag": "video-text-to-text",
        "tags": ["crashchat", "traffic", "dashcam", *(["lora"] if card.kind == "adapter" else [])],
        "datasets": [known.name for known in card.trained_on],
    }
    known = yaml.safe_dump(
        {key: value for key, value in front.items() if value}, sort_keys=False, allow_unicode=True
    )
    text = TEMPLATES.get_template("model_card.md").render(
        card=card,
        learnt=learnt_on(card.trained_on, card.unknown),
        warnings=warnings_of([card]),
        measures=MEASURES,
    )
    return f"---\n{known}{OURS}\n---\n\n{text}\n"


def join_cards(base: Path, adapter: Path, name: str) -> ModelCard | None:
    """The card of an adapter folded into its base: what both learnt on. None where neither has a card.

    Raises CheckpointError for a card that is damaged.
    """
    cards = {folder: read_card(folder) for folder in (base, adapter)}
    known = [card for card in cards.values() if card]
    if not known:
        return None
    taught = cards[adapter] or ModelCard(kind="model", name=as_line(name))
    return taught.model_copy(
        update={
            "kind": "model",
            "name": as_line(name),
            "base": Origin(name=as_line(base.resolve().name), sha256=content_hash(base)),
            "data": _once(use for card in known for use in card.data),
            "unknown": [
                *(as_line(folder.resolve().name) for folder, card in cards.items() if card is None),
                *(part for card in known for part in card.unknown),
            ],
            "clips": next((card.clips for card in reversed(known) if card.clips), None),
            "scores": [],  # of the parts, not of what they make
            "notes": [note for card in known for note in card.notes],
            "versions": versions(),
            "made": now(),
            "command": command_line(),
        }
    )


def _once(uses: Iterable[DatasetUse]) -> list[DatasetUse]:
    found: list[DatasetUse] = []
    for use in uses:
        if use not in found:
            found.append(use)
    return found


def learnt_on(sets: Sequence[TrainingSet] | None, unknown: Sequence[str]) -> str:
    """What a model learnt on, in words. sets: None where it has no card."""
    if sets is None:
        return "no card: what it learnt on is not known"
    names = [f"{known.name} (drawings)" if known.drawn else known.name for known in sets]
    words = f"learnt on {', '.join(names) or 'nothing'}"
    return f"{words}, and on what is not known of {', '.join(unknown)}" if unknown else words


def warnings_of(cards: Iterable[ModelCard | None]) -> list[str]:
    """What nobody must overlook of the models that answer together, in sentences: that they learnt on
    drawings.
    """
    drawn = [known.drawn for card in cards if card for known in card.trained_on]
    if not any(drawn):
        return []
    return [DRAWN if all(drawn) else PARTLY_DRAWN]


def tell_cards(cards: dict[Path, ModelCard | None]) -> None:
    """Print the warnings, and what each model learnt on, from the first process alone. cards: by folder."""
    for warning in warnings_of(cards.values()):
        print_once(f"warning: {warning}")
    for folder, card in cards.items():
        words = learnt_on(card.trained_on, card.unknown) if card else learnt_on(None, [])
        print_once(f"{folder}: {words}")
