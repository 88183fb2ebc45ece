"""What the benchmarks share: model sizes with random weights, a real clip, clocks,
the table and the JSON they write.

Every benchmark measures two ways of doing the same work, turn by turn in one run: `plain`, question by
question, and `shared`, one video with all its questions. What they print is a ratio of medians; nothing here
is a test.
"""

import argparse
import json
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import torch
import transformers
from transformers import PreTrainedTokenizerBase, VideoLlama3Config

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crashchat.checkpoints.folders import load_tokenizer
from crashchat.checkpoints.layouts import SO400M
from crashchat.files import write_json_atomic
from crashchat.model.attention import BRANCH_ATTENTION
from crashchat.model.lora import add_adapter
from crashchat.model.videollama3 import CrashChatModel
from crashchat.processes import choose_device, choose_dtype
from crashchat.video.tokens import VideoSettings, VisionSettings

ROOT = Path(__file__).resolve().parents[1]
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}  # dense bfloat16 a second, from the makers' data sheets


@dataclass(frozen=True)
class Size:
    """A model's shape and a clip's: text and vision as in their configs; the clip is `seconds` long,
    height x width.
    """

    text: dict
    vision: dict
    video: VideoSettings
    clip: tuple[int, int, int]  # seconds, height, width
    what: str


def _text(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, vocab: int) -> dict:
    return {
        "model_type": "qwen2",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocab,
    }


_SMALL_VISION = SO400M | {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
_FULL = VideoSettings(fps=10, max_frames=96)
_CPU_TEXT = _text(256, 6, heads=8, kv_heads=2, intermediate=768, vocab=1169)
SIZES = {
    "tiny": Size(
        _text(96, 3, heads=4, kv_heads=2, intermediate=256, vocab=1169),
        SO400M
        | {"hidden_size": 48, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
        video=VideoSettings(
            fps=4, max_frames=40, vision=VisionSettings(min_tokens=8, max_tokens_per_frame=8)
        ),
        clip=(8, 112, 224),
        what="the shape of ckpt/tiny_base",
    ),
    "cpu": Size(
        _CPU_TEXT,
        _SMALL_VISION,
        video=VideoSettings(fps=4, max_frames=32, vision=VisionSettings(max_tokens_per_frame=28)),
        clip=(8, 360, 640),
        what="a model that a CPU trains, about 900 tokens of prefix",
    ),
    "long": Size(
        _CPU_TEXT,
        _SMALL_VISION,
        video=VideoSettings(fps=10, max_frames=96, vision=VisionSettings(max_tokens_per_frame=94)),
        clip=(10, 360, 640),
        what="the cpu model at the recipe's length, 96 frames and about 9,000 tokens of prefix",
    ),
    "2b": Size(
        _text(1536, 28, heads=12, kv_heads=2, intermediate=8960, vocab=151936),
        SO400M,
        video=_FULL,
        clip=(10, 720, 1280),
        what="VideoLLaMA3-2B",
    ),
    "7b": Size(
        _text(3584, 28, heads=28, kv_heads=4, intermediate=18944, vocab=152064),
        SO400M,
        video=_FULL,
        clip=(10, 720, 1280),
        what="VideoLLaMA3-7B",
    ),
}


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(
        description=description,
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--size",
        choices=SIZES,
        default="cpu",
        help="; ".join(f"{name}: {size.what}" for name, size in SIZES.items()),
    )
    made.add_argument(
        "--repeats", type=int, default=5, help="turns of each way, after one that warms up (default 5)"
    )
    made.add_argument(
        "--out", type=Path, help="JSON file to write (default benchmarks/results/NAME_SIZE_DEVICE.json)"
    )
    made.add_argument("--only", choices=("plain", "shared"), help="one way alone, e.g. for its peak memory")
    return made


def make_tokenizer() -> PreTrainedTokenizerBase:
    """ckpt/tiny_base's tokenizer: its ids are valid in every size's vocabulary."""
    return load_tokenizer(ROOT / "ckpt" / "tiny_base")


def make_model(
    size: Size, tokenizer: PreTrainedTokenizerBase, adapter: bool, attention: str = BRANCH_ATTENTION
) -> torch.nn.Module:
    """A model of this size with random weights on the best device; adapter: with LoRA and projector,
    as the recipe has them.
    """
    device = choose_device()
    config = VideoLlama3Config(text_config=dict(size.text), vision_config=dict(size.vision))
    config.video_token_id = config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    config.text_config.bos_token_id = config.text_config.eos_token_id = None
    config._attn_implementation = {"text_config": attention, "vision_config": "sdpa"}
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(choose_dtype(device))
    try:
        with device:
            model = CrashChatModel(config).eval()
    finally:
        torch.set_default_dtype(default)
    if adapter:
        model.requires_grad_(False)
        model = add_adapter(model, rank=64, alpha=16, dropout=0.0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
    return model


def make_clip(size: Size, folder: Path) -> Path:
    """An H.264 file, 30 frames a second, in which everything moves, so that compression drops nothing."""
    seconds, height, width = size.clip
    path = folder / f"{seconds}s_{width}x{height}.mp4"
    source = f"testsrc2=size={width}x{height}:rate=30:duration={seconds},noise=alls=12:allf=t"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "lavfi", "-i", source]
    subprocess.run(
        [*command, "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", str(path)], check=True
    )
    return path


def wait() -> None:
    """Until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def turns(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way, turn by turn so that a slower moment of the machine meets all of them;
    one turn warms up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            wait()
            start = time.perf_counter()
            way()
            wait()
            if turn:
                seconds[name].append(time.perf_counter() - start)
            print(
                f"\rturn {turn} of {repeats}: {name} {time.perf_counter() - start:.2f} s   ",
                end="",
                file=sys.stderr,
            )
    print(file=sys.stderr)
    return seconds


def peak_memory(script: str, words: list[str], way: str) -> float:
    """GiB at most while one way runs once, in a process of its own: on the GPU,
    or resident where there is none.
    """
    torch.cuda.empty_cache()  # the other process needs the room
    command = [sys.executable, script, *words, "--only", way, "--repeats", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.strip().splitlines()[-1])


def own_peak() -> float:
    """GiB at most in this process so far: allocated on the GPU, or resident where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the parent process held when it forked
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(
    ways: dict[str, Callable[[], object]], arguments: argparse.Namespace, script: str, words: list[str]
) -> dict[str, dict] | None:
    """{way: {seconds (median), fastest, slowest, peak GiB}};
    the peak is that of `script` with `words`, a process a way.

    None where --only asked for one way: it was run, and its own peak memory printed for the process that
    asked.
    """
    if arguments.only:
        turns({arguments.only: ways[arguments.only]}, arguments.repeats)
        print(json.dumps(own_peak()))
        return None
    return {
        way: {
            "seconds": median(taken),
            "fastest": min(taken),
            "slowest": max(taken),
            "peak GiB": peak_memory(script, words, way),
        }
        for way, taken in turns(ways, arguments.repeats).items()
    }


def machine() -> dict:
    """What the figures were taken on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "device": gpu
        or f"CPU, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def report(name: str, size: str, figures: dict[str, dict], extra: dict, out: Path | None) -> None:
    """Print {way: {figure: value}} as a table and write everything as JSON."""
    host = machine()
    print(f"\n{name}, size {size}: {SIZES[size.split('_')[0]].what}\n{host['device']}, torch {host['torch']}")
    columns = list(dict.fromkeys(key for values in figures.values() for key in values))
    print(f"{'':8}" + "".join(f"{column:>18}" for column in columns))
    for way, values in figures.items():
        cells = (values.get(column) for column in columns)
        print(f"{way:8}" + "".join(f"{'—' if cell is None else f'{cell:.4g}':>18}" for cell in cells))
    for key, value in extra.items():
        print(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    out = out or Path(__file__).parent / "results" / f"{name}_{size}_{kind}.json"
    write_json_atomic(out, {"benchmark": name, "size": size, "machine": host, "ways": figures, **extra})
    print(f"written: {out}")


def median(seconds: list[float]) -> float:
    return statistics.median(seconds)
