"""The cards that a run may be planned for: what they hold, do in a second and cost in an hour."""

from dataclasses import dataclass

from crashchat.errors import CrashChatError

GIB, GB = 2**30, 10**9
# Of a card's memory: CUDA's and NCCL's own, and gaps between blocks.
RESERVED_GIB = 1.5
# Operations a second that training reaches, as a share of the card's peak (recomputation counted). Assumed:
# 40 to 50% is usual for a transformer of this size with long sequences.
REACHED = 0.45
NETWORK = 25.0  # GB/s between two nodes, assumed (one card of 200 Gbit/s)


class GpuError(CrashChatError):
    """A card that is not known; the message lists those that are."""


@dataclass(frozen=True)
class Gpu:
    """A card.

    gib: what its driver reports, in 2^30 bytes. tflops: dense bfloat16 peak of the maker's data sheet. link:
    GB/s to the other cards of its node, assumed. memory: GB/s to its own, of the data sheet. price: dollars
    an hour, assumed; providers differ threefold.
    """

    name: str
    gib: float
    tflops: float
    link: float
    price: float
    memory: float

    @property
    def room(self) -> int:
        """Bytes that training can have."""
        return int((self.gib - RESERVED_GIB) * GIB)


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("rtx4090-24", 23.6, 165, link=10, price=0.5, memory=1008),
        Gpu("a100-40", 39.4, 312, link=200, price=1.3, memory=1555),
        Gpu("l40s-48", 44.5, 362, link=20, price=1.1, memory=864),
        Gpu("a100-80", 79.2, 312, link=200, price=1.8, memory=2039),
        Gpu("h100-80", 79.2, 989, link=300, price=3.0, memory=3350),
        Gpu("h200-141", 139.8, 989, link=300, price=3.8, memory=4800),
    )
}
# One card of each size, for the question of what fits where: 24, 40, 48 and 80 GB.
SIZES = ("rtx4090-24", "a100-40", "l40s-48", "h100-80")


def gpu_called(device: str) -> Gpu | None:
    """The card that a driver calls so, e.g. `NVIDIA H100 80GB HBM3`; None where it is none of these."""
    if "PCIe" in device:  # slower than the card of the same name on a board
        return None
    names = {name.split("-")[0].removeprefix("rtx").upper(): gpu for name, gpu in GPUS.items()}
    return next((gpu for name, gpu in names.items() if name in device.upper().replace("RTX ", "")), None)


def gpu_named(name: str) -> Gpu:
    """Raises GpuError for a name that is not in GPUS."""
    if name not in GPUS:
        raise GpuError(f"--gpu {name}: expected one of {', '.join(GPUS)}")
    return GPUS[name]
