"""An answer's next token: the likeliest, or one drawn at random, from which distribution and with what seed.

Every drawn answer has a seed of its own, so that it is the same whatever else is answered beside it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """How one answer's tokens are drawn.

    temperature: the logits are divided by it, more than 0. top_p: from the likeliest tokens that have this
    share of the probability together, of (0, 1]. seed: any text or number; one answer is one stream of random
    numbers.
    """

    seed: str
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"found temperature {self.temperature} and top_p {self.top_p}, expected more than 0, and "
                "more than 0 and at most 1"
            )


def likeliest_tokens(logits: Tensor) -> tuple[list[int], list[float]]:
    """The likeliest token of each row, and its log-probability. logits: float[rows, vocabulary]."""
    logits = logits.float()
    highest, chosen = logits.max(dim=-1)
    values = highest - logits.logsumexp(dim=-1)
    return cast(list[int], chosen.tolist()), cast(list[float], values.tolist())


def draw_tokens(logits: Tensor, draws: Sequence[Draw], step: int) -> tuple[list[int], list[float]]:
    """A token of each row, and its log-probability before top_p.

    logits: float[rows, vocabulary]; step: which token of the answers it is, from 0.
    """
    temperatures = torch.tensor([draw.temperature for draw in draws], device=logits.device)
    log_probs = (logits.float() / temperatures[:, None]).log_softmax(dim=-1)
    ordered, tokens = log_probs.exp().double().sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    top = torch.tensor([draw.top_p for draw in draws], dtype=torch.float64, device=logits.device)
    ordered = torch.where(before < top[:, None], ordered, 0)
    reached = ordered.cumsum(dim=-1)
    numbers = torch.tensor(
        [random.Random(f"{draw.seed}/{step}").random() for draw in draws],
        dtype=torch.float64,
        device=logits.device,
    )
    # The first token at which the sum of probabilities is over the number; never one of probability 0.
    last = (ordered > 0).sum(dim=-1, keepdim=True) - 1
    place = (reached <= numbers[:, None] * reached[:, -1:]).sum(dim=-1, keepdim=True).minimum(last)
    chosen = tokens.gather(1, place)
    values = log_probs.gather(1, chosen)[:, 0].tolist()
    return cast(list[int], chosen[:, 0].tolist()), cast(list[float], values)
