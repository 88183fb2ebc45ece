"""Scores pre_crash_localization predictions, as `crashchat score pre_crash_localization` does;
--help says how.
"""

import sys

from crashchat.evaluation.score import main

sys.exit(main(["pre_crash_localization", *sys.argv[1:]]))
