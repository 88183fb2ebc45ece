"""crashchat COMMAND …: every command and what it does. `crashchat COMMAND --help` says how."""

import difflib
import gc
import importlib
import logging
import os
import sys
import warnings
from types import ModuleType

import crashchat

# {command: (module below crashchat with its main(words), what it does)}. Only the module of the command given
# is imported.
COMMANDS = {
    "train": ("training.train", "fine-tune a model: a config, and settings that differ from it"),
    "plan": ("training.planning.plan", "what a training takes: memory, time, money, and which cards it fits"),
    "reinforce": (
        "training.reinforce",
        "learn from drawn answers and what they are worth: a config, and settings that differ from it",
    ),
    "prefer": (
        "training.prefer",
        "learn from pairs of a better and a worse answer: a config, and settings that differ from it",
    ),
    "evaluate": (
        "evaluation.evaluate",
        "ask a model about a split: a config, and settings that differ from it",
    ),
    "find-heads": (
        "evaluation.find_heads",
        "find the attention heads that look at the times that are asked for",
    ),
    "conform": ("evaluation.conform", "hold an engine's answers against ours, token by token"),
    "score": ("evaluation.score", "score a prediction file"),
    "compare": ("reporting.compare", "score several runs side by side, as tables and a page"),
    "recommend": ("reporting.recommend", "whether a model that learnt on may take the deployed one's place"),
    "analyze": ("analysis.analyze", "clips in, crash reports out"),
    "serve": ("serving.serve", "a page and an HTTP endpoint for clips"),
    "review": ("serving.review_page", "a page on which people confirm or correct an analysis"),
    "export-labels": ("review.export", "what people decided on an analysis, as annotation files and tables"),
    "synthesize": ("synthetic.make", "draw synthetic clips with exact annotations"),
    "convert": ("checkpoints.convert", "write a checkpoint or an adapter in another layout"),
    "merge": ("checkpoints.merge", "fold an adapter into its base"),
    "download": ("data.download", "fetch released checkpoints, annotations and videos"),
    "import": ("data.importing", "write a data folder from tables, chats or labels that others made"),
    "export": ("data.exporting", "write a data folder as a data set that the hub shows and loads"),
    "cut-warnings": ("evaluation.cut_warnings", "cut clips into windows that end before their crash"),
    "check-data": ("evaluation.check_data", "look for whatever would break or falsify a run"),
}


def usage() -> str:
    """The table of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {command:{width}}  {what}" for command, (_, what) in COMMANDS.items()]
    return "\n".join(["usage: crashchat COMMAND …", "", *lines, "", "crashchat COMMAND --help says how."])


def imported(name: str) -> ModuleType:
    """A command's module.

    What is imported stays until the end. Looking for garbage in it takes a sixth of a process's start, and
    half a second whenever all of it is looked at later on.
    """
    if name in sys.modules:
        return sys.modules[name]
    gc.disable()
    try:
        module = importlib.import_module(name)
        gc.freeze()
    finally:
        gc.enable()
    return module


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    if words[0] == "--version":
        print(f"crashchat {crashchat.__version__}")
        return 0
    if words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(COMMANDS)}"
        print(f"error: there is no command {words[0]!r}; {hint}", file=sys.stderr)
        return 2
    if not sys.warnoptions:  # what a library will rename some day is no user's business
        warnings.simplefilter("ignore", FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # nor which kernels it would rather have
    return imported(f"crashchat.{COMMANDS[words[0]][0]}").main(words[1:])


def run() -> None:
    """The program: end with the command's exit code."""
    if "WORLD_SIZE" in os.environ:  # one of several processes: they need another end
        from crashchat.processes import run_process

        run_process(main)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
