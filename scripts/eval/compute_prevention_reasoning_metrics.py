"""Scores prevention_reasoning predictions, as `crashchat score prevention_reasoning` does;
--help says how.
"""

import sys

from crashchat.evaluation.score import main

sys.exit(main(["prevention_reasoning", *sys.argv[1:]]))
