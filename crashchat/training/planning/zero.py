"""What of their memory processes share, and what sharing takes itself: plain data parallelism,
and DeepSpeed's three stages.

    stage 1    a process keeps its share of the optimizer, which has float32 copies of the trained weights
    stage 2    and of the gradients
    stage 3    and of all weights, gathered as they are needed

These are sums after DeepSpeed 0.19's source; none was measured on a GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from crashchat.config import ConfigError
from crashchat.json_files import Lenient, checked, read_json
from crashchat.training.planning.ledger import FROZEN, GRADIENTS, OPTIMIZER, TRAINED, Memory

EXCHANGE = "exchange between processes"
BFLOAT16, FLOAT32 = 2, 4  # bytes
Elements = Annotated[float, Field(ge=1, le=1e12)]


class ZeroFields(Lenient):
    """Of a DeepSpeed config's zero_optimization, what memory depends on; the defaults are DeepSpeed's."""

    stage: Annotated[int, Field(ge=0, le=3)] = 0
    reduce_bucket_size: Elements = 5e8
    stage3_max_live_parameters: Elements = 1e9


class DeepSpeedFields(Lenient):
    """Of a DeepSpeed config, the part that says how memory is shared."""

    zero_optimization: ZeroFields = Field(default_factory=ZeroFields)


def read_zero(path: Path | None) -> ZeroFields | None:
    """The part of a DeepSpeed config that says how memory is shared; None without one.

    Raises ConfigError.
    """
    if path is None:
        return None
    values = read_json(path, ConfigError, "a DeepSpeed config")
    return checked(DeepSpeedFields, values, path, ConfigError).zero_optimization


@dataclass(frozen=True)
class Sharing:
    """How a run's processes share memory. zero: None for plain data parallelism. trained: parameters."""

    processes: int
    zero: ZeroFields | None
    trained: int

    def _part(self, part: str, alone: int) -> int:
        if self.zero is None:
            return alone
        stage, share = self.zero.stage, 1 / self.processes
        if part == OPTIMIZER and stage >= 1:  # a copy of the weights and two moments
            return int(3 * FLOAT32 * self.trained * share)
        if (part == GRADIENTS and stage >= 2) or (part in (FROZEN, TRAINED) and stage == 3):
            return int(alone * share)
        return alone

    def _exchange(self, largest: Mapping[str, int]) -> int:
        if self.zero is None:  # DDP's buckets: the gradients once more
            return largest[GRADIENTS] if self.processes > 1 else 0
        buckets = BFLOAT16 * self.zero.reduce_bucket_size
        gathered = BFLOAT16 * self.zero.stage3_max_live_parameters if self.zero.stage == 3 else 0
        return int(buckets + min(gathered, largest[FROZEN] + largest[TRAINED]))

    def of(self, alone: Memory) -> Memory:
        """A process's memory among others, of what it would be alone."""
        exchange = {EXCHANGE: self._exchange(alone.largest)}
        return Memory(
            *(
                {part: self._part(part, size) for part, size in sizes.items()} | exchange
                for sizes in (alone.at_peak, alone.largest)
            )
        )
