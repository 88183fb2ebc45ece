"""Scores crash_description predictions, as `crashchat score crash_description` does; --help says how."""

import sys

from crashchat.evaluation.score import main

sys.exit(main(["crash_description", *sys.argv[1:]]))
