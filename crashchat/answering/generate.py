"""Answers: a video's prefix goes through the language model once,
and all its questions are answered from it at once.

Decoding keeps the layout of training (packing.py): a row a video, its questions side by side as branches.
What a step adds is the next token of every open branch, each of which sees the prefix and its own branch by
the rule of masks.py:

                P P P  a a  b b b  a b  a b  b …
    prefill     ^^^^^                               plain causal, no mask
    questions          ^^^^^^^^^^                   the branches of one row
    steps                          ^^^  ^^^  ^      a token a branch; b is still open when a has ended

The prefix's keys and values are held and read once for all branches, not once a question. On a GPU a step has
constant shapes: an ended branch goes on with padding, and attention is over all the room that answers may
take, so that kernels and their plans are the same in every step. The likeliest token is taken, or one is
drawn (draws.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from crashchat.answering.branches import Laid, Tokens, lay_out, run_tokens
from crashchat.answering.constraints import Constraint
from crashchat.answering.draws import Draw, draw_tokens, likeliest_tokens
from crashchat.answering.prefix import PreallocatedLayer, Prefix, keep_prefix, prefill
from crashchat.model.attention import Segment
from crashchat.model.lora import base_of
from crashchat.model.sequence import Branch
from crashchat.model.videollama3 import CrashChatModel
from crashchat.video.tokens import VisualTokens


@dataclass
class _Open:
    """A branch that has not ended: its row, its number among the row's branches from 0, and the position of
    its next token. ended: kept with padding, so that shapes stay as they are.
    """

    row: int
    number: int
    position: int
    ended: bool = False


class _Rows:
    """The cache behind the prefixes, a row a video, and what each branch sees of it.

    seen: float[V, branches, room], 0 where a branch's next token sees a token of its row, else -inf, as SDPA
    adds it.
    """

    def __init__(self, model: CrashChatModel, prefix: Prefix, pad_token_id: int):
        self.model, self.cache, self.pad_token_id = model, prefix.cache, pad_token_id
        self.lengths, self.end = prefix.lengths, max(prefix.lengths)

    def ask(self, asked: Laid, room: int, branches: int) -> Tensor:
        """Run the questions; returns their last hidden states, float[V, n, hidden].

        room: tokens of a row that there will ever be; branches: of the row with most.
        """
        hidden = self._run(asked.tokens, asked.segments)
        seen = torch.full((len(asked.tokens), branches, room), -torch.inf)
        for row in range(len(self.lengths)):
            for number, branch in enumerate(one for one in asked.branches if one.row == row):
                for part in (*branch.seen, branch.own):
                    seen[row, number, part] = 0
        self.seen = seen.to(hidden.device, hidden.dtype)
        return hidden

    def step(self, tokens: Tokens, numbers: list[list[int]]) -> Tensor:
        """Run the next token of some branches of each row; returns their last hidden states,
        float[V, n, hidden].

        numbers: whose they are; -1 for padding, which nobody sees.
        """
        width = max(map(len, tokens))
        places = [
            (row, number, self.end + place)
            for row, own in enumerate(numbers)
            for place, number in enumerate(own)
            if number >= 0
        ]
        rows, branches, columns = torch.tensor(places, device=self.seen.device).unbind(dim=1)
        self.seen[rows, branches, columns] = 0
        asking = [[max(number, 0) for number in own] + [0] * (width - len(own)) for own in numbers]
        index = torch.tensor(asking, device=self.seen.device)
        layer = self.cache.layers[0]
        assert isinstance(layer, PreallocatedLayer) and layer.room is not None
        length = layer.room[0].shape[2] if layer.whole else self.end + width
        mask = self.seen[torch.arange(len(tokens), device=index.device)[:, None], index, :length]
        return self._run(tokens, mask[:, None])

    def _run(self, tokens: Tokens, mask: Tensor | list[Segment]) -> Tensor:
        self.end += max(map(len, tokens))
        return run_tokens(self.model, self.cache, tokens, mask=mask, pad_token_id=self.pad_token_id)


Heard = Callable[[list[list[list[int]]]], None]  # given the tokens so far of each video's answers


def unheard(answers: list[list[list[int]]]) -> None:
    """Who does not listen to answers while they are made."""


class Generated(NamedTuple):
    """Answers to each video's questions.

    tokens: ids without the closing `<|im_end|>`. first_logits: for each video, float[its questions,
    vocabulary], of its answers' first tokens. log_probs: of the answers' tokens and their closing one, under
    the distribution that they were taken from: what constraints allowed, and before top_p.
    """

    tokens: list[list[list[int]]]
    first_logits: list[Tensor]
    log_probs: list[list[list[float]]]


@torch.inference_mode()
def answer_from_prefix(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prefix: Prefix,
    questions: Sequence[Sequence[str]],
    max_new_tokens: int = 256,
    constraints: Sequence[Sequence[Constraint | None]] | None = None,
    draws: Sequence[Sequence[Draw]] | None = None,
    constant_shapes: bool | None = None,
    heard: Heard = unheard,
) -> Generated:
    """Answers to each video's questions.

    prefix: what prefill gave, under the adapter that is active now; it can be asked again. max_new_tokens:
    tokens of an answer at most. constraints: what the answer to each question may be; None for any. draws:
    how each answer's tokens are drawn; without, the likeliest are taken. constant_shapes: see the module's
    head; None: on a GPU. heard: called with all answers' tokens so far after each step.
    """
    model = base_of(model)
    rows = _Rows(model, prefix, tokenizer.pad_token_id)
    constant = model.device.type == "cuda" if constant_shapes is None else constant_shapes
    answers: list[list[list[int]]] = [[[] for _ in asked] for asked in questions]
    log_probs: list[list[list[float]]] = [[[] for _ in asked] for asked in questions]
    asked = lay_out(tokenizer, prefix, [[Branch(text) for text in texts] for texts in questions])
    branches, places, cached = _opened(asked, prefix), asked.ends, max(prefix.lengths)
    most = max(map(len, questions))
    room = cached + max(map(len, asked.tokens)) + max_new_tokens * most
    layers = [cast(PreallocatedLayer, layer) for layer in prefix.cache.layers]  # prefill makes them
    if constant:
        for layer in layers:
            layer.reserve(room)
        room = max(room, cast(tuple[Tensor, Tensor], layers[0].room)[0].shape[2])
    logits = _logits_at(model, rows.ask(asked, room, most), places)
    first_logits = list(logits.clone().split([len(asked) for asked in questions]))
    for step in range(max_new_tokens):
        if constraints is not None:
            _rule_out(logits, branches, constraints, answers)
        if draws is None:
            chosen, probabilities = likeliest_tokens(logits)
        else:
            chosen, probabilities = draw_tokens(
                logits, [draws[one.row][one.number] for one in branches], step
            )
        for branch, probability in zip(branches, probabilities, strict=True):
            if not branch.ended:
                log_probs[branch.row][branch.number].append(probability)
        added: Tokens = [[] for _ in questions]
        numbers: list[list[int]] = [[] for _ in questions]
        places = []
        for branch, token in zip(branches, chosen, strict=True):
            branch.ended = branch.ended or token == tokenizer.eos_token_id
            if branch.ended and not constant:
                continue
            if not branch.ended:
                answers[branch.row][branch.number].append(token)
            places.append((branch.row, len(added[branch.row])))
            added[branch.row].append((tokenizer.pad_token_id if branch.ended else token, branch.position))
            numbers[branch.row].append(-1 if branch.ended else branch.number)
            branch.position += 1
        heard(answers)
        if not constant:
            branches = [branch for branch in branches if not branch.ended]
        if all(branch.ended for branch in branches) or step == max_new_tokens - 1:
            break
        logits = _logits_at(model, rows.step(added, numbers), places)
    keep_prefix(prefix)
    return Generated(answers, first_logits, log_probs)


def _opened(asked: Laid, prefix: Prefix) -> list[_Open]:
    counts = [0] * len(prefix.lengths)
    branches = []
    for row, column in asked.ends:
        _token, position = asked.tokens[row][column]
        branches.append(_Open(row, counts[row], position + 1))
        counts[row] += 1
    return branches


def _rule_out(
    logits: Tensor,
    branches: list[_Open],
    constraints: Sequence[Sequence[Constraint | None]],
    answers: list[list[list[int]]],
) -> None:
    """Take from each branch's logits the tokens that its constraint does not allow next, in place."""
    for index, branch in enumerate(branches):
        constraint = constraints[branch.row][branch.number]
        if constraint is not None and not branch.ended:
            allowed = constraint.allowed(answers[branch.row][branch.number])
            logits[index] = mask_logits(logits[index], allowed)


def mask_logits(logits: Tensor, tokens: list[int]) -> Tensor:
    """float[vocabulary], with all but some tokens ruled out."""
    kept = torch.full_like(logits, -torch.inf)
    kept[tokens] = logits[tokens]
    return kept


def _logits_at(model: CrashChatModel, hidden: Tensor, places: list[tuple[int, int]]) -> Tensor:
    """float[places, vocabulary] of the hidden states float[V, n, hidden] at (row, column) places."""
    row, column = torch.tensor(places, device=hidden.device).unbind(dim=1)
    return model.lm_head(hidden[row, column])


def answer_questions(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    visuals: Sequence[VisualTokens],
    questions: Sequence[Sequence[str]],
    max_new_tokens: int = 256,
) -> list[list[list[int]]]:
    """Greedy answers to each video's questions, all at once; as from answer_from_prefix.

    model: a CrashChatModel or a PEFT model around one.
    """
    return answer_from_prefix(
        model,
        tokenizer,
        prefix=prefill(model, tokenizer, visuals),
        questions=questions,
        max_new_tokens=max_new_tokens,
    ).tokens


def yes_and_no(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that 'Yes' and 'No' begin with. Raises ValueError where they are the same."""
    yes, no = (tokenizer.encode(word, add_special_tokens=False)[0] for word in ("Yes", "No"))
    if yes == no:
        raise ValueError(
            "the tokenizer begins 'Yes' and 'No' with the same token, so recognition has no probability"
        )
    return [yes, no]


def yes_probability(logits: Tensor, tokens: list[int]) -> float:
    """Of 'Yes' against 'No'.

    logits: float[vocabulary], of an answer's first token; tokens: from yes_and_no.
    """
    return float(logits[tokens].float().softmax(dim=-1)[0])


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> str:
    """Token ids of an answer as text."""
    # One answer's ids give one text; transformers' type also tells of a list for several.
    return cast(str, tokenizer.decode(token_ids, skip_special_tokens=True)).strip()
