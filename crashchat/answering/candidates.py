"""How likely each of a question's possible answers is: candidates as branches of the video's prefix.

                P P P  q q  q a  q b b  q c       a question of three tokens, three candidates
    one pass           ^^^^^^^^^^^^^^^^^^^^       as in learning each sees prefix, question and itself

A candidate's likelihood is that of all its tokens and of its end; over all candidates of a question they are
made to sum to 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from crashchat.answering.branches import lay_out, run_tokens
from crashchat.answering.prefix import Prefix, keep_prefix
from crashchat.model.lora import base_of
from crashchat.model.sequence import IGNORED, Branch


@dataclass(frozen=True)
class Question:
    """A question with all answers that there are."""

    text: str
    candidates: tuple[str, ...]


@torch.inference_mode()
def candidate_probabilities(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prefix: Prefix,
    questions: Sequence[Sequence[Question]],
) -> list[list[list[float]]]:
    """The probability of each candidate of each video's questions, which sum to 1 over a question's.

    prefix: what prefill gave, under the adapter that is active now; it can be asked again.
    """
    model = base_of(model)
    device = model.device
    laid = lay_out(
        tokenizer,
        prefix,
        [
            [Branch(question.text, candidate) for question in asked for candidate in question.candidates]
            for asked in questions
        ],
    )
    places: list[tuple[int, int, int]] = []  # (row, column, the token that comes next) of what is scored
    owners: list[int] = []  # which branch each of them belongs to
    for number, (segment, labels) in enumerate(zip(laid.branches, laid.labels, strict=True)):
        scored = [place for place, label in enumerate(labels) if label != IGNORED]
        places += [(segment.row, segment.queries.start + place - 1, labels[place]) for place in scored]
        owners += [number] * len(scored)
    if not places:
        return [[[] for _ in asked] for asked in questions]
    hidden = run_tokens(
        model, prefix.cache, laid.tokens, mask=laid.segments, pad_token_id=tokenizer.pad_token_id
    )
    keep_prefix(prefix)
    rows, at, following = torch.tensor(places, device=device).unbind(dim=1)
    log_probs = model.lm_head(hidden[rows, at]).float().log_softmax(dim=-1)
    own = log_probs.gather(1, following[:, None])[:, 0]
    branches = torch.tensor(owners, device=device)
    sums = torch.zeros(len(laid.branches), device=device).index_add_(0, branches, own)
    return _shared_out(sums, questions)


def _shared_out(sums: Tensor, questions: Sequence[Sequence[Question]]) -> list[list[list[float]]]:
    """float[branches] -> the probabilities of each question's candidates."""
    counts = [len(question.candidates) for asked in questions for question in asked]
    shares = iter(part.softmax(dim=0).tolist() for part in sums.split(counts))
    return [[next(shares) for _ in asked] for asked in questions]
