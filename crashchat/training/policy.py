"""The loss of reinforcement: group-relative policy optimization (GRPO, arXiv 2402.03300) and its later
repairs.

Several answers are drawn to a question (a group). What an answer is better than its group is its advantage,
and its tokens become that much likelier:

    loss = - sum over tokens of  weight * min(ratio * advantage, clip(ratio) * advantage)  +  kl * KL(now,
    start)

ratio: probability of a token now over that when it was drawn. In the first update on a draw it is 1, and the
gradient is the plain policy gradient.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Weighting = Literal["token", "answer", "constant"]


def advantages_of(rewards: Sequence[float], scaled: bool) -> list[float] | None:
    """By how much each answer of a group is better than the group's mean; None where all are alike, which
    teaches nothing (DAPO, arXiv 2503.14476, leaves such groups out as well).

    scaled: over the group's standard deviation, as GRPO has it; without, easy and hard questions count by
    their spread (Dr. GRPO, arXiv 2503.20783).
    """
    values = torch.tensor(rewards, dtype=torch.float64)
    if float(values.max() - values.min()) < 1e-9:
        return None
    centred = values - values.mean()
    return ((centred / values.std(correction=0)) if scaled else centred).tolist()


def token_weights(lengths: Sequence[int], weighting: Weighting, longest: int) -> Tensor:
    """float64[answers], the weight of each token of an answer, before they are divided by the step's total.

    lengths: tokens of each answer. token: all tokens of the step count alike (DAPO). answer: all answers do,
    which lets long wrong answers grow (GRPO as it was). constant: all tokens over the longest answer that
    there can be, which has no bias by length (Dr. GRPO).
    """
    counts = torch.tensor(lengths, dtype=torch.float64)
    if weighting == "answer":
        return 1 / counts
    return torch.ones_like(counts) if weighting == "token" else torch.full_like(counts, 1 / longest)


def clipped(log_probs: Tensor, before: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """The surrogate of each token, float[N], to be made larger (PPO, arXiv 1707.06347).

    log_probs: float[N], now. before: float[N], when the answers were drawn. low, high: by how much the ratio
    may leave 1 before the gradient ends, down and up (DAPO: up by more).
    """
    ratio = (log_probs - before).exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def divergence(log_probs: Tensor, reference: Tensor) -> Tensor:
    """An estimate of KL(now, reference) at each token that is never negative, float[N] (k3 of GRPO's
    paper).
    """
    difference = reference - log_probs
    return difference.exp() - difference - 1
