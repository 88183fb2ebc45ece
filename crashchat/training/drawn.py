"""Drawn answers as batches, and the loss that is learnt from them.

    prefix | question 1, answer 1 | question 1, answer 2 | ... | question 2, answer 1 | ...

Every answer is a branch with an advantage; each of its tokens counts with it (policy.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from crashchat.model.packing import pack, split_by_tokens
from crashchat.model.sequence import Branch, build_sequence
from crashchat.settings import ReinforceConfig
from crashchat.training.policy import clipped, divergence, token_weights
from crashchat.training.rollouts import Rollout


@dataclass
class DrawnPass:
    """What goes through the model at a time, N labelled tokens.

    batch: the model's arguments. advantages, weights: float32[N]. before: float32[N], the tokens'
    log-probabilities at the first update. reference: float32[N], under the model that the run started from.
    """

    batch: dict
    advantages: Tensor
    weights: Tensor
    before: Tensor | None = None
    reference: Tensor | None = None


def branches_of(rollouts: Sequence[Rollout], closing: int) -> list[Branch]:
    """All drawn answers of some videos as branches, in order; closing: the token that ends an answer."""
    groups = [group for rollout in rollouts for group in rollout.groups]
    return [branch for group in groups for branch in group.branches(closing)]


def answer_lengths(rollouts: Sequence[Rollout], closing: int) -> list[int]:
    """Tokens of each drawn answer, the closing one included where it came."""
    return [len(branch.answer_ids or ()) for branch in branches_of(rollouts, closing)]


def lay_out(
    rollouts: Sequence[Rollout],
    tokenizer: PreTrainedTokenizerBase,
    config: ReinforceConfig,
    *,
    tokens: int,
    answers: int,
    device: torch.device,
) -> list[DrawnPass]:
    """The passes of some videos' drawn answers; a group without advantages counts nothing.

    tokens, answers: of the whole step, over all processes and of the groups that count: what losses are
    averaged over.
    """
    closing = tokenizer.eos_token_id
    sequences = [
        build_sequence(
            tokenizer,
            rollout.visual.seconds,
            rollout.visual.kept_per_frame,
            branches_of([rollout], closing),
            max_length=config.max_length,
        )
        for rollout in rollouts
    ]
    total = max(tokens if config.token_weighting == "token" else answers, 1)
    passes = []
    for indices in split_by_tokens(list(map(len, sequences)), config.max_tokens_per_batch):
        own = [rollouts[index] for index in indices]
        batch = pack([sequences[index] for index in indices], [rollout.visual for rollout in own])
        batch.wants_features = False  # they are not new
        lengths = answer_lengths(own, closing)
        groups = [group for rollout in own for group in rollout.groups]
        advantages = [value for group in groups for value in group.advantages or [0.0] * len(group.tokens)]
        weights = token_weights(lengths, config.token_weighting, config.max_new_tokens) / total
        counts = torch.tensor(lengths)
        passes.append(
            DrawnPass(
                batch.as_dict(device),
                torch.tensor(advantages).repeat_interleave(counts).to(device),
                weights.float().repeat_interleave(counts).to(device),
            )
        )
    return passes


def policy_loss(
    model: nn.Module, drawn: DrawnPass, config: ReinforceConfig, reference: Tensor | None = None
) -> Tensor:
    """The loss of a pass, float32[], a part of the whole step's.

    reference: float32[N], log-probabilities under the model that the run started from, where kl counts.
    """
    log_probs = -model(**drawn.batch, temperature=config.temperature).token_losses
    if drawn.before is None:
        drawn.before = log_probs.detach()
    gained = clipped(log_probs, drawn.before, drawn.advantages, low=config.clip_low, high=config.clip_high)
    loss = -(drawn.weights * gained).sum()
    if reference is not None:
        loss = loss + config.kl * (drawn.weights * divergence(log_probs, reference)).sum()
    return loss
