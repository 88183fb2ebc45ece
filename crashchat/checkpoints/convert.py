"""Convert a checkpoint between the three layouts: native (transformers), hub (remote code)
and local (the reference's own).

    crashchat convert ckpt/videollama3_baseline ckpt/native                 to transformers' layout
    crashchat convert ckpt/crashchat ckpt/for_the_reference --to local
    crashchat convert ckpt/crashchat ckpt/crashchat_vllm --to vllm          for engine=vllm (docs/fleet.md)
    crashchat convert ckpt/native ckpt/two_vllm --to vllm --adapters outputs/linguistic outputs/perception

The source's layout is detected. Weights are streamed: at most one shard of the result is in memory. An
adapter folder is converted between the released form (--to local) and this project's (--to native).
"""

from pathlib import Path

from crashchat.checkpoints.adapters import CONFIG_FILE, write_adapter, write_released_adapter
from crashchat.checkpoints.conversion import convert
from crashchat.checkpoints.engine_export import export_for_engine
from crashchat.checkpoints.layouts import LAYOUTS, CheckpointError, read_vision_config
from crashchat.checkpoints.weights import DTYPES
from crashchat.command import make_parser
from crashchat.errors import exit_code
from crashchat.tasks import keep_task_set, read_task_set

VLLM = "vllm"


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = make_parser("convert", __doc__)
    parser.add_argument(
        "source", type=Path, help="folder of a checkpoint in any layout, or of an adapter in either form"
    )
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument(
        "--to", choices=(*LAYOUTS, VLLM), default="native", help="layout to write (default native)"
    )
    parser.add_argument(
        "--vision-config", type=Path, help="JSON of the vision encoder, where the source's config has none"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="type of the weights (default: as they are)")
    parser.add_argument(
        "--adapters",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        help=f"with --to {VLLM}: adapters of this model, to be served beside it",
    )
    arguments = parser.parse_args(argv)

    def converted() -> None:
        if arguments.adapters and arguments.to != VLLM:
            raise CheckpointError(f"--adapters belongs to --to {VLLM}; convert an adapter by itself")
        if (arguments.source / CONFIG_FILE).is_file():
            if arguments.to in ("hub", VLLM):
                raise CheckpointError(
                    "an adapter has two forms: --to native (this project's) or --to local (the released "
                    f"one); for an engine it goes with its base: crashchat convert BASE OUT --to {VLLM} "
                    f"--adapters {arguments.source}"
                )
            write = write_adapter if arguments.to == "native" else write_released_adapter
            write(arguments.source, arguments.out)
            keep_task_set(arguments.out, read_task_set(None, arguments.source))
            print(f"{arguments.out}: adapter written")
            return
        vision = read_vision_config(arguments.vision_config)
        dtype = DTYPES[arguments.dtype] if arguments.dtype else None
        if arguments.to == VLLM:
            layout = export_for_engine(
                arguments.source, arguments.out, vision=vision, dtype=dtype, adapters=arguments.adapters
            )
            print(f"{arguments.out}: for engine=vllm, converted from {layout}")
            return
        layout = convert(arguments.source, arguments.out, to=arguments.to, vision=vision, dtype=dtype)
        keep_task_set(arguments.out, read_task_set(None, arguments.source))
        print(f"{arguments.out}: {arguments.to} layout, converted from {layout}")

    return exit_code(converted)
