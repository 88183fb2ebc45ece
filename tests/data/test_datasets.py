"""What a data set is called, whether it is drawn, and what of it a run took."""

import json

import pytest

from crashchat.checkpoints.model_card import ModelCard, read_card, write_card
from crashchat.data.annotations import AnnotationError, load_annotations
from crashchat.data.datasets import DATASET_FILE, describe_use, names_hash, read_dataset_card
from crashchat.json_files import as_line
from crashchat.provenance import file_hash
from tests.data.test_annotations import record


def test_a_run_says_what_it_took(tmp_path):
    file = tmp_path / "some.json"
    file.write_text(
        json.dumps([record("videos/b.mp4"), record("videos/a.mp4"), record("videos/b.mp4", "Why?")])
    )
    videos = load_annotations([file], tmp_path)
    use = describe_use(tmp_path, [file], videos, "train")
    assert (use.name, use.drawn, use.videos, use.questions) == (tmp_path.name, False, 2, 3)
    assert use.annotations == {"some.json": file_hash(file)}
    assert use.names_sha256 == names_hash(["a.mp4", "b.mp4"]) == names_hash(["b.mp4", "a.mp4", "b.mp4"])
    (tmp_path / DATASET_FILE).write_text('{"name": "Drawn roads", "drawn": true}')
    named = describe_use(tmp_path, [file], videos, "val")
    assert (named.name, named.drawn, named.split) == ("Drawn roads", True, "val")


@pytest.mark.parametrize(
    "text", ['{"drawn": true}', '{"name": "a\\u001b[2J"}', '{"name": "a", "drwan": 1}', "[]"]
)
def test_what_is_wrong_with_a_data_sets_file_is_said(tmp_path, text):
    (tmp_path / DATASET_FILE).write_text(text)
    with pytest.raises(AnnotationError, match=DATASET_FILE):
        read_dataset_card(tmp_path)


@pytest.mark.parametrize(
    "name, line", [("roads", "roads"), ("odd \udcff\x1b[2J\n", "odd \ufffd\ufffd[2J\ufffd"), ("", "?")]
)
def test_any_folders_name_can_stand_in_a_card(tmp_path, name, line):
    assert as_line(name) == line
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    use = describe_use(folder, [], [], "train")
    assert use.name == (line if name else as_line(tmp_path.name))
    write_card(tmp_path, ModelCard(kind="model", name=as_line(name), data=[use]))
    assert read_card(tmp_path).data == [use]
