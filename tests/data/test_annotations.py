"""Annotation files: the released ones load, joined by video; what cannot be used is named, never dropped."""

import json

import pytest

from crashchat.data.annotations import AnnotationError, annotation_paths, load_annotations
from crashchat.tasks import TASKS


def record(video="videos/a.mp4", question=None, answer="Yes", **changes) -> dict:
    """A record as released, with changes."""
    question = question or TASKS["crash_recognition"].prompt
    turns = [{"from": "human", "value": f"<video>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"video": [video], "conversations": turns, "source": "Nexar"} | changes


def write(path, *records):
    """Write records as an annotation file; returns its path."""
    path.write_text(json.dumps(list(records)))
    return path


def test_released_validation_files_join_by_video(shared):
    folder = shared / "annotations"
    videos = load_annotations(annotation_paths(folder, TASKS, "val"), "data")
    assert len(videos) == 1838
    assert sum(video.answer_of("crash_recognition") == "Yes" for video in videos) == 1139
    assert sum(len(video.questions) for video in videos) == 4 * 1838 + 2 * 1139
    crash = next(video for video in videos if video.answer_of("crash_localization"))
    assert [question.task for question in crash.questions] == list(TASKS)


def test_multi_task_file_carries_what_the_single_task_files_do(shared):
    folder = shared / "annotations"
    perception = ["crash_localization", "pre_crash_localization"]
    joined = load_annotations(
        [folder / "crashchat_dada_video_total_perception_centric_val.json"], "data", perception
    )
    single = load_annotations(annotation_paths(folder, perception, "val"), "data", perception)

    def answers(videos):
        return {
            (video.name, question.task): question.answer for video in videos for question in video.questions
        }

    assert answers(joined) == answers(single) and len(answers(joined)) == 2278


def test_a_question_in_two_files_is_kept_once(tmp_path):
    one, two = write(tmp_path / "one.json", record()), write(tmp_path / "two.json", record())
    assert len(load_annotations([one, two], tmp_path)[0].questions) == 1


def test_general_questions_load_where_no_tasks_are_named(tmp_path):
    path = write(tmp_path / "general.json", record(question="What is ahead?", answer="a car"))
    assert load_annotations([path], tmp_path)[0].questions[0].task is None


def test_a_question_twice_in_one_file_is_named_with_both_records(tmp_path):
    path = write(tmp_path / "one.json", record(), record("videos/b.mp4"), record())
    with pytest.raises(AnnotationError, match="one.json, record 2: asks of videos/a.mp4 what record 0 asks"):
        load_annotations([path], tmp_path)


BROKEN = {
    "too long a path": (record(video="v/" * 3000 + "a.mp4"), "expected a path that a file can have"),
    "too long a name": (record(video="v" * 300), "expected a path that a file can have"),
    "no path at all": (record(video="videos/a\0.mp4"), "expected a path that a file can have"),
    "half a character": (record(video="videos/\ud800.mp4"), "expected a path that a file can have"),
    "not an object": (["x"], "record 1: found a list"),
    "no video": (record(video=[]), "'video' is"),
    "escaping path": (record(video="../../etc/passwd"), "below the data folder"),
    "absolute path": (record(video="/etc/passwd"), "below the data folder"),
    "three turns": (
        record() | {"conversations": record()["conversations"] * 2},
        "one human turn and one gpt turn",
    ),
    "empty answer": (record(answer=" "), "empty"),
    "no interval": (record(question=TASKS["crash_localization"].prompt, answer="soon"), "has 0 times"),
    "not yes or no": (record(answer="Perhaps"), "does not parse"),
    "contradiction": (record(video="videos/good.mp4", answer="No"), "already has the answer 'Yes'"),
    "odd source": (record(source=3), "'source' is 3"),
    "half an answer's character": (record(answer="Yes \ud800"), "holds half of a character"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_record_is_named(tmp_path, kind):
    broken, message = BROKEN[kind]
    path = write(tmp_path / "annotations.json", record(video="videos/good.mp4"), broken)
    with pytest.raises(AnnotationError, match="1 annotation record") as caught:
        load_annotations([path], tmp_path)
    assert message in str(caught.value) and f"{path}, record 1" in str(caught.value)


def test_every_broken_record_is_named_at_once(tmp_path):
    path = write(tmp_path / "annotations.json", record(), record(answer=""), record(video=""))
    with pytest.raises(AnnotationError, match="(?s)2 annotation record.*record 1.*record 2"):
        load_annotations([path], tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "expected a list"),
        ("[]", "no records"),
        ("[{", "not JSON"),
        (None, "cannot be read"),
        ("", r"is empty \(0 bytes\)"),
        ("[" * 100_000, "nested too deeply"),
        ('[{"video": "a", "video": "b"}]', "the key 'video' is there twice"),
        ("[1" + "0" * 5000 + "]", "a number of thousands of digits"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, message):
    path = tmp_path / "annotations.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(AnnotationError, match=message) as caught:
        load_annotations([path], tmp_path)
    assert str(path) in str(caught.value)


def test_other_tasks_are_left_out_and_a_foreign_question_is_an_error(tmp_path):
    path = write(
        tmp_path / "a.json",
        record(),
        record(question=TASKS["crash_description"].prompt, answer="car hits car"),
    )
    videos = load_annotations([path], tmp_path, ["crash_recognition"])
    assert [question.task for question in videos[0].questions] == ["crash_recognition"]
    write(path, record(question="Is it raining?"))
    with pytest.raises(AnnotationError, match="no task's prompt"):
        load_annotations([path], tmp_path, ["crash_recognition"])


def test_a_missing_annotation_file_is_named(tmp_path):
    with pytest.raises(AnnotationError, match="cause_reasoning_test.json.*data_dir="):
        annotation_paths(tmp_path, ["causal_reasoning"], "test")
