"""A world small enough to be learnt in seconds: grey videos, in which a crash is a red flash.

Its two adapters on ckpt/tiny_base are really trained: the linguistic one says 'Yes' and describes a crash
exactly where there is red, the perception one says always the same times. So tests know what must come out,
on any machine, without the demo's models.
"""

import random
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch

from crashchat.checkpoints.folders import load_model, load_tokenizer, load_video_settings
from crashchat.model.lora import add_adapter
from crashchat.model.packing import pack
from crashchat.model.sequence import Branch, build_sequence
from crashchat.tasks import TASKS
from crashchat.video.decode import Clip
from crashchat.video.tokens import tokens_of_clip

HEIGHT, WIDTH = 56, 112
FPS, MAX_FRAMES = 1.0, 20  # a window of 20 s
INTERVAL, SIGN = "8.0 - 12.0 seconds", "6.0 seconds"  # what the perception adapter always says
RED = (230, 20, 20)


def frames(grey: int, count: int, flash: tuple[int, int] | None = None) -> np.ndarray:
    """uint8[count, H, W, 3]: grey, with red frames from flash[0] to before flash[1]."""
    pictures = np.full((count, HEIGHT, WIDTH, 3), grey, np.uint8)
    if flash:
        pictures[slice(*flash)] = RED
    return pictures


def write_video(path: Path, pictures: np.ndarray, fps: float = FPS) -> Path:
    """An H.264 file of these pictures, with a key frame every ten."""
    options = {"macro_block_size": 1, "pix_fmt_in": "rgb24", "output_params": ["-g", "10"]}
    writer = imageio_ffmpeg.write_frames(
        str(path), (WIDTH, HEIGHT), fps=fps, codec="libx264", ffmpeg_log_level="error", **options
    )
    writer.send(None)
    for picture in pictures:
        writer.send(np.ascontiguousarray(picture))
    writer.close()
    return path


def train_adapter(base: Path, out: Path, answers, steps: int, batch: int) -> Path:
    """Train a small adapter and save it. answers: whether there is a flash -> {task: answer}."""
    torch.manual_seed(0)
    draw = random.Random(0)
    tokenizer = load_tokenizer(base)
    settings = load_video_settings(base, fps=FPS, max_frames=MAX_FRAMES)
    model = add_adapter(
        load_model(base, tokenizer, torch.device("cpu")), rank=16, alpha=32, dropout=0.0
    ).train()
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=5e-3
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    for _ in range(steps):
        visuals, sequences = [], []
        for number in range(batch):
            count, start = draw.randrange(6, MAX_FRAMES + 1), draw.randrange(0, 5)
            flash = (start, start + draw.randrange(1, 5)) if number % 2 else None
            if flash and draw.random() < 0.5:
                flash = (count - flash[1], count - flash[0])
            pictures = torch.from_numpy(frames(draw.randrange(50, 150), count, flash)).permute(0, 3, 1, 2)
            visual = tokens_of_clip(Clip("", pictures, [float(second) for second in range(count)]), settings)
            branches = [
                Branch(TASKS[task].prompt, answer) for task, answer in answers(flash is not None).items()
            ]
            visuals.append(visual)
            sequences.append(build_sequence(tokenizer, visual.seconds, visual.kept_per_frame, branches))
        output = model(**pack(sequences, visuals).as_dict())
        (output.loss_sum / output.num_labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    model.save_pretrained(out)
    return out
