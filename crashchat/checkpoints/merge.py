r"""Fold an adapter (LoRA and projector) into its base: one self-contained model folder.

    crashchat merge --base ckpt/videollama3_baseline \
        --adapter outputs/train/heterogeneous --out ckpt/crashchat

The folder holds safetensors, config, tokenizer and processor settings, and loads as transformers'
VideoLlama3ForConditionalGeneration; with --to local it is what the reference's own code loads. Its card says
what base and adapter learnt on. Base and adapter may be in any released form.
"""

from pathlib import Path

import torch

from crashchat.checkpoints.adapters import load_adapter
from crashchat.checkpoints.conversion import convert
from crashchat.checkpoints.folders import load_model, load_tokenizer, load_video_settings, save_checkpoint
from crashchat.checkpoints.layouts import LAYOUTS, VisionFields, read_vision_config, stored_dtype
from crashchat.checkpoints.model_card import join_cards
from crashchat.checkpoints.weights import DTYPES
from crashchat.command import make_parser
from crashchat.errors import exit_code, writing
from crashchat.files import check_new, scratch_folder
from crashchat.tasks import keep_task_set, read_task_set


def merge(
    base: Path,
    adapter: Path,
    out: Path,
    dtype: torch.dtype,
    to: str = "native",
    vision: VisionFields | None = None,
) -> None:
    """Write `base` with `adapter` folded in to `out`, in the layout `to`. Raises CheckpointError where they
    do not fit, and FolderError where `out` cannot be new.

    vision: the vision encoder's settings, for a base without them that is not the released size.
    """
    check_new(out)
    tokenizer, settings = load_tokenizer(base), load_video_settings(base)
    card = join_cards(base, adapter, out.name)
    # In float32, whatever the result's type: the sum of base and LoRA is rounded once.
    model = load_model(base, tokenizer, torch.device("cpu"), torch.float32, vision=vision)
    merged = load_adapter(model, adapter).merge_and_unload(progressbar=True, safe_merge=True)
    if to == "native":
        save_checkpoint(merged.to(dtype), tokenizer, settings, folder=out, card=card)
        return
    with scratch_folder(out.with_name(f"{out.name}-native")) as scratch:
        native = scratch / "native"
        save_checkpoint(merged.to(dtype), tokenizer, settings, folder=native, card=card)
        convert(native, out, to)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = make_parser("merge", __doc__)
    parser.add_argument("--base", type=Path, required=True, help="folder of the base checkpoint")
    parser.add_argument(
        "--adapter", type=Path, required=True, help="folder of the adapter, a training run's output folder"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the merged model to")
    parser.add_argument("--dtype", choices=DTYPES, help="type of the weights (default: the base's)")
    parser.add_argument(
        "--to", choices=LAYOUTS, default="native", help="layout of the merged model (default native)"
    )
    parser.add_argument(
        "--vision-config", type=Path, help="JSON of the vision encoder, where the base's config has none"
    )
    arguments = parser.parse_args(argv)

    def merged() -> None:
        dtype = DTYPES[arguments.dtype] if arguments.dtype else stored_dtype(arguments.base)
        vision = read_vision_config(arguments.vision_config)
        with writing(arguments.out):
            merge(
                arguments.base,
                arguments.adapter,
                out=arguments.out,
                dtype=dtype,
                to=arguments.to,
                vision=vision,
            )
            keep_task_set(arguments.out, read_task_set(None, arguments.adapter, arguments.base))
        print(f"{arguments.out}: merged, {arguments.to} layout")

    return exit_code(merged)
