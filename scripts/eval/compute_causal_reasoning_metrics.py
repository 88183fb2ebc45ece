"""Scores causal_reasoning predictions, as `crashchat score causal_reasoning` does; --help says how."""

import sys

from crashchat.evaluation.score import main

sys.exit(main(["causal_reasoning", *sys.argv[1:]]))
