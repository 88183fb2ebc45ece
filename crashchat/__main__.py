"""python -m crashchat analyze PATH …, python -m crashchat serve: see each command's --help."""

import argparse
import importlib
import sys


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="crashchat", description="Find and explain traffic crashes in video clips.")
    commands = parser.add_subparsers(dest="command", required=True)
    helps = {"analyze": "clips in, crash reports out", "serve": "a page and an HTTP endpoint for clips"}
    words = sys.argv[1:] if argv is None else argv
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, formatter_class=argparse.RawDescriptionHelpFormatter)
        if words[:1] == [name]:  # the other one's imports take seconds
            module = importlib.import_module(f"crashchat.{name}")
            command.description = module.__doc__
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    arguments = parser.parse_args(words)
    return arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
