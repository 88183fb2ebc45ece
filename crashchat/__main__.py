"""python -m crashchat analyze PATH …, python -m crashchat serve: see each command's --help."""

import argparse
import sys


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    # Imported here, so that `serve` may set what Gradio reads when it is imported, and --help is quick.
    from crashchat import analyze

    parser = argparse.ArgumentParser(prog="crashchat", description="Find and explain traffic crashes in video clips.")
    commands = parser.add_subparsers(dest="command", required=True)
    formatter = argparse.RawDescriptionHelpFormatter
    one = commands.add_parser(
        "analyze", help="clips in, crash reports out", description=analyze.__doc__, formatter_class=formatter
    )
    analyze.add_arguments(one)
    one.set_defaults(run=analyze.run)
    arguments = parser.parse_args(argv)
    return arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
