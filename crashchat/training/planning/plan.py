"""What a training run takes, before anything is loaded: memory with its parts, operations, time, money,
and which cards it fits.

    crashchat plan configs/train/heterogeneous.yaml --gpu h100-80 --gpus 8
    crashchat plan configs/train/heterogeneous.yaml --gpu l40s-48 --gpus 3 --nodes 2 lora_rank=32
    crashchat plan configs/train/reinforce_localization.yaml --gpus 8 adapter=outputs/train/heterogeneous
    crashchat plan configs/train/preferences.yaml adapter=outputs/train/heterogeneous

The last one asks for the pairs' files.

Memory is that of a forward and a backward pass on tensors without data; time is operations at an assumed
rate. Lengths are those of data_dir where there are annotations (and videos), else the released set's.
"""

import argparse
import sys

import torch
from tqdm import tqdm

from crashchat.command import make_parser
from crashchat.config import describe, given_values, load_config
from crashchat.errors import exit_code
from crashchat.files import write_json_atomic
from crashchat.processes import process_count, rank
from crashchat.second_stages import PreferenceConfig, ReinforceConfig
from crashchat.settings import TrainConfig
from crashchat.training.planning.gpus import GPUS, REACHED, gpu_named
from crashchat.training.planning.making import make_plan, shortfall
from crashchat.training.planning.text import plan_text

SLOW = 5.0  # seconds after which progress is shown
STAGES = 6  # that make_plan tells of
KINDS = {"train": TrainConfig, "reinforce": ReinforceConfig, "prefer": PreferenceConfig}  # by command


def positive(text: str) -> float:
    """A number above 0, of a command line."""
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number above 0")
    return value


def count(text: str) -> int:
    """A whole number from 1, of a command line."""
    value = int(text)
    if not 1 <= value <= 100_000:
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number from 1")
    return value


def warn_of_memory(config: TrainConfig) -> None:
    """One line on stderr where the run would not fit the GPU at hand, from the first process."""
    if torch.cuda.is_available() and rank() == 0:
        line = shortfall(config, torch.cuda.mem_get_info()[0], process_count())
        if line:
            print(f"warning: {line}", file=sys.stderr)


def _kind_of(path: str, overrides: list[str]) -> type[TrainConfig]:
    """Which command a config is for, by the settings that it names."""
    named = given_values(path, overrides).keys()
    unknown = {kind: len(named - kind.model_fields.keys()) for kind in KINDS.values()}
    return min(unknown, key=unknown.__getitem__)  # the first of those that know as much


def run(arguments: argparse.Namespace) -> None:
    """Print the plan that the command line asks for."""
    gpu = gpu_named(arguments.gpu)
    told = KINDS.get(arguments.command)
    kind = told or _kind_of(arguments.config, arguments.overrides)
    config = load_config(kind, arguments.config, arguments.overrides)
    with tqdm(total=STAGES, desc="planning", delay=SLOW, leave=False) as progress:

        def advance(what: str) -> None:
            progress.set_description(what, refresh=False)
            progress.update()

        plan = make_plan(
            config,
            gpu,
            gpus=arguments.gpus,
            nodes=arguments.nodes,
            rate=1e12 * (arguments.tflops or REACHED * gpu.tflops),
            price=arguments.price or gpu.price,
            advance=advance,
        )
    print(plan_text(plan))
    if arguments.json:
        write_json_atomic(arguments.json, plan.as_dict())


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = make_parser("plan", __doc__, f"settings (key=value):\n{describe(TrainConfig)}")
    parser.add_argument("config", help="a YAML file in configs/")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that differ from the file's"
    )
    parser.add_argument(
        "--command", choices=KINDS, help="that the config is for (default: the one that knows its settings)"
    )
    parser.add_argument("--gpu", default="h100-80", help=f"one of {', '.join(GPUS)} (default: h100-80)")
    parser.add_argument("--gpus", type=count, default=1, help="cards of a node (default: 1)")
    parser.add_argument("--nodes", type=count, default=1, help="machines (default: 1)")
    rate = f"TFLOP/s that a card is taken to do (default: {REACHED:.0%} of its bfloat16 peak)"
    parser.add_argument("--tflops", type=positive, help=rate.replace("%", "%%"))
    parser.add_argument("--price", type=positive, help="$ a card and hour (default: assumed)")
    parser.add_argument("--json", metavar="FILE", help="write the plan as JSON too")
    arguments = parser.parse_intermixed_args(argv)
    return exit_code(lambda: run(arguments))
