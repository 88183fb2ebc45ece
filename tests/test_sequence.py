"""Sequences, masks and packing: the drawings of their docstrings, and the reference's token ids."""

import json

import pytest
import torch

from crashchat import masks, packing
from crashchat.checkpoints import load_tokenizer
from crashchat.masks import PADDING, block_mask, dense_mask, draw
from crashchat.packing import pack
from crashchat.sequence import IGNORED, Branch, Sequence, SequenceError, build_sequence, prefix_ids
from crashchat.tasks import question_text
from crashchat.vision import VisualTokens


def visual_of(frames: int, tokens_a_frame: int = 2) -> VisualTokens:
    """Visual tokens with the right shapes and random pixels: 28 x (28 · tokens_a_frame) pixels a frame."""
    patches = frames * tokens_a_frame * 4
    return VisualTokens(
        pixel_values=torch.randint(0, 256, (patches, 588), dtype=torch.uint8),
        grid_thw=torch.tensor([[frames, 2, 2 * tokens_a_frame]]),
        merge_sizes=torch.tensor([2]),
        compression_mask=torch.ones(patches // 4, dtype=torch.bool),
        seconds=[0.5 * index for index in range(frames)],
    )


def test_reference_token_ids_and_labels(shared):
    reference = shared / "golden" / "reference"
    tokenizer = load_tokenizer(reference / "base")
    golden = json.loads((reference / "golden.json").read_text())
    seconds = golden["sampling"]["golden"]["timestamps"]
    for case in golden["cases"]:
        branch = Branch(question_text(case["question"]), case["answer"])
        sequence = build_sequence(tokenizer, seconds, [18] * 6, [branch])
        assert sequence.input_ids.tolist() == case["input_ids"], case["task"]
        assert sequence.labels.tolist() == case["labels"], case["task"]


def test_each_branch_is_the_ordinary_sample(tiny_tokenizer):
    branches = [Branch("What is ahead?", "a car"), Branch("When does it stop?", "2.5 seconds"), Branch("Is it red?", "No")]
    whole = build_sequence(tiny_tokenizer, [0.0, 0.5], [2, 1], branches)
    prefix = whole.branch_ids == 0
    assert whole.input_ids[prefix].tolist() == prefix_ids(tiny_tokenizer, [0.0, 0.5], [2, 1])
    for number, branch in enumerate(branches, start=1):
        alone = build_sequence(tiny_tokenizer, [0.0, 0.5], [2, 1], [branch])
        part = prefix | (whole.branch_ids == number)
        for column in ("input_ids", "labels", "position_ids"):
            assert getattr(whole, column)[part].tolist() == getattr(alone, column).tolist()
        text = tiny_tokenizer.decode(alone.labels[alone.labels != IGNORED])
        assert text == f"{branch.answer}<|im_end|>"


def test_sequence_errors(tiny_tokenizer):
    with pytest.raises(SequenceError, match="at least one question"):
        build_sequence(tiny_tokenizer, [0.0], [1], [])
    with pytest.raises(SequenceError, match="over max_length=20; lower max_frames"):
        build_sequence(tiny_tokenizer, [0.0], [100], [Branch("Why?", "So.")], max_length=20)
    with pytest.raises(SequenceError, match="2 frame times, but token counts of 1"):
        build_sequence(tiny_tokenizer, [0.0, 0.1], [1], [Branch("Why?", "So.")])


def drawing_in(docstring: str) -> str:
    """The lines of a mask's drawing in a docstring, without their indent."""
    lines = [line[4:] for line in docstring.splitlines()]
    start = lines.index("  P P a a b b")
    return "\n".join(lines[start : start + 7])


def test_the_masks_drawing_is_the_mask():
    branch_ids = torch.tensor([0, 0, 1, 1, 2, 2])
    mask = dense_mask(torch.zeros(1, 6, dtype=torch.int64), branch_ids[None])[0, 0]
    assert draw(mask, branch_ids) == drawing_in(masks.__doc__)


def rows_in(docstring: str, name: str) -> list[list[int]]:
    """The ids that a docstring's drawing shows for each row."""
    lines = [line for line in docstring.splitlines() if line.strip().startswith(name)]
    return [[int(number) for number in line.split()[1:]] for line in lines]


def test_the_packings_drawing_is_the_packing():
    def sequence(prefix: int, *branches: int) -> Sequence:
        branch_ids = [0] * prefix + [number for number, size in enumerate(branches, 1) for _ in range(size)]
        filler = torch.ones(len(branch_ids), dtype=torch.int64)
        return Sequence(filler, filler, filler, torch.tensor(branch_ids))

    sequences = [sequence(2, 2, 2), sequence(1, 2), sequence(3, 2, 3, 2)]
    batch = pack(sequences, [visual_of(1)] * 3, pad_token_id=0, row_length=10)
    assert batch.video_ids.tolist() == rows_in(packing.__doc__, "video_ids")
    assert batch.branch_ids.tolist() == rows_in(packing.__doc__, "branch_ids")
    assert (batch.labels[batch.video_ids == PADDING] == IGNORED).all()
    assert pack(sequences, [visual_of(1)] * 3, pad_token_id=0).video_ids[:, 0].tolist() == [0, 1, 2]


def test_dense_and_block_mask_are_one_rule():
    from torch.nn.attention.flex_attention import flex_attention

    generator = torch.Generator().manual_seed(0)
    video_ids = torch.tensor([[0] * 90 + [1] * 30 + [PADDING] * 8, [2] * 128])
    branch_ids = torch.cat(
        [
            torch.tensor([[0] * 40 + [1] * 30 + [2] * 20 + [0] * 10 + [1] * 20 + [0] * 8]),
            torch.tensor([[0] * 64 + [1] * 32 + [2] * 32]),
        ]
    )
    query, key, value = torch.randn(3, 2, 2, 128, 16, generator=generator)
    dense = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=dense_mask(video_ids, branch_ids))
    flex = flex_attention(query, key, value, block_mask=block_mask(video_ids, branch_ids))
    assert torch.allclose(dense, flex, atol=1e-5)
