"""Every strategy learns as it did: its first twenty losses, in float32 and in bfloat16, follow the recorded
ones.
"""

import json

import pytest

from tests.helpers.curves import CURVES, STEPS, curves, strategies
from tests.helpers.forks import Fork, ended, imported

# Machines round differently, and twenty steps amplify it; a warm-up or a scale that is another shows at once.
TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}  # of the first loss


MULTITASK = [name for name in strategies() if not name.startswith("independent")]
MONOTASK = [name for name in strategies() if name not in MULTITASK]


@pytest.mark.parametrize(
    ("dtype", "names"),
    [
        ("float32", MULTITASK),
        ("bfloat16", ["heterogeneous"]),
        # What differs from the above is which questions are read: test_configs holds it, of several tasks the
        # curves in float32 too.
        pytest.param("float32", MONOTASK, marks=pytest.mark.slow),
        pytest.param("bfloat16", strategies()[1:], marks=pytest.mark.slow),
    ],
    ids=["float32", "bfloat16", "float32-monotask", "bfloat16-others"],
)
def test_losses_follow_the_recorded_curves(dtype, names, tiny_data, tmp_path):
    recorded = json.loads(CURVES.read_text())
    assert list(recorded[dtype]) == strategies() and len(strategies()) == 9

    def learn() -> None:
        found = curves(dtype, tiny_data, tmp_path, names)
        (tmp_path / "curves.json").write_text(json.dumps(found))

    imported("train")
    done = ended(lambda out, errors: Fork(learn, out, errors))
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((tmp_path / "curves.json").read_text())
    assert list(found) == names
    for name, losses in found.items():
        assert len(losses) == STEPS
        expected = recorded[dtype][name]
        assert losses == pytest.approx(expected, abs=TOLERANCE[dtype] * expected[0]), (name, dtype)
        assert losses[-1] < 0.9 * losses[0], name  # it learns
        # Each in its own folder, though one process learnt them all.
        assert list((tmp_path / name / "tensorboard").glob("events*")), name


def test_the_types_differ_by_less_than_learning_does():
    recorded = json.loads(CURVES.read_text())
    for name in strategies():
        pairs = zip(recorded["float32"][name], recorded["bfloat16"][name], strict=True)
        assert max(abs(a - b) for a, b in pairs) < 0.1 * recorded["float32"][name][0], name
