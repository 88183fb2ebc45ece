"""Which cards a run fits, and what to change where it does not."""

from collections.abc import Sequence
from dataclasses import dataclass

from crashchat.config import TrainConfig
from crashchat.training.gpus import GIB, Gpu
from crashchat.training.ledger import Memory
from crashchat.training.shapes import VideoShape
from crashchat.training.zero import Sharing, ZeroFields

ROUND = 256  # tokens that proposed limits are multiples of
LEAST_OF_A_FRAME = 16  # visual tokens: no frame is made smaller (docs/reference.md, Size)


@dataclass(frozen=True)
class Fit:
    """What a run needs in order to fit a card.

    settings: to change; None where none suffices. gib: the peak then.
    """

    gpu: str
    settings: list[str] | None
    gib: float | None


class Needs:
    """A run's peak for passes of other lengths than its longest: it grows in step with the tokens.

    short, long: (tokens, memory) of two passes. processes: that share it.
    """

    def __init__(self, short: tuple[int, Memory], long: tuple[int, Memory], processes: int, trained: int):
        self.processes, self.trained = processes, trained
        (few, self.small), (many, self.large) = short, long
        self.tokens = many
        self.slope = (self.large.peak - self.small.peak) / (many - few)

    def peak(self, tokens: int, zero: ZeroFields | None) -> float:
        """Bytes of a process for a pass of so many tokens."""
        shared = Sharing(self.processes, zero, self.trained).of(self.large)
        return shared.peak + self.slope * (tokens - self.tokens)

    def tokens_in(self, room: int, zero: ZeroFields | None) -> int:
        """Tokens of a pass that just fits."""
        return int(self.tokens + (room - self.peak(self.tokens, zero)) / self.slope)


def fit(
    gpu: Gpu, config: TrainConfig, needs: Needs, *, zero: ZeroFields | None, videos: Sequence[VideoShape]
) -> Fit:
    """What to change, as little as possible, for a run to fit a card: first what costs time alone,
    then the tokens that a video may have.

    needs: with gradient checkpointing. videos: of the training split.
    """
    one = max(video.length for video in videos)
    widest = max(videos, key=lambda video: video.kept)
    before = [] if config.gradient_checkpointing else ["gradient_checkpointing=true"]
    ways: list[tuple[list[str], ZeroFields | None]] = [(before, zero)]
    if needs.processes > 1 and config.finetune == "lora" and (zero is None or zero.stage < 3):
        ways.append(([*before, "deepspeed=configs/deepspeed/zero3.json"], ZeroFields(stage=3)))
    for settings, stage in ways:
        tokens = needs.tokens_in(gpu.room, stage)
        if tokens >= needs.tokens:
            return Fit(gpu.name, settings, needs.peak(needs.tokens, stage) / GIB)
        limit = tokens // ROUND * ROUND
        if limit >= one:
            return Fit(gpu.name, [*settings, f"max_tokens_per_batch={limit}"], needs.peak(limit, stage) / GIB)
    for settings, stage in ways:
        limit = needs.tokens_in(gpu.room, stage) // ROUND * ROUND
        share = widest.visual / widest.kept
        visual = int((limit - (one - widest.kept)) * share) // ROUND * ROUND
        if visual >= LEAST_OF_A_FRAME * widest.frames:
            fewer = [f"max_visual_tokens={visual}", f"max_tokens_per_batch={limit}"]
            return Fit(gpu.name, [*settings, *fewer], needs.peak(limit, stage) / GIB)
    return Fit(gpu.name, None, None)
