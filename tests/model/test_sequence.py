"""Sequences, masks and packing: the drawings of their docstrings, and the reference's token ids."""

import itertools
import json

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from crashchat.checkpoints.folders import load_tokenizer
from crashchat.model import attention, masks, packing, varlen
from crashchat.model.masks import BLOCK, PADDING, block_mask, dense_mask, draw
from crashchat.model.packing import pack, split_by_tokens
from crashchat.model.sequence import IGNORED, Branch, SequenceError, VideoSequence, build_sequence, prefix_ids
from crashchat.tasks import question_text
from tests.helpers.models import visual_of


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
    branches = [
        Branch("What is ahead?", "a car"),
        Branch("When does it stop?", "2.5 seconds"),
        Branch("Is it red?", "No"),
    ]
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


def test_answers_to_one_question_share_it(tiny_tokenizer):
    """Prefix, stem and branch of each are the ordinary sample; the question stands once."""
    branches = [
        Branch("What is ahead?", "a car"),
        Branch("When does it stop?", "2.5 seconds"),
        Branch("When does it stop?", "3.0 seconds", weight=2.0),
        Branch("When does it stop?", answer_ids=(7, 8, 9)),
        Branch("What is ahead?", "a bus"),
    ]
    whole = build_sequence(tiny_tokenizer, [0.0, 0.5], [2, 1], branches)
    stems = dict(zip(whole.branch_ids.tolist(), whole.stem_ids.tolist(), strict=True))
    assert stems == {0: 0, 1: 0, 2: 0, 3: 2, 4: 2, 5: 2, 6: 0}
    assert whole.labels[whole.branch_ids == 2].tolist() == [IGNORED] * int((whole.branch_ids == 2).sum())
    lengths = 0
    for number, branch in zip((1, 3, 4, 5, 6), branches, strict=True):
        alone = build_sequence(tiny_tokenizer, [0.0, 0.5], [2, 1], [branch])
        part = torch.tensor([own in (0, stems[number], number) for own in whole.branch_ids.tolist()])
        for column in ("input_ids", "labels", "position_ids"):
            assert getattr(whole, column)[part].tolist() == getattr(alone, column).tolist()
        lengths += int((alone.branch_ids == 1).sum())
    stem = int((whole.branch_ids == 2).sum())
    assert int((whole.branch_ids != 0).sum()) == lengths - 2 * stem
    learnt = [len(tiny_tokenizer.encode(f"{answer}<|im_end|>")) for answer in ("a car", "2.5 seconds")]
    expected = [1.0] * sum(learnt) + [2.0] * learnt[1]
    assert whole.label_weights is not None
    assert whole.label_weights.tolist()[: len(expected)] == expected


def test_sequence_errors(tiny_tokenizer):
    with pytest.raises(SequenceError, match="at least one question"):
        build_sequence(tiny_tokenizer, [0.0], [1], [])
    with pytest.raises(SequenceError, match="over max_length=20; lower max_frames"):
        build_sequence(tiny_tokenizer, [0.0], [100], [Branch("Why?", "So.")], max_length=20)
    with pytest.raises(SequenceError, match="2 frame times, but token counts of 1"):
        build_sequence(tiny_tokenizer, [0.0, 0.1], [1], [Branch("Why?", "So.")])


def drawing_in(docstring: str, first: str) -> str:
    """The lines of a mask's drawing in a docstring, without their indent. first: the line above it."""
    lines = [line[4:] for line in docstring.splitlines()]
    start = lines.index(first)
    return "\n".join(lines[start : start + 1 + len(first.split())])


@pytest.mark.parametrize(
    ("videos", "first"), [([[2, 2, 2]], "  P P a a b b"), ([[2, [2, 2, 2]]], "  P P a a b b c c")]
)
def test_the_masks_drawings_are_the_masks(videos, first):
    ids = packed_ids(videos, len(first.split()))
    assert draw(dense_mask(*ids)[0, 0], ids[1, 0]) == drawing_in(masks.__doc__, first)


def rows_in(docstring: str, name: str) -> list[list[int]]:
    """The ids that a docstring's drawing shows for each row."""
    lines = [line for line in docstring.splitlines() if line.strip().startswith(name)]
    return [[int(number) for number in line.split()[1:]] for line in lines]


def test_the_packings_drawing_is_the_packing():
    def sequence(prefix: int, *branches: int) -> VideoSequence:
        branch_ids = [0] * prefix + [number for number, size in enumerate(branches, 1) for _ in range(size)]
        filler, stems = torch.ones(len(branch_ids), dtype=torch.int64), [0] * len(branch_ids)
        ids = (torch.tensor(branch_ids), torch.tensor(stems))
        return VideoSequence(filler, filler, filler, *ids, image_places=torch.arange(2))

    batch = pack([sequence(2, 2, 2), sequence(1, 2)], [visual_of(1)] * 2)
    for name in ("video_ids", "branch_ids", "stem_ids"):
        assert getattr(batch, name).tolist() == rows_in(packing.__doc__, name)


def test_the_attentions_drawing_is_its_parts_and_they_are_the_rule():
    """Each part is causal towards the end of its keys; together they are what the rule lets see,
    each pair once.
    """
    lines = [line[10:21] for line in attention.__doc__.splitlines() if line.startswith("    ")][1:7]
    drawn = [[bool(line[2 * column : 2 * column + 1].strip()) for column in range(6)] for line in lines]
    assert torch.tensor(drawn).equal(dense_mask(*packed_ids([[2, 2, 2]], 6))[0, 0])
    ids = packed_ids([[4, 3, [2, 1, 2]], [1, 2], [6]], 21)
    segments = attention.segments_of(*ids)
    ends = [
        (one.own.start, one.own.stop, *((part.start, part.stop) for part in one.seen)) for one in segments
    ]
    assert ends == [
        (0, 4), (4, 7, (0, 4)), (7, 9, (0, 4)), (9, 10, (0, 4), (7, 9)), (10, 12, (0, 4), (7, 9)),
        (12, 13), (13, 15, (12, 13)), (15, 21),
    ]  # fmt: skip
    query, key, value = torch.randn(3, 1, 4, 21, 8)
    module = torch.nn.Module()
    found, _ = attention.branch_attention(module, query, key, value, segments)
    dense = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=dense_mask(*ids))
    assert torch.allclose(found.transpose(1, 2), dense, atol=1e-6)
    with pytest.raises(ValueError, match="one row without padding"):
        attention.segments_of(*packed_ids([[2, 2]], 6))


def kernel_on_a_cpu(q, k, v, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **kwargs):
    """What flash-attn says of flash_attn_varlen_func, in plain torch: sequences behind each other, query
    heads that share keys, causal towards the end of the keys.
    """
    pieces = []
    scale, causal = kwargs["softmax_scale"] or q.shape[-1] ** -0.5, kwargs["causal"]
    bounds = [list(itertools.pairwise(starts.tolist())) for starts in (cu_seqlens_q, cu_seqlens_k)]
    for (first, last), (begin, end) in zip(*bounds, strict=True):
        assert last - first <= max_seqlen_q and end - begin <= max_seqlen_k
        shared = q.shape[1] // k.shape[1]
        keys, values = (states[begin:end].repeat_interleave(shared, dim=1) for states in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q[first:last], keys) * scale
        if causal:
            queries, seen = scores.shape[1:]
            ahead = torch.arange(seen) > torch.arange(queries)[:, None] + seen - queries
            scores = scores.masked_fill(ahead, -torch.inf)
        pieces.append(torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), values))
    return torch.cat(pieces)


KERNELS = ["stand-in", pytest.param("flash-attn", marks=pytest.mark.skipif(
    not (varlen.is_there() and torch.cuda.is_available()), reason="flash-attn and a GPU"))]  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_varlen_call_is_the_rule(kernel, monkeypatch):
    """Values and gradients against the dense mask; key heads shared by query heads."""
    device, tolerance = torch.device("cuda" if kernel == "flash-attn" else "cpu"), 1e-5
    dtype = torch.float32
    if kernel == "stand-in":
        monkeypatch.setattr(varlen, "kernel", lambda: kernel_on_a_cpu)
    else:
        dtype, tolerance = torch.bfloat16, 2e-2
    ids = packed_ids([[4, 3, [2, 1, 2]], [1, 2], [6]], 21)
    torch.manual_seed(0)
    states = [torch.randn(1, heads, 21, 8, device=device, dtype=dtype) for heads in (4, 2, 2)]
    segments = attention.segments_of(*ids)
    results = []
    for way in ("varlen", "dense"):
        query, key, value = (state.clone().requires_grad_() for state in states)
        if way == "varlen":
            mask = varlen.varlen_of(segments, device)
            found, _ = varlen.varlen_attention(None, query, key, value, mask)
        else:
            mask = dense_mask(*ids).to(device)
            found, _ = attention.branch_attention(None, query, key, value, mask)
        (found * torch.arange(8, device=device)).sum().backward()
        results.append([found.detach(), query.grad, key.grad, value.grad])
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, atol=tolerance)


@pytest.mark.parametrize("kernel", KERNELS)
def test_frames_of_the_varlen_call_see_themselves_alone(kernel, monkeypatch):
    if kernel == "stand-in":
        monkeypatch.setattr(varlen, "kernel", lambda: kernel_on_a_cpu)
        states = torch.randn(3, 1, 2, 12, 8)
    else:
        states = torch.randn(3, 1, 2, 12, 8, device="cuda", dtype=torch.bfloat16)
    found, _ = varlen.varlen_frames(None, *states, None, num_frames=3)
    expected, _ = attention.frame_attention(None, *states, None, num_frames=3)
    assert torch.allclose(found, expected, atol=1e-6 if kernel == "stand-in" else 2e-2)


def test_sequences_are_split_by_tokens():
    assert split_by_tokens([4, 6, 3, 9, 30, 1], 13) == [[0, 1, 2], [3], [4], [5]]


def packed_ids(videos: list[list], length: int) -> torch.Tensor:
    """video_ids, branch_ids and stem_ids, int64[3, 1, length], of videos with these sizes of prefix and
    branches, padded; a list is of a stem and its branches.
    """
    columns: list[tuple[int, int, int]] = []
    for index, (prefix, *behind) in enumerate(videos):
        columns += [(index, 0, 0)] * prefix
        number = 0
        for sizes in ([one] if isinstance(one, int) else one for one in behind):
            first = number + 1
            for size in sizes:
                number += 1
                columns += [(index, number, 0 if number == first else first)] * size
    columns += [(PADDING, 0, 0)] * (length - len(columns))
    return torch.tensor(columns).T[:, None]


@pytest.mark.parametrize(
    "videos, length",
    [
        ([[40, 30, 20], [10, 20]], 128),
        ([[300, 7, 150, 90], [5, 200, 3], [260, 40]], 1100),
        ([[513]], 513),
        ([[140, [150, 3, 200], 40], [5, [3, 140, 2]]], 700),
    ],
)
def test_dense_and_block_mask_are_one_rule(videos, length):
    generator = torch.Generator().manual_seed(0)
    ids = packed_ids(videos, length)
    query, key, value = torch.randn(3, 1, 2, length, 16, generator=generator)
    mask, blocks = dense_mask(*ids), block_mask(*ids)
    dense = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    flex = flex_attention(query, key, value, block_mask=blocks)
    assert torch.allclose(dense, flex, atol=1e-5)
    # Full blocks are not looked at token by token, and what is left out is not looked at at all: both must be
    # so.
    side = -(-length // BLOCK)
    rest = side * BLOCK - length
    partial, full = (found[0, 0] for found in masks._blocks(*ids))

    def by_block(padded_with: bool) -> torch.Tensor:
        return torch.nn.functional.pad(mask[0, 0], (0, rest, 0, rest), value=padded_with).view(
            side, BLOCK, side, BLOCK
        )

    assert not by_block(False).any(3).any(1)[~(partial | full)].any()
    assert by_block(True).all(3).all(1)[full].all()


def test_most_of_a_long_prefixs_blocks_are_full_and_branches_skip_each_other():
    partial, full = masks._blocks(*packed_ids([[9000, *[200] * 6]], 10200))
    assert full.sum() > 0.9 * (partial | full).sum()
    assert (partial | full)[0, 0, -1].sum() <= 9000 // BLOCK + 1 + 3  # the last branch: prefix and itself
