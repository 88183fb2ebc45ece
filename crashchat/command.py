"""What command lines share: how they describe themselves, and those of training and evaluation:
a config and key=value words.

    python -m crashchat.command train configs/train/heterogeneous.yaml 8 epochs=3

checks the settings of a run on 8 processes and does nothing else: scripts/launch.sh asks before it starts
them.
"""

import argparse
import sys
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from crashchat.config import check_share, describe, load_config
from crashchat.errors import exit_code, writing
from crashchat.evaluation_settings import EvalConfig
from crashchat.second_stages import PreferenceConfig, ReinforceConfig
from crashchat.settings import TrainConfig
from crashchat.tasks import TASKS, read_task_set, using

KINDS: dict[str, type[TrainConfig] | type[EvalConfig]] = {
    "train": TrainConfig,
    "reinforce": ReinforceConfig,
    "prefer": PreferenceConfig,
    "evaluate": EvalConfig,
}
Config = TypeVar("Config", bound=TrainConfig | EvalConfig)


class _Once(argparse.Action):
    """Takes an option's value; where it is given twice, the last would win unseen, and that is an error."""

    given = False

    def __call__(self, parser, namespace, values, option_string=None):
        if option_string and self.given:
            parser.error(f"{option_string} is given twice")
        self.given = True
        setattr(namespace, self.dest, values)


def make_parser(command: str, description: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser for `crashchat COMMAND`, whose help keeps the lines as they are written, and that takes an
    option once.
    """
    parser = argparse.ArgumentParser(
        prog=f"crashchat {command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.register("action", None, _Once)  # of options that name no action
    return parser


def add_task_set(parser: argparse._ActionsContainer) -> None:
    """The option that `with_task_set` reads."""
    parser.add_argument(
        "--task-set",
        metavar="FILE",
        help="the tasks that were asked, a file as in configs/tasks (default: that of the "
        "model's folder, else the six of CrashChat)",
    )


def with_task_set(main: Callable[[list[str]], int]) -> Callable[[list[str] | None], int]:
    """A command that works on the task set of its option --task-set, and leaves the one before in use."""

    @wraps(main)
    def within(argv: list[str] | None = None) -> int:
        words = sys.argv[1:] if argv is None else argv
        early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        early.add_argument("--task-set")

        def run() -> int:
            # Before the command's own parser is made: which options there are depends on the tasks.
            with using(read_task_set(early.parse_known_args(words)[0].task_set)):
                return main(words)

        return exit_code(run)

    return within


def run_command(
    command: str,
    description: str | None,
    kind: type[Config],
    work: Callable[[Config], object],
    argv: list[str] | None = None,
) -> int:
    """Parse the command line, do the work, and return the exit code. Runs in every process
    that torchrun starts.

    kind: of the settings that the work takes.
    """
    parser = make_parser(command, description, f"settings (key=value):\n{describe(kind)}")
    parser.add_argument("config", help="a YAML file in configs/")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings that differ from the file's; with=FILE: a file of such settings, e.g. "
        "with=configs/train/tiny_model.yaml",
    )
    arguments = parser.parse_args(argv)

    def configured() -> None:
        with using(TASKS.task_set):  # and after it the one before: load_config may take another
            config = load_config(kind, arguments.config, arguments.overrides)
            with writing(config.output_dir):
                work(config)

    try:
        return exit_code(configured)
    finally:
        # Not imported here: the check of settings needs no torch.
        distributed = sys.modules.get("torch.distributed")
        if distributed and distributed.is_initialized():
            distributed.destroy_process_group()


def check_settings(command: str, config: str, processes: int, overrides: list[str]) -> None:
    """Raises ConfigError for settings with which a run on so many processes could not start."""
    settings = load_config(KINDS[command], config, overrides)
    if isinstance(settings, TrainConfig):
        check_share(settings, processes)


if __name__ == "__main__":
    command, config, processes, *overrides = sys.argv[1:]
    sys.exit(exit_code(lambda: check_settings(command, config, int(processes), overrides)))
