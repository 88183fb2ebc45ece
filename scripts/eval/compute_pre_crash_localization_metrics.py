"""Scores pre_crash_localization predictions, as `crashchat score pre_crash_localization` does;
--help says how.
"""

import sys

from crashchat.__main__ import main

sys.exit(main(["score", "pre_crash_localization", *sys.argv[1:]]))
