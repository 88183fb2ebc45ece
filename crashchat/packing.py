"""Sequences -> one batch for the model.

A batch has R rows of L tokens. A row holds one video or, packed, several, one after the other; what is left is padding:

    row 0        [ video 0: prefix, two branches ][ video 1: prefix, one branch ] padding
    video_ids      0 0 0 0 0 0                      1 1 1                         -1
    branch_ids     0 0 1 1 2 2                      0 1 1                          0

    row 1        [ video 2: prefix, three branches ]
    video_ids      2 2 2 2 2 2 2 2 2 2
    branch_ids     0 0 0 1 1 2 2 2 3 3

The pixels of all videos stand behind each other, in the order in which their image tokens stand in the rows.
"""

from collections.abc import Sequence as ListOf
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from crashchat.masks import PADDING
from crashchat.sequence import IGNORED, PREFIX, Sequence
from crashchat.vision import VisualTokens, without_pixels


@dataclass
class PackedBatch:
    """What the model is given; the field names are its forward's argument names.

    input_ids, labels, position_ids, branch_ids, video_ids: int64[R, L]; padding has label IGNORED and video id PADDING.
    pixel_values_videos: uint8[P, 588], patches of all videos but the cached ones (float: normalised already).
    video_grid_thw: int64[V, 3], frames and patches down and across of each video.
    video_merge_sizes: int64[V]
    video_compression_mask: bool[N], which visual tokens are kept (N = P / 4 without cached videos).

    With a feature cache, else None:
    vision_features: float[K, vision hidden], features of the kept tokens of the cached videos (None: there are none).
    video_cached: bool[V]
    cache_videos: the V videos without their pixels, for storing what was encoded; the model does not take it.
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    branch_ids: Tensor
    video_ids: Tensor
    pixel_values_videos: Tensor
    video_grid_thw: Tensor
    video_merge_sizes: Tensor
    video_compression_mask: Tensor
    vision_features: Tensor | None = None
    video_cached: Tensor | None = None
    cache_videos: list[VisualTokens] | None = None

    def as_dict(self) -> dict[str, Tensor]:
        """{field: tensor} of the fields that are there, what Trainer moves to a device and hands to the model."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def _fill_rows(lengths: ListOf[int], row_length: int) -> list[list[int]]:
    """Which sequences share a row: in order, a new row where the next does not fit (order is what pixels follow)."""
    rows: list[list[int]] = []
    room = 0
    for index, length in enumerate(lengths):
        if not rows or length > room:
            rows.append([])
            room = max(row_length, length)
        rows[-1].append(index)
        room -= length
    return rows


def pack(
    sequences: ListOf[Sequence], visuals: ListOf[VisualTokens], pad_token_id: int, row_length: int | None = None
) -> PackedBatch:
    """Put sequences and their visual tokens into one batch.

    row_length: tokens a row may hold. None gives each video a row of its own: with a dense mask, attention costs the
    square of a row. With FlexAttention one long row costs no more than its videos, and there is no padding.
    """
    if len(sequences) != len(visuals) or not sequences:
        raise ValueError(f"{len(sequences)} sequences and the visual tokens of {len(visuals)} videos cannot be packed")
    rows = _fill_rows([len(sequence) for sequence in sequences], row_length or 0)
    length = max(sum(len(sequences[index]) for index in row) for row in rows)
    padding = {"input_ids": pad_token_id, "labels": IGNORED, "position_ids": 0, "branch_ids": PREFIX}
    columns = {name: torch.full((len(rows), length), value) for name, value in padding.items()}
    columns["video_ids"] = torch.full((len(rows), length), PADDING)
    for row_index, row in enumerate(rows):
        start = 0
        for index in row:
            end = start + len(sequences[index])
            for name in padding:
                columns[name][row_index, start:end] = getattr(sequences[index], name)
            columns["video_ids"][row_index, start:end] = index
            start = end
    cached = [visual.features for visual in visuals if visual.features is not None]
    caching = bool(cached) or any(visual.cache_key is not None for visual in visuals)
    return PackedBatch(
        **columns,
        pixel_values_videos=torch.cat([visual.pixel_values for visual in visuals]),
        video_grid_thw=torch.cat([visual.grid_thw for visual in visuals]),
        video_merge_sizes=torch.cat([visual.merge_sizes for visual in visuals]),
        video_compression_mask=torch.cat([visual.compression_mask for visual in visuals]),
        vision_features=torch.cat(cached) if cached else None,
        video_cached=torch.tensor([visual.features is not None for visual in visuals]) if caching else None,
        cache_videos=[without_pixels(visual) for visual in visuals] if caching else None,
    )
