"""Sequences -> one batch for the model.

A batch is one row of L tokens in which videos follow each other, without padding:

                 [ video 0: prefix, two branches ][ video 1: prefix, one branch ]
    video_ids      0 0 0 0 0 0                      1 1 1
    branch_ids     0 0 1 1 2 2                      0 1 1
    stem_ids       0 0 0 0 0 0                      0 0 0

Attention costs what the videos cost, not the square of the row (attention.py). The pixels of all videos stand
behind each other, in the order of the row. Whatever the model must know as Python numbers is worked out
here, in the reader's process: a step on a GPU waits for none of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from crashchat.model.attention import Segment, segments_of, stems_of
from crashchat.model.sequence import IGNORED, VideoSequence
from crashchat.video.tokens import VisualTokens


@dataclass
class PackedBatch:
    """What the model is given; the field names are its forward's argument names.

    input_ids, labels, position_ids, branch_ids, stem_ids, video_ids: int64[1, L]; video_ids counts the videos
    of the batch.
    segments: what attends to what (attention.py).
    label_index: int64[N], the places in the row whose next token is labelled.
    label_counts: how many of them each branch has, in order; stems, which have none, are left out.
    label_weights: float32[N], what each of them counts in the loss; None: all count 1.
    image_index: int64[K], the places of the image tokens.

    Of the videos that are encoded, which without a feature cache are all:
    pixel_values_videos: uint8[P, 588], their patches (float: normalised already).
    video_grid_thw: frames and patches down and across of each video.
    video_merge_sizes: patches a side of each video that make one visual token.
    kept_index: int64[k], which of their visual tokens compression keeps.

    With a feature cache:
    vision_features: float[K - k, vision hidden], features of the kept tokens of the cached videos; None:
    there are none.
    feature_order: int64[K], from the encoded videos' features and then the cached ones' to the row's order;
    None where all are of one kind.
    wants_features: whether a cache will keep what is encoded.
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    branch_ids: Tensor
    stem_ids: Tensor
    video_ids: Tensor
    segments: list[Segment]
    label_index: Tensor
    label_counts: list[int]
    image_index: Tensor
    pixel_values_videos: Tensor
    video_grid_thw: list[list[int]]
    video_merge_sizes: list[int]
    kept_index: Tensor
    vision_features: Tensor | None = None
    feature_order: Tensor | None = None
    wants_features: bool = False
    label_weights: Tensor | None = None

    def as_dict(self, device: torch.device | None = None) -> dict[str, Any]:
        """{field: value} of the fields that are there, the model's arguments.

        device: where its tensors are to be; Trainer moves them itself.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in values.items()
            if value is not None
        }


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
    names = ("input_ids", "labels", "position_ids", "branch_ids", "stem_ids")
    columns = {name: torch.cat([getattr(sequence, name) for sequence in sequences])[None] for name in names}
    video_ids = torch.cat([torch.full((len(sequence),), index) for index, sequence in enumerate(sequences)])
    encoded = [visual for visual in visuals if visual.features is None]
    cached = [visual.features for visual in visuals if visual.features is not None]
    image_index = torch.cat([sequence.image_places + start for sequence, start in _starts(sequences)])
    kept = sum(visual.num_kept for visual in visuals)
    if len(image_index) != kept:
        raise ValueError(f"{len(image_index)} image tokens in the text, but {kept} visual tokens were kept")
    masks = [visual.compression_mask for visual in encoded]
    segments = segments_of(video_ids[None], columns["branch_ids"], columns["stem_ids"])
    stems = stems_of(segments)
    return PackedBatch(
        **columns,
        video_ids=video_ids[None],
        segments=segments,
        # A label is predicted by the token before it, which is always of the same branch: a branch's first
        # token has none.
        label_index=(columns["labels"][0, 1:] != IGNORED).nonzero()[:, 0],
        label_counts=[
            int((columns["labels"][0, segment.own] != IGNORED).sum())
            for segment in segments
            if segment.seen and segment.own not in stems
        ],
        label_weights=_weights(sequences),
        image_index=image_index,
        pixel_values_videos=torch.cat([visual.pixel_values for visual in encoded or visuals]),
        video_grid_thw=[grid for visual in encoded for grid in visual.grid_thw.tolist()],
        video_merge_sizes=[merge for visual in encoded for merge in visual.merge_sizes.tolist()],
        kept_index=torch.cat(masks).nonzero()[:, 0] if masks else torch.zeros(0, dtype=torch.int64),
        vision_features=torch.cat(cached) if cached else None,
        feature_order=_order(visuals) if cached and encoded else None,
        wants_features=bool(cached) or any(visual.cache_key is not None for visual in visuals),
    )


def _weights(sequences: Sequence[VideoSequence]) -> Tensor | None:
    """float32[N], what each labelled token of a row counts in the loss; None where all count 1."""
    if all(sequence.label_weights is None for sequence in sequences):
        return None
    return torch.cat(
        [
            torch.ones(int((sequence.labels != IGNORED).sum()))
            if sequence.label_weights is None
            else sequence.label_weights
            for sequence in sequences
        ]
    )


def _starts(sequences: Sequence[VideoSequence]) -> Iterator[tuple[VideoSequence, int]]:
    """Each sequence and where it begins in the row."""
    start = 0
    for sequence in sequences:
        yield sequence, start
        start += len(sequence)


def _order(visuals: Sequence[VisualTokens]) -> Tensor:
    """int64[K]: of each kept token in the row's order, its place among the encoded videos' followed by the
    cached ones'.
    """
    lengths = [visual.num_kept for visual in visuals]
    behind = sorted(range(len(visuals)), key=lambda index: visuals[index].features is not None)
    places: dict[int, Tensor] = {}
    start = 0
    for index in behind:
        places[index] = torch.arange(start, start + lengths[index])
        start += lengths[index]
    return torch.cat([places[index] for index in range(len(visuals))])
