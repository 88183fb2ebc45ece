r"""Learning from preferences: of two answers to a question, the better one becomes likelier than the worse.

    crashchat prefer configs/train/preferences.yaml base_model=ckpt/tiny_base data_dir=data/demo \
        adapter=outputs/demo/train/heterogeneous annotation_files={train: [pairs_train.json], val:
        [pairs_val.json]}

What pairs are, data/pairs.py says; how they are learnt from, preferences.py. Run by
scripts/train/Preferences.sh through torchrun.
"""

from crashchat.command import run_command
from crashchat.settings import PreferenceConfig
from crashchat.training.train import train


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return run_command("prefer", __doc__, kind=PreferenceConfig, work=train, argv=argv)
