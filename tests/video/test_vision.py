"""Sizes, patches and compression, against hand-made cases and the recorded stages."""

import json

import numpy as np
import pytest
import torch

from crashchat.video.decode import Clip, read_clip
from crashchat.video.tokens import VisionSettings, normalise, resize_frames, target_size, visual_tokens


def clip_of(frames: torch.Tensor) -> Clip:
    return Clip("made.mp4", frames, [k / 10 for k in range(len(frames))])


def random_clip(frames: int, height: int, width: int) -> Clip:
    generator = torch.Generator().manual_seed(0)
    return clip_of(torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=generator))


def test_recorded_sizes(shared):
    cases = json.loads((shared / "golden/reference/golden.json").read_text())["resize_cases"]
    assert len(cases) == 10
    for case in cases:
        settings = VisionSettings(max_tokens=case["max_tokens"])
        size = target_size(case["height"], case["width"], case["num_frames"], settings)
        assert list(size) == case["resized"], case


def test_sizes_keep_their_limits():
    settings = VisionSettings()
    for height, width, frames in [(1, 1, 1), (28, 28, 1), (4, 3000, 96), (1080, 1920, 96), (2160, 3840, 3)]:
        new_height, new_width = target_size(height, width, frames, settings)
        assert new_height % 28 == new_width % 28 == 0
        assert new_height * new_width // 28**2 >= 16
    # 1,000 frames of 16 tokens are more than 10,240: the least a frame needs wins.
    assert target_size(320, 320, 1000, settings) == (112, 112)


@pytest.mark.parametrize("size", [(0, 100, 1), (100, 0, 1), (100, 100, 0)])
def test_nothing_to_resize_is_an_error(size):
    with pytest.raises(ValueError, match="expected a picture"):
        target_size(*size, VisionSettings())


def test_bad_settings_are_an_error():
    with pytest.raises(ValueError, match="merge_size"):
        VisionSettings(merge_size=0)


@pytest.mark.parametrize("from_file", [False, True])
def test_recorded_stages(shared, from_file):
    golden = shared / "golden/reference"
    if from_file:
        clip = read_clip(golden / "video.mp4", 2, 6)
    else:
        clip = clip_of(torch.from_numpy(np.load(golden / "frames.npy")))
    settings = VisionSettings(max_tokens=96)
    clip.frames = resize_frames(clip.frames, 6, settings)
    tokens = visual_tokens(clip, settings)
    recorded = json.loads((golden / "golden.json").read_text())
    assert tokens.grid_thw.tolist() == recorded["grid_sizes"]
    assert tokens.merge_sizes.tolist() == recorded["merge_sizes"]
    pixels = np.load(golden / "pixel_values.npy")
    assert tokens.pixel_values.shape == pixels.shape
    # One grey level is 2/255 on the normalised scale.
    assert np.abs(normalise(tokens.pixel_values).numpy() - pixels).max() <= 2 / 255 + 1e-5
    assert (tokens.compression_mask.numpy() == np.load(golden / "compression_mask.npy")).mean() >= 0.99


def test_shapes_and_types():
    tokens = visual_tokens(random_clip(3, 112, 140), VisionSettings())
    assert tokens.grid_thw.tolist() == [[3, 8, 10]]
    assert tokens.pixel_values.shape == (3 * 8 * 10, 588)
    assert tokens.compression_mask.shape == (3 * 20,)
    assert tokens.pixel_values.dtype == torch.uint8 and tokens.compression_mask.dtype == torch.bool
    assert tokens.grid_thw.dtype == tokens.merge_sizes.dtype == torch.int64
    assert tokens.seconds == [0.0, 0.1, 0.2]


def test_normalised_pixels():
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert torch.allclose(normalise(levels), torch.tensor([-1.0, -0.6, 1.0]))


def test_the_patches_of_a_token_are_neighbours():
    clip = random_clip(2, 112, 140)  # a size that isn't resized, so every pixel can be found again
    pixels = visual_tokens(clip, VisionSettings()).pixel_values
    number = 0
    for frame in clip.frames:
        for row in range(0, 112, 28):
            for column in range(0, 140, 28):
                for down in (0, 14):
                    for across in (0, 14):
                        patch = frame[:, row + down : row + down + 14, column + across : column + across + 14]
                        assert torch.equal(pixels[number], patch.flatten())
                        number += 1
    assert number == len(pixels)


def test_unchanged_tokens_are_dropped():
    frames = random_clip(1, 112, 112).frames.repeat(4, 1, 1, 1)  # 16 tokens a frame
    frames[1, :, 28:56, 56:84] ^= 255  # token (1, 2) changes, and changes back
    tokens = visual_tokens(clip_of(frames), VisionSettings())
    mask = tokens.compression_mask.view(4, 16)
    assert mask[0].all()
    assert mask[1].nonzero().flatten().tolist() == [6]
    assert mask[2].nonzero().flatten().tolist() == [6]
    assert mask[3].nonzero().flatten().tolist() == [0]  # nothing new: the first token stands for the frame
    assert tokens.num_kept == 19
    assert tokens.kept_per_frame == [16, 1, 1, 1]


def test_threshold_is_a_mean_over_the_token():
    frames = torch.full((3, 3, 112, 112), 100, dtype=torch.uint8)
    frames[1, 0, 0, 28] += 1  # one of a token's 2,352 values, one grey level: 2 / 2352 of change, dropped
    frames[2] = frames[1]
    frames[2, :, :28, 56:84] += 1  # all of them: 2, kept
    mask = visual_tokens(clip_of(frames), VisionSettings()).compression_mask.view(3, 16)
    assert mask[1:].nonzero().tolist() == [[0, 0], [1, 2]]


def test_threshold_is_exact():
    """117 grey levels over a token's 2,352 values are 0.0995 of change, dropped; 118 are 0.1003, kept;
    up and down alike.
    """
    frames = torch.full((3, 3, 112, 112), 100, dtype=torch.uint8)
    frames[1, 0, 30, 28:46] = torch.tensor([107] * 9 + [94] * 9, dtype=torch.uint8)  # 9 x 7 + 9 x 6 = 117
    frames[2] = frames[1]
    frames[2, 1, 30, 28:46] = torch.tensor([107] * 10 + [94] * 8, dtype=torch.uint8)  # 118
    mask = visual_tokens(clip_of(frames), VisionSettings()).compression_mask.view(3, 16)
    assert mask[1:].nonzero().tolist() == [[0, 0], [1, 5]]


def test_the_mask_in_bytes_is_the_rule_on_normalised_pixels():
    """docs/reference.md, Compression, word for word in double precision, on changes around the threshold."""
    generator = torch.Generator().manual_seed(0)
    frames = random_clip(1, 280, 280).frames.repeat(20, 1, 1, 1)
    # Some 117 of a token's 2,352 values, over two frames.
    noise = torch.rand(frames.shape, generator=generator) < 0.025
    tokens = visual_tokens(clip_of(frames ^ noise.to(torch.uint8)), VisionSettings())
    pixels = normalise(tokens.pixel_values).double().view(20, 100, 4 * 588)
    kept = (pixels.diff(dim=0).abs().mean(dim=-1) * 255) > 0.1
    kept[:, 0] |= ~kept.any(dim=1)
    assert torch.equal(tokens.compression_mask.view(20, 100)[1:], kept)
    assert 0.2 < kept.float().mean() < 0.8


def test_one_frame_stays_whole():
    assert visual_tokens(random_clip(1, 112, 112), VisionSettings()).compression_mask.all()


def test_wrong_frames_are_an_error():
    for frames in (torch.zeros(1, 3, 28, 28), torch.zeros(1, 3, 28, 30, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="made.mp4: expected frames uint8"):
            visual_tokens(clip_of(frames), VisionSettings())
