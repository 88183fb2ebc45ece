"""A clip as a strip of pictures."""

import io

import torch
from PIL import Image

STRIP_FRAMES = 8
STRIP_HEIGHT = 112  # pixels
GAP = 4  # pixels between two frames of a strip


def film_strip(frames: torch.Tensor) -> bytes:
    """STRIP_FRAMES frames of a clip side by side, as a JPEG. frames: uint8[T, 3, H, W], RGB,
    evenly spaced in time.

    Picture k shows the middle of the clip's k-th part, so that a time axis of the strip's width fits below
    it.
    """
    last = len(frames) - 1
    picked = [round((number + 0.5) / STRIP_FRAMES * last) for number in range(STRIP_FRAMES)]
    images = [Image.fromarray(frames[index].permute(1, 2, 0).contiguous().numpy()) for index in picked]
    width = round(images[0].width * STRIP_HEIGHT / images[0].height)
    strip = Image.new("RGB", (STRIP_FRAMES * (width + GAP) - GAP, STRIP_HEIGHT))
    for number, image in enumerate(images):
        strip.paste(
            image.resize((width, STRIP_HEIGHT), Image.Resampling.BICUBIC), (number * (width + GAP), 0)
        )
    file = io.BytesIO()
    strip.save(file, "JPEG", quality=85)
    return file.getvalue()
