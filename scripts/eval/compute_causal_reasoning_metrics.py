"""Scores causal_reasoning predictions; --help says how."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from crashchat.metrics.score import main

sys.exit(main("causal_reasoning"))
