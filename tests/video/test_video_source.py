"""Which frames are taken: the sampling rule, on lists of times."""

import numpy as np
import pytest

from crashchat.video.timeline import sample_indices


def test_last_frame_before_the_next_slot():
    # 25 fps at 10 fps: slot 0 shows the frame at 0.08 s, slot 1 the one at 0.16 s, as 0.2 s belongs to slot
    # 2.
    pts = [n / 25 for n in range(25)]
    indices, seconds = sample_indices(pts, 1.0, 10, 96)
    assert indices == [2, 4, 7, 9, 12, 14, 17, 19, 22, 24]
    assert seconds == [k / 10 for k in range(10)]


def test_slow_source_repeats_frames():
    assert sample_indices([0.0, 0.5], 1.0, 6, 96)[0] == [0, 0, 0, 1, 1, 1]


def test_count_is_rounded_down_but_never_to_nothing():
    assert len(sample_indices([n / 25 for n in range(221)], 8.84, 10, 96)[0]) == 88
    assert sample_indices([0.0], 0.04, 10, 96) == ([0], [0.0])


@pytest.mark.parametrize("fps", [3, 7, 10, 29.97, 30])
def test_a_time_on_a_boundary_starts_the_next_slot(fps):
    pts = [k / fps for k in range(300)]
    assert sample_indices(pts, 300 / fps, fps, 1000)[0] == list(range(300))


def test_too_many_are_thinned_evenly():
    indices, seconds = sample_indices([n / 10 for n in range(200)], 20.0, 10, 96)
    assert indices == np.linspace(0, 199, 96, dtype=int).tolist()
    assert seconds == [n / 10 for n in indices]


def test_a_step_back_in_time_shows_the_later_frame():
    assert sample_indices([0.0, 0.1, 0.25, 0.19, 0.3], 0.4, 10, 96)[0] == [0, 1, 3, 4]


@pytest.mark.parametrize(
    "pts, fps, limit", [([], 10, 96), ([0.0], 0, 96), ([0.0], float("nan"), 96), ([0.0], 10, 0)]
)
def test_senseless_sampling_is_an_error(pts, fps, limit):
    with pytest.raises(ValueError):
        sample_indices(pts, 1.0, fps, limit)
