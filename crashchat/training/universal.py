"""DeepSpeed's checkpoints on another number of processes than wrote them: what it calls their universal form,
with a file a weight in place of one a process.
"""

import contextlib
import os
from pathlib import Path
from types import SimpleNamespace

import torch.distributed as dist
from transformers import TrainingArguments

from crashchat.files import new_folder, write_text_atomic
from crashchat.processes import print_once

LATEST = "latest_universal"  # what DeepSpeed asks for the name of the folder


def fit_processes(checkpoint: Path, args: TrainingArguments) -> None:
    """Have DeepSpeed go on from a checkpoint with as many processes as there are now; called by all of them,
    before Trainer starts it. A plain checkpoint fits any number as it is.
    """
    written = len(list(checkpoint.glob("rng_state*.pth")))
    if args.deepspeed_plugin is None or written == args.world_size:
        return
    print_once(f"DeepSpeed wrote it on {written} process(es), and this run has {args.world_size}")
    if args.process_index == 0:
        make_universal(checkpoint)
    if args.world_size > 1:
        dist.barrier()
    args.deepspeed_plugin.deepspeed_config.setdefault("checkpoint", {})["load_universal"] = True


def make_universal(checkpoint: Path) -> None:
    """Write the universal form of a checkpoint into its folder, as far as it is not there.

    What the checkpoint's pickles hold is run; resuming.py looks who could have written them.
    """
    (written,) = [path for path in checkpoint.glob("global_step*") if not path.name.endswith("_universal")]
    folder = checkpoint / f"{written.name}_universal"
    if not folder.is_dir():  # it comes whole or not at all
        _convert(written, folder)
    write_text_atomic(checkpoint / LATEST, folder.name)


def _convert(written: Path, folder: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal

    with new_folder(folder) as made, open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        ds_to_universal.main(
            SimpleNamespace(
                input_folder=str(written),
                output_folder=str(made),
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,
            )
        )
