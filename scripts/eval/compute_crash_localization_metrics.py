"""Scores crash_localization predictions, as `crashchat score crash_localization` does; --help says how."""

import sys

from crashchat.evaluation.score import main

sys.exit(main(["crash_localization", *sys.argv[1:]]))
