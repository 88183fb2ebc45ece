"""Scores prevention_reasoning predictions, as `crashchat score prevention_reasoning` does;
--help says how.
"""

import sys

from crashchat.__main__ import main

sys.exit(main(["score", "prevention_reasoning", *sys.argv[1:]]))
