"""Scores causal_reasoning predictions, as `crashchat score causal_reasoning` does; --help says how."""

import sys

from crashchat.__main__ import main

sys.exit(main(["score", "causal_reasoning", *sys.argv[1:]]))
