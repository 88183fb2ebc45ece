"""Scores crash_recognition predictions, as `crashchat score crash_recognition` does; --help says how."""

import sys

from crashchat.evaluation.score import main

sys.exit(main(["crash_recognition", *sys.argv[1:]]))
