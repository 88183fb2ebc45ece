"""How likely each of a question's possible answers is: candidates as branches of the video's prefix.

                P P P  q q a  q q b b  q q c       one question, three candidates
    one pass           ^^^^^^^^^^^^^^^^^^^         each branch sees the prefix and itself, as in learning

A candidate's likelihood is that of all its tokens and of its end; over all candidates of a question they are
made to sum to 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from crashchat.answering.prefix import Prefix, keep_prefix, run_language_model
from crashchat.model.attention import Segment
from crashchat.model.lora import base_of
from crashchat.model.sequence import IGNORED, Branch, branch_token_ids


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
    cached, device = max(prefix.lengths), model.device
    tokens: list[list[tuple[int, int]]] = [[] for _ in questions]
    segments: list[Segment] = []
    places: list[tuple[int, int, int]] = []  # (row, column, the token that comes next) of what is scored
    owners: list[int] = []  # which branch each of them belongs to
    for row, asked in enumerate(questions):
        for question in asked:
            for candidate in question.candidates:
                ids, labels = branch_token_ids(tokenizer, Branch(question.text, candidate))
                begin, position = len(tokens[row]), prefix.lengths[row]
                end = begin + len(ids)
                tokens[row] += [(token, position + offset) for offset, token in enumerate(ids)]
                own = slice(cached + begin, cached + end)
                segments.append(Segment(row, slice(begin, end), own, slice(0, position)))
                scored = [place for place, label in enumerate(labels) if label != IGNORED]
                places += [(row, begin + place - 1, labels[place]) for place in scored]
                owners += [len(segments) - 1] * len(scored)
    if not segments:
        return [[[] for _ in asked] for asked in questions]
    width = max(map(len, tokens))
    columns = torch.tensor([[*row, *[(tokenizer.pad_token_id, 0)] * (width - len(row))] for row in tokens])
    hidden = run_language_model(
        model,
        model.model.language_model.embed_tokens(columns[..., 0].to(device)),
        position_ids=columns[..., 1].to(device),
        mask=segments,
        cache=prefix.cache,
    )
    keep_prefix(prefix)
    rows, at, following = torch.tensor(places, device=device).unbind(dim=1)
    log_probs = model.lm_head(hidden[rows, at]).float().log_softmax(dim=-1)
    own = log_probs.gather(1, following[:, None])[:, 0]
    sums = torch.zeros(len(segments), device=device).index_add_(0, torch.tensor(owners, device=device), own)
    return _shared_out(sums, questions)


def _shared_out(sums: Tensor, questions: Sequence[Sequence[Question]]) -> list[list[list[float]]]:
    """float[branches] -> the probabilities of each question's candidates."""
    counts = [len(question.candidates) for asked in questions for question in asked]
    shares = iter(part.softmax(dim=0).tolist() for part in sums.split(counts))
    return [[next(shares) for _ in asked] for asked in questions]
