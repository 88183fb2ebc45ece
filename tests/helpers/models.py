"""What tests of models share."""

import torch

from crashchat.video.tokens import VisualTokens

CPU = torch.device("cpu")
# The command-line options of the flash world (flashes.py), but for the model itself.
MODEL = ["--fps", "1", "--max-frames", "20", "--max-new-tokens", "24", "--whole-up-to", "60"]


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
