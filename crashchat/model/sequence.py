"""One video and its questions -> one token sequence: a prefix (the frames) and branches (question + answer).

    <|im_start|>user\\nTime 0.0s:<image><image>…,Time 0.1s:<image>…\\n      prefix, branch_id 0
    {question}<|im_end|>\\n<|im_start|>assistant\\n{answer}<|im_end|>\\n     branch 1
    {question}<|im_end|>\\n<|im_start|>assistant\\n{answer}<|im_end|>\\n     branch 2 …

A branch sees the prefix and itself, never another branch, and its positions go on from the prefix's end: each
branch is, to the model, the ordinary one-question sample of docs/reference.md, Text. With one branch the
sequence *is* that sample.

Several answers to one question, one behind the other, share the question as well. All its tokens but the last
stand once, as the answers' stem. The last one begins every answer's branch, since the answer's first token is
learnt from it:

    {question}<|im_end|>\\n<|im_start|>assistant     branch 3, the stem
    \\n{answer}<|im_end|>\\n                         branch 4, which sees prefix, stem and itself
    \\n{another answer}<|im_end|>\\n                 branch 5, likewise
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from crashchat.errors import CrashChatError

IMAGE_TOKEN = "<image>"
IGNORED = -100  # label of a token that is not learnt
PREFIX = 0  # branch id of the prefix


class SequenceError(CrashChatError):
    """A sample that cannot be turned into a sequence; the message says why and what to do."""


@dataclass(frozen=True)
class Branch:
    """A question and, in training, its answer (None when the answer is to be generated).

    answer_ids: the answer as tokens that were drawn, with the closing one if it came; instead of `answer`.
    weight: what each token of the annotated answer counts in the loss.
    """

    question: str
    answer: str | None = None
    answer_ids: tuple[int, ...] | None = None
    weight: float = 1.0


@dataclass
class VideoSequence:
    """The tokens of one video and its questions.

    input_ids: int64[L]
    labels: int64[L], the answers' tokens and their `<|im_end|>`; all else IGNORED.
    position_ids: int64[L], 0…P-1 in the prefix, P… in every branch, behind its stem where it has one.
    branch_ids: int64[L], PREFIX or 1…n.
    stem_ids: int64[L], the stem of the token's branch, as a branch id; PREFIX for none.
    image_places: int64[K], where the visual tokens stand, all of them in the prefix: the same token in an
    answer, which a model may draw, is a token like any other.
    label_weights: float32[labelled tokens], what each counts in the loss; None: all count 1.
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    branch_ids: Tensor
    stem_ids: Tensor
    image_places: Tensor
    label_weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


def image_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that stands for one visual token. Raises SequenceError for a tokenizer without it."""
    known = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if not isinstance(known, int) or known == tokenizer.unk_token_id:
        raise SequenceError(
            f"the tokenizer has no {IMAGE_TOKEN!r} token; use the one that came with the checkpoint"
        )
    return known


def prefix_ids(
    tokenizer: PreTrainedTokenizerBase, seconds: Sequence[float], tokens_per_frame: Sequence[int]
) -> list[int]:
    """Token ids of a video: everything up to the newline after its last frame.

    seconds: each frame's time from the stream's start. tokens_per_frame: visual tokens kept of each frame.
    """
    if len(seconds) != len(tokens_per_frame):
        raise SequenceError(f"{len(seconds)} frame times, but token counts of {len(tokens_per_frame)} frames")
    image = image_token_id(tokenizer)
    ids = tokenizer.encode("<|im_start|>user\n", add_special_tokens=False)
    for index, (second, count) in enumerate(zip(seconds, tokens_per_frame, strict=True)):
        comma = "," if index else ""
        ids += tokenizer.encode(f"{comma}Time {second:.1f}s:", add_special_tokens=False)
        ids += [image] * count
    return ids + tokenizer.encode("\n", add_special_tokens=False)


def _question_ids(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    return tokenizer.encode(f"{question}<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)


def _answer_ids(tokenizer: PreTrainedTokenizerBase, branch: Branch) -> tuple[list[int], list[int]]:
    """(input ids, labels) behind the question."""
    if branch.answer_ids is not None:
        return [*branch.answer_ids], [*branch.answer_ids]
    if branch.answer is None:
        return [], []
    answer = tokenizer.encode(f"{branch.answer}<|im_end|>", add_special_tokens=False)
    newline = tokenizer.encode("\n", add_special_tokens=False)
    return answer + newline, answer + [IGNORED] * len(newline)


def branch_token_ids(tokenizer: PreTrainedTokenizerBase, branch: Branch) -> tuple[list[int], list[int]]:
    """(input ids, labels) of one branch alone; without an answer it ends where the answer would begin."""
    question = _question_ids(tokenizer, branch.question)
    ids, labels = _answer_ids(tokenizer, branch)
    return question + ids, [IGNORED] * len(question) + labels


class Part(NamedTuple):
    """What stands behind a prefix, piece by piece: a branch, or the stem of several.

    ids, labels: of its tokens. begin: the position of the first one, from the prefix's end. stem: which part
    it goes on from, counted from 1; PREFIX: none. branch: None for a stem.
    """

    ids: list[int]
    labels: list[int]
    begin: int
    stem: int
    branch: Branch | None


def parts_of(tokenizer: PreTrainedTokenizerBase, branches: Sequence[Branch]) -> list[Part]:
    """Some branches, in order, those of one question behind its stem (see the module's head)."""
    parts: list[Part] = []
    for question, found in groupby(branches, key=lambda branch: branch.question):
        same, asked = list(found), _question_ids(tokenizer, question)
        stem, begin = PREFIX, 0
        if len(same) > 1:
            begin = len(asked) - 1
            parts.append(Part(asked[:begin], [IGNORED] * begin, begin=0, stem=PREFIX, branch=None))
            stem, asked = len(parts), asked[begin:]
        for branch in same:
            ids, labels = _answer_ids(tokenizer, branch)
            labels = [IGNORED] * len(asked) + labels
            parts.append(Part(asked + ids, labels, begin=begin, stem=stem, branch=branch))
    return parts


def build_sequence(
    tokenizer: PreTrainedTokenizerBase,
    seconds: Sequence[float],
    tokens_per_frame: Sequence[int],
    branches: Sequence[Branch],
    max_length: int | None = None,
) -> VideoSequence:
    """The sequence of one video and its questions (docs/reference.md, Text).

    max_length: tokens a single question's sample may have (prefix and that branch), as the reference counts;
    the sequence with all its branches may be longer. Raises SequenceError past it, or without branches.
    """
    if not branches:
        raise SequenceError("a sequence needs at least one question")
    prefix = prefix_ids(tokenizer, seconds, tokens_per_frame)
    input_ids, labels = list(prefix), [IGNORED] * len(prefix)
    position_ids, branch_ids = list(range(len(prefix))), [PREFIX] * len(prefix)
    stem_ids = [PREFIX] * len(prefix)
    weights: list[float] = []
    for number, part in enumerate(parts_of(tokenizer, branches), start=1):
        length = part.begin + len(part.ids)
        if max_length is not None and len(prefix) + length > max_length:
            raise SequenceError(
                f"{len(prefix)} video tokens and {length} text tokens are over max_length={max_length}; "
                f"lower max_frames or max_visual_tokens, or raise max_length"
            )
        input_ids += part.ids
        labels += part.labels
        position_ids += range(len(prefix) + part.begin, len(prefix) + length)
        branch_ids += [number] * len(part.ids)
        stem_ids += [part.stem] * len(part.ids)
        if part.branch is not None:
            weights += [part.branch.weight] * sum(label != IGNORED for label in part.labels)
    tokens = torch.tensor(input_ids)
    image_places = (tokens[: len(prefix)] == image_token_id(tokenizer)).nonzero()[:, 0]
    return VideoSequence(
        input_ids=tokens,
        labels=torch.tensor(labels),
        position_ids=torch.tensor(position_ids),
        branch_ids=torch.tensor(branch_ids),
        stem_ids=torch.tensor(stem_ids),
        image_places=image_places,
        label_weights=torch.tensor(weights) if any(weight != 1 for weight in weights) else None,
    )
