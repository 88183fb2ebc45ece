"""What fake tensors would take: an account of the bytes of tensors that have shapes and types and no data."""

import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

FROZEN, TRAINED, GRADIENTS, OPTIMIZER = "frozen weights", "trained weights", "gradients", "optimizer"
VISION, LANGUAGE, LOGITS = "vision pass", "language model", "logits"
STAYS = (FROZEN, TRAINED, GRADIENTS, OPTIMIZER)
PARTS = (*STAYS, VISION, LANGUAGE, LOGITS)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Memory:
    """Bytes of one step.

    at_peak: {part: bytes} when most is in use. largest: {part: bytes}, the most that each has at any time.
    """

    at_peak: Mapping[str, int]
    largest: Mapping[str, int]

    @property
    def peak(self) -> int:
        """The most that is in use at a time."""
        return sum(self.at_peak.values())


class Ledger(FakeTensorMode):
    """Fake tensors with an account of their bytes: each storage's on the part that was at work
    when it was made.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.part = FROZEN
        self._depth = 0
        self._part_of: dict[int, str] = {}
        self._watched: dict[int, weakref.ref] = {}
        self._live: Counter[str] = Counter()
        self.begin()

    def begin(self) -> None:
        """Forget the peaks so far."""
        self._largest = Counter(self._live)
        self._at_peak = Counter(self._live)

    def memory(self) -> Memory:
        """The peaks since `begin`."""
        return Memory(
            {part: self._at_peak[part] for part in PARTS}, {part: self._largest[part] for part in PARTS}
        )

    def dispatch(self, func, types, args=(), kwargs=None):
        """Run an operation on fakes.

        Only what the outermost one returns exists on a device: real kernels do not go by the smaller
        operations that a fake one may be taken apart into.
        """
        self._depth += 1
        try:
            made = super().dispatch(func, types, args, kwargs or {})
        finally:
            self._depth -= 1
        if not self._depth:
            for value in tree_leaves(made):
                if isinstance(value, FakeTensor):
                    self.count(value)
        return made

    def count(self, tensor: Tensor) -> None:
        """Put a tensor's storage on the account, once."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._watched:
            return
        self._part_of[key] = self.part
        self._watched[key] = weakref.ref(storage, lambda _: self._freed(key, size))
        self._add(self.part, size)

    def move(self, tensor: Tensor, part: str) -> None:
        """Say that a tensor belongs to another part than the one that made it."""
        storage = tensor.untyped_storage()
        self.count(tensor)
        self._live[self._part_of[id(storage)]] -= storage.nbytes()
        self._part_of[id(storage)] = part
        self._add(part, storage.nbytes())

    def _add(self, part: str, size: int) -> None:
        self._live[part] += size
        self._largest[part] = max(self._largest[part], self._live[part])
        if self._live.total() > self._at_peak.total():
            self._at_peak = Counter(self._live)

    def _freed(self, key: int, size: int) -> None:
        del self._watched[key]
        self._live[self._part_of.pop(key)] -= size

    def imagine(self, tensor: Tensor) -> Tensor:
        """A fake of a tensor of the meta device, on the account."""
        fake = self.fake_tensor_converter.from_meta_and_device(self, tensor, CPU)
        self.count(fake)
        return fake
