"""A part of a video by its name: read as a clip of its own, causal, and cached apart."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from crashchat.checkpoints.folders import load_model, load_video_settings
from crashchat.parts import part_name
from crashchat.synthetic.make import scene_of, write_clip
from crashchat.video.decode import read_clip
from crashchat.video.measures import measure_clips
from crashchat.video.reading import open_feature_cache
from crashchat.video.source import VideoError, probe
from tests.helpers.models import CPU


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("parts") / "clip.mp4"
    write_clip(scene_of("train", 0, 0), path)
    return path


def part(path, start, end):
    return part_name(str(path), start, end)


def test_a_named_part_is_the_span_read_by_itself(clip):
    named, span = read_clip(part(clip, 0.5, 2.0), 4, 40), read_clip(clip, 4, 40, span=(0.5, 2.0))
    assert named.seconds == span.seconds == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]
    assert torch.equal(named.frames, span.frames) and named.path == str(clip)
    assert probe(part(clip, 0.5, 2.0)) == probe(clip)


def test_nothing_behind_its_end_is_looked_at(clip, tmp_path):
    """Another film from 2 s on: the part that ends there is the same to the last bit."""
    other = tmp_path / "other.mp4"
    scene, frames = scene_of("train", 0, 0), []
    with av.open(str(clip)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == len(scene.times)
    changed = [frame if at < 20 else 255 - frame for at, frame in enumerate(frames)]
    for path, pictures in ((other, changed), (tmp_path / "same.mp4", frames)):
        with av.open(str(path), "w", format="mp4") as container:
            # Lossless, and no frame looks ahead, so that files alike up to 2 s hold the same pictures there.
            stream = container.add_stream("libx264rgb", rate=10)
            stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "rgb24"
            stream.options = {"qp": "0", "bf": "0", "rc-lookahead": "0", "preset": "ultrafast"}
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    ones, others = (read_clip(part(path, 0.5, 2.0), 4, 40).frames for path in (tmp_path / "same.mp4", other))
    assert torch.equal(ones, others)
    beyond = [read_clip(part(path, 0.5, 2.5), 4, 40).frames for path in (tmp_path / "same.mp4", other)]
    assert not torch.equal(*beyond)


def test_parts_that_a_file_does_not_have_are_its_fault(clip):
    with pytest.raises(VideoError, match="there is nothing between"):
        read_clip(part(clip, 90, 95), 4, 40)
    with pytest.raises(VideoError, match="no such file"):
        read_clip("nowhere.mp4#t=1,2", 4, 40)


def test_measures_are_the_part_s_and_features_are_kept_apart(clip, tmp_path, tiny_base, tiny_tokenizer):
    assert measure_clips([Path(part(clip, 0.5, 2.0))]).seconds.middle == pytest.approx(1.5)
    assert np.isclose(measure_clips([clip]).seconds.middle, probe(clip).timeline.end)
    encoder = load_model(tiny_base, tiny_tokenizer, CPU).model.vision_model
    cache = open_feature_cache(tmp_path / "cache", 1, encoder, load_video_settings(tiny_base))
    keys = {cache.key(name) for name in (clip, part(clip, 0.5, 2.0), part(clip, 0.5, 2.5))}
    assert len(keys) == 3
