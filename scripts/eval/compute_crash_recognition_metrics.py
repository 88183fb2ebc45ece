"""Scores crash_recognition predictions, as `crashchat score crash_recognition` does; --help says how."""

import sys

from crashchat.__main__ import main

sys.exit(main(["score", "crash_recognition", *sys.argv[1:]]))
