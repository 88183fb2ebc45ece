"""Sequences -> one batch for the model.

A batch is one row of L tokens in which videos follow each other, without padding:

                 [ video 0: prefix, two branches ][ video 1: prefix, one branch ]
    video_ids      0 0 0 0 0 0                      1 1 1
    branch_ids     0 0 1 1 2 2                      0 1 1

Attention costs what the videos cost, not the square of the row (attention.py). The pixels of all videos stand
behind each other, in the order of the row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from crashchat.model.sequence import VideoSequence
from crashchat.video.tokens import VisualTokens


@dataclass
class PackedBatch:
    """What the model is given; the field names are its forward's argument names.

    input_ids, labels, position_ids, branch_ids, video_ids: int64[1, L]; video_ids counts the videos of the
    batch.
    pixel_values_videos: uint8[P, 588], patches of all videos but the cached ones (float: normalised already).
    video_grid_thw: int64[V, 3], frames and patches down and across of each video.
    video_merge_sizes: int64[V], patches a side that make one visual token.
    video_compression_mask: bool[N], which visual tokens are kept (N = P / merge size² without cached videos).

    With a feature cache, else None:
    vision_features: float[K, vision hidden], features of the kept tokens of the cached videos (None: there
    are none).
    video_cached: bool[V]
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

    def as_dict(self) -> dict[str, Tensor]:
        """{field: tensor} of the fields that are there,
        what Trainer moves to a device and hands to the model.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def split_by_tokens(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Which sequences go through the model together: their indices, in order, in lists.

    lengths: int[V], tokens of each sequence. limit: tokens that a batch holds; a sequence that is longer goes
    alone.
    """
    lists: list[list[int]] = []
    room = 0
    for index, length in enumerate(lengths):
        if not lists or length > room:
            lists.append([])
            room = limit
        lists[-1].append(index)
        room -= length
    return lists


def pack(sequences: Sequence[VideoSequence], visuals: Sequence[VisualTokens]) -> PackedBatch:
    """Put sequences and their visual tokens into one batch."""
    if len(sequences) != len(visuals) or not sequences:
        raise ValueError(
            f"{len(sequences)} sequences and the visual tokens of {len(visuals)} videos cannot be packed"
        )
    names = ("input_ids", "labels", "position_ids", "branch_ids")
    numbers = [torch.full((len(sequence),), index) for index, sequence in enumerate(sequences)]
    cached = [visual.features for visual in visuals if visual.features is not None]
    caching = bool(cached) or any(visual.cache_key is not None for visual in visuals)
    return PackedBatch(
        **{name: torch.cat([getattr(sequence, name) for sequence in sequences])[None] for name in names},
        video_ids=torch.cat(numbers)[None],
        pixel_values_videos=torch.cat([visual.pixel_values for visual in visuals]),
        video_grid_thw=torch.cat([visual.grid_thw for visual in visuals]),
        video_merge_sizes=torch.cat([visual.merge_sizes for visual in visuals]),
        video_compression_mask=torch.cat([visual.compression_mask for visual in visuals]),
        vision_features=torch.cat(cached) if cached else None,
        video_cached=torch.tensor([visual.features is not None for visual in visuals]) if caching else None,
    )
