"""The command line that training and evaluation share: a YAML file, key=value overrides, one line for what a user can mend."""

import argparse
import sys
from collections.abc import Callable

import torch.distributed as dist

from crashchat.annotations import AnnotationError
from crashchat.config import Config, ConfigError, describe, load_config
from crashchat.files import FolderError
from crashchat.layouts import CheckpointError
from crashchat.predictions import PredictionError
from crashchat.processes import rank
from crashchat.sequence import SequenceError
from crashchat.video import VideoError


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
    try:
        work(load_config(kind, arguments.config, arguments.overrides))
    except (AnnotationError, CheckpointError, ConfigError, FolderError) as error:
        # Every process finds these alike: the first one says so.
        if rank() == 0:
            print(f"error: {error}", file=sys.stderr)
        return 1
    except (PredictionError, SequenceError, VideoError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0
