"""The command line that training and evaluation share: a YAML file, key=value overrides, one line for what a user can mend."""

import argparse
from collections.abc import Callable

import torch.distributed as dist

from crashchat.config import Config, describe, load_config
from crashchat.errors import exit_code, writing


def run_command(
    module: str, description: str, kind: type[Config], work: Callable[[Config], object], argv: list[str] | None = None
) -> int:
    """Parse the command line, do the work, and return the exit code. Runs in every process that torchrun starts.

    module: what comes behind `python -m`. kind: of the settings that the work takes.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=f"settings (key=value):\n{describe(kind)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="a YAML file in configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that differ from the file's")
    arguments = parser.parse_args(argv)

    def configured() -> None:
        config = load_config(kind, arguments.config, arguments.overrides)
        with writing(config.output_dir):
            work(config)

    try:
        return exit_code(configured)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
