"""The synthetic set: real video files, answers that agree with the scenes, one look for crashes and calm."""

import json
from collections import Counter

import av
import numpy as np
import pytest

from crashchat.__main__ import main
from crashchat.data.annotations import annotation_paths, load_annotations
from crashchat.synthetic.drawing import draw_scene
from crashchat.synthetic.make import make_demo_set, make_pretraining_set, scene_of
from crashchat.synthetic.scenes import CALM_CYCLE, CRASH_CYCLE, FPS, SKIES, STORIES, Look
from crashchat.synthetic.stories import make_scene
from crashchat.synthetic.texts import CAUSES, general_questions, task_answers
from crashchat.tasks import TASKS
from crashchat.video.decode import read_clip


def scenes(count: int) -> list:
    return [scene_of("train", index, 0) for index in range(count)]


def test_what_else_is_known_of_a_scene_stays_with_its_questions(tiny_data):
    paths = annotation_paths(tiny_data, TASKS, "train")
    for video in load_annotations(paths, tiny_data, keep=["ego", "road_user", "sky", "seconds", "family"]):
        (kept,) = {question.kept for question in video.questions}
        assert len(kept) == 5 and float(dict(kept)["seconds"]) > 1 and dict(kept)["family"] in STORIES


def test_clips_are_h264_files_with_the_scenes_frames(tiny_data):
    for split, count in (("train", 6), ("val", 3), ("test", 4)):
        videos = load_annotations(annotation_paths(tiny_data, TASKS, split), tiny_data)
        assert len(videos) == count
        for video in videos:
            with av.open(str(video.path)) as container:
                assert container.streams.video[0].codec_context.name == "h264"
                times = [float(frame.time) for frame in container.decode(video=0)]
            assert np.allclose(times, np.arange(len(times)) / FPS) and 40 <= len(times) <= 100
            assert read_clip(str(video.path), 10, 200).frames.shape[1:] == (3, 112, 224)


def test_annotations_are_those_of_the_scenes(tiny_data):
    videos = load_annotations(annotation_paths(tiny_data, TASKS, "train"), tiny_data)
    written = sorted(sorted((q.task, q.answer) for q in video.questions) for video in videos)
    expected = [task_answers(scene_of("train", index, 7)) for index in range(6)]
    assert written == sorted(sorted(answers.items()) for answers in expected)
    assert Counter(len(answers) for answers in expected) == {6: 3, 4: 3}


def test_events_are_in_order_and_inside_the_clip():
    for scene in scenes(200):
        answers = task_answers(scene)
        if not scene.crash:
            assert scene.contact is None
            assert "crash_localization" not in answers and answers["crash_recognition"] == "No"
            continue
        contact = scene.contact
        assert 0 <= contact.cue < contact.start < contact.end < scene.duration
        assert answers["crash_localization"] == f"{contact.start:.1f} - {contact.end:.1f} seconds"
        assert answers["pre_crash_localization"] == f"{contact.cue:.1f} seconds"
        for name, answer in answers.items():
            TASKS[name].ground_truth(answer)


def test_near_misses_are_of_every_kind_that_crashes_are():
    assert set(CRASH_CYCLE) == set(CALM_CYCLE) - {"plain"} == set(STORIES) - {"plain"}
    assert {scene.cause for scene in scenes(400) if scene.crash} == set(CAUSES)


def test_the_look_does_not_give_the_answer_away():
    """What is not the story is drawn alike: lengths, skies, roadsides and numbers of road users."""
    crashes = [scene for scene in scenes(1000) if scene.crash]
    calm = [scene for scene in scenes(1000) if not scene.crash]
    assert abs(np.mean([s.duration for s in crashes]) - np.mean([s.duration for s in calm])) < 0.3
    for feature in ("sky", "roadside"):
        shares = [Counter(getattr(scene, feature) for scene in group) for group in (crashes, calm)]
        assert all(abs(shares[0][value] - shares[1][value]) < 60 for value in shares[0] | shares[1])
    assert any((scene.ego_speed < 0.05).any() for scene in calm), "a stop alone is no crash"


def test_a_set_may_have_another_look_and_tells_the_same_kinds_of_stories(tmp_path):
    looks = {sky: Look((sky,), ("buildings",)) for sky in ("day", "night", "rain")}
    frames = {}
    for sky, look in looks.items():
        scene = scene_of("train", 0, 0, look)
        assert (scene.sky, scene.roadside) == (sky, "buildings")
        frames[sky] = np.stack(list(draw_scene(scene))).astype(int)
    assert frames["night"].mean() < 0.5 * frames["day"].mean()
    drops = {sky: (shown == (196, 204, 212)).all(-1) for sky, shown in frames.items()}
    assert drops["rain"].any((1, 2)).all() and not drops["day"].any()
    assert not (drops["rain"][1:] == drops["rain"][:-1]).all((1, 2)).any(), "elsewhere in every frame"
    assert {scene.sky for scene in scenes(60)} == set(SKIES), "only sets that ask for it are dark or wet"
    with pytest.raises(ValueError, match="skies: found snow; known: day, dusk, overcast, night, rain"):
        Look(skies=("snow",))

    words = ["--out", str(tmp_path), "--train", "4", "--val", "1", "--test", "1", "--workers", "1"]
    assert main(["synthesize", *words, "--skies", "night", "rain", "--roadsides", "fields"]) == 0
    records = json.loads((tmp_path / TASKS["crash_recognition"].annotation_file("train")).read_text())
    assert {record["sky"] for record in records} <= {"night", "rain"} and len(records) == 4
    with pytest.raises(FileExistsError, match="remove it or name another folder"):
        make_demo_set(tmp_path, train=4, val=1, test=1, workers=1)


def test_the_same_seed_gives_the_same_set_on_any_number_of_processes(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    make_demo_set(one, train=2, val=1, test=1, seed=3, workers=1)
    make_demo_set(two, train=2, val=1, test=1, seed=3, workers=2)
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_a_set_is_reused_and_another_is_not_mixed_in(tmp_path, capsys):
    make_demo_set(tmp_path, train=1, val=1, test=1, workers=1)
    make_demo_set(tmp_path, train=1, val=1, test=1, workers=1)
    assert "already made" in capsys.readouterr().out
    lost = next((tmp_path / "videos").iterdir())
    lost.unlink()
    make_demo_set(tmp_path, train=1, val=1, test=1, workers=1)
    assert lost.is_file()
    with pytest.raises(FileExistsError, match="remove it or name another folder"):
        make_demo_set(tmp_path, train=2, val=1, test=1, workers=1)


def test_general_questions_are_exact_and_none_is_a_tasks(tmp_path):
    make_pretraining_set(tmp_path, 2, workers=1)
    records = json.loads((tmp_path / "general_val.json").read_text())
    assert {record["conversations"][0]["value"] for record in records}.isdisjoint(
        f"<video>\n{task.prompt}" for task in TASKS.values()
    )
    for scene in scenes(60):
        asked = dict(general_questions(scene, np.random.default_rng(0)))
        assert len(asked) >= 11
        if scene.crash:
            assert f"{scene.contact.start:.1f} seconds" in asked.values()
        else:
            assert "never" in asked.values()


def test_the_same_scene_gives_the_same_pixels():
    scene = make_scene((1, 2, 3), True, "ahead")
    first = [frame.copy() for frame in draw_scene(scene)]
    assert all(np.array_equal(a, b) for a, b in zip(first, draw_scene(scene), strict=True))
