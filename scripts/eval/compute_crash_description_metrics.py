"""Scores crash_description predictions, as `crashchat score crash_description` does; --help says how."""

import sys

from crashchat.__main__ import main

sys.exit(main(["score", "crash_description", *sys.argv[1:]]))
