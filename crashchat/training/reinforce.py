r"""Reinforcement: answers are drawn to questions on times, rewarded by how right they are, and learnt from.

    crashchat reinforce configs/train/reinforce_localization.yaml with=configs/train/tiny_reinforce.yaml \
        data_dir=data/demo adapter=outputs/demo/train/heterogeneous output_dir=outputs/train/reinforced

Run by scripts/train/Reinforce_localization.sh through torchrun. Settings, checkpoints and the adapter that it
leaves are those of `crashchat train`; what is drawn
and how it is learnt from, rollouts.py and policy.py say.
"""

from crashchat.command import run_command
from crashchat.second_stages import ReinforceConfig
from crashchat.training.train import train


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return run_command("reinforce", __doc__, kind=ReinforceConfig, work=train, argv=argv)
