"""Which cards a run fits, and what to change where it does not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from crashchat.second_stages import ReinforceConfig
from crashchat.settings import TrainConfig
from crashchat.training.planning.gpus import GIB, Gpu
from crashchat.training.planning.ledger import Memory
from crashchat.training.planning.shapes import VideoShape
from crashchat.training.planning.zero import BFLOAT16, Sharing, ZeroFields

ROUND = 256  # tokens that proposed limits are multiples of
BYTES_OF_4_BITS = 0.5 + 1 / 64 + 4 / 64 / 256  # of a number, with its scales (imitation.py)
LEAST_OF_A_FRAME = 16  # visual tokens: no frame is made smaller (docs/reference.md, Size)


@dataclass(frozen=True)
class Fit:
    """What a run needs in order to fit a card.

    settings: to change; None where none suffices. gib: the peak then.
    """

    gpu: str
    settings: list[str] | None
    gib: float | None


@dataclass(frozen=True)
class Way:
    """Of running at all: settings that cost time or exactness, and nothing of the videos.

    zero: how DeepSpeed shares memory, None: not. four_bits: the language model's frozen layers in 4 bits.
    """

    settings: list[str]
    zero: ZeroFields | None
    four_bits: bool = False


class Needs:
    """A run's peak for passes of other lengths than its longest: it grows in step with the tokens.

    short, long: (tokens, memory) of two passes. validation: the memory of a validation's longest. sharing:
    among processes. frozen: numbers in the language model's linear layers that could be had in 4 bits.
    """

    def __init__(
        self,
        short: tuple[int, Memory],
        long: tuple[int, Memory],
        validation: Memory,
        *,
        sharing: Sharing,
        frozen: int,
    ):
        self.validation = validation
        (few, small), (self.tokens, self.large) = short, long
        self.sharing, self.frozen = sharing, frozen
        self.slope = (self.large.peak - small.peak) / (self.tokens - few)

    def _of(self, memory: Memory, way: Way) -> float:
        saved = self.frozen * (BFLOAT16 - BYTES_OF_4_BITS) if way.four_bits else 0
        return replace(self.sharing, zero=way.zero).of(memory).peak - saved

    def peak(self, tokens: int, way: Way) -> float:
        """Bytes of a process for a pass of so many tokens."""
        return self._of(self.large, way) + self.slope * (tokens - self.tokens)

    def validates_in(self, room: int, way: Way) -> bool:
        """Whether a validation fits as it is."""
        return self._of(self.validation, way) <= room

    def tokens_in(self, room: int, way: Way) -> int:
        """Tokens of a pass that just fits."""
        return int(self.tokens + (room - self.peak(self.tokens, way)) / self.slope)


def ways_of(config: TrainConfig, needs: Needs) -> list[Way]:
    """How a run can be made smaller without taking tokens from its videos, in the order to try it."""
    before = [] if config.gradient_checkpointing else ["gradient_checkpointing=true"]
    before += ["checkpoint_every_n_layers=1"] if config.checkpoint_every_n_layers > 1 else []
    zero = needs.sharing.zero
    ways = [Way(before, zero)]
    if config.finetune == "lora" and not config.quantization:
        # Nobody can draw answers from weights that ZeRO-3 has spread.
        several = needs.sharing.processes > 1 and not isinstance(config, ReinforceConfig)
        if several and config.optimizer == "adamw" and (zero is None or zero.stage < 3):
            ways.append(Way([*before, "deepspeed=configs/deepspeed/zero3.json"], ZeroFields(stage=3)))
        if zero is None:
            ways.append(Way([*before, "quantization=4bit"], None, four_bits=True))
    return ways


def fit(gpu: Gpu, config: TrainConfig, needs: Needs, videos: Sequence[VideoShape]) -> Fit:
    """What to change, as little as possible, for a run to fit a card: first what costs time alone, then what
    costs exactness, then the tokens that a video may have.

    needs: with every layer checkpointed. videos: of the training split.
    """
    one = max(video.length for video in videos)
    widest = max(videos, key=lambda video: video.kept)
    ways = ways_of(config, needs)
    for way in ways:
        tokens = needs.tokens_in(gpu.room, way)
        if tokens >= needs.tokens and needs.validates_in(gpu.room, way):
            return Fit(gpu.name, way.settings, needs.peak(needs.tokens, way) / GIB)
        # A limit is one for validation too, which takes less of as many tokens.
        limit = tokens // ROUND * ROUND
        if limit >= one:
            fewer = f"max_tokens_per_batch={limit}"
            return Fit(gpu.name, [*way.settings, fewer], needs.peak(limit, way) / GIB)
    for way in ways:
        limit = needs.tokens_in(gpu.room, way) // ROUND * ROUND
        share = widest.visual / widest.kept
        visual = int((limit - (one - widest.kept)) * share) // ROUND * ROUND
        if visual >= LEAST_OF_A_FRAME * widest.frames:
            smaller = [f"max_visual_tokens={visual}", f"max_tokens_per_batch={limit}"]
            return Fit(gpu.name, [*way.settings, *smaller], needs.peak(limit, way) / GIB)
    return Fit(gpu.name, None, None)
