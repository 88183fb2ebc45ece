"""One video and its questions -> one token sequence: a prefix (the frames) and branches (question + answer).

    <|im_start|>user\\nTime 0.0s:<image><image>…,Time 0.1s:<image>…\\n      prefix, branch_id 0
    {question}<|im_end|>\\n<|im_start|>assistant\\n{answer}<|im_end|>\\n     branch 1
    {question}<|im_end|>\\n<|im_start|>assistant\\n{answer}<|im_end|>\\n     branch 2 …

A branch sees the prefix and itself, never another branch, and its positions go on from the prefix's end: each
branch is, to the model, the ordinary one-question sample of docs/reference.md, Text. With one branch the
sequence *is* that sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
    position_ids: int64[L], 0…P-1 in the prefix, P… in every branch.
    branch_ids: int64[L], PREFIX or 1…n.
    image_places: int64[K], where the visual tokens stand, all of them in the prefix: the same token in an
    answer, which a model may draw, is a token like any other.
    label_weights: float32[labelled tokens], what each counts in the loss; None: all count 1.
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    branch_ids: Tensor
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


def branch_token_ids(tokenizer: PreTrainedTokenizerBase, branch: Branch) -> tuple[list[int], list[int]]:
    """(input ids, labels) of one branch; without an answer it ends where the answer would begin."""
    question = f"{branch.question}<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.encode(question, add_special_tokens=False)
    labels = [IGNORED] * len(ids)
    if branch.answer_ids is not None:
        ids += branch.answer_ids
        labels += branch.answer_ids
    elif branch.answer is not None:
        answer = tokenizer.encode(f"{branch.answer}<|im_end|>", add_special_tokens=False)
        newline = tokenizer.encode("\n", add_special_tokens=False)
        ids += answer + newline
        labels += answer + [IGNORED] * len(newline)
    return ids, labels


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
    weights: list[float] = []
    for number, branch in enumerate(branches, start=1):
        ids, branch_labels = branch_token_ids(tokenizer, branch)
        if max_length is not None and len(prefix) + len(ids) > max_length:
            raise SequenceError(
                f"{len(prefix)} video tokens and {len(ids)} text tokens are over max_length={max_length}; "
                f"lower max_frames or max_visual_tokens, or raise max_length"
            )
        input_ids += ids
        labels += branch_labels
        position_ids += range(len(prefix), len(prefix) + len(ids))
        branch_ids += [number] * len(ids)
        weights += [branch.weight] * sum(label != IGNORED for label in branch_labels)
    tokens, labelled, positions, numbers = (
        torch.tensor(column, dtype=torch.int64) for column in (input_ids, labels, position_ids, branch_ids)
    )
    image_places = (tokens[: len(prefix)] == image_token_id(tokenizer)).nonzero()[:, 0]
    return VideoSequence(
        tokens,
        labelled,
        positions,
        numbers,
        image_places=image_places,
        label_weights=torch.tensor(weights) if any(weight != 1 for weight in weights) else None,
    )
