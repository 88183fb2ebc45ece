"""What is wrong with a table of questions is named, row by row; a large one is checked once."""

import json

import pytest

from crashchat.data import kept_tables
from crashchat.data.records import AnnotationError
from tests.data.test_annotations import record, write
from tests.data.test_sources import INTERVAL, as_csv, load, messages, parquet, released, source


def test_every_bad_row_is_named_at_once_with_its_column(tmp_path):
    rows = [
        dict(zip(("video", "question", "answer"), row, strict=True))
        for row in (
            ("a.mp4", INTERVAL, "soon"),
            ("", INTERVAL, "1 - 2 seconds"),
            ("../x.mp4", INTERVAL, "1 - 2 s"),
        )
    ]
    with pytest.raises(AnnotationError) as caught:
        load(source(as_csv(tmp_path, [*rows, {"video": "a.mp4", "question": INTERVAL, "answer": " "}])))
    head, *lines = str(caught.value).splitlines()
    assert head == "4 annotation record(s) cannot be used:"
    for line, said in zip(
        lines,
        (
            "row 2: crash_localization",
            "row 3: column 'video' is empty",
            "row 4: column 'video' is '../x",
            "row 5: column 'answer' is empty",
        ),
        strict=True,
    ):
        assert f"rows.csv, {said}" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("video,answer,video\na,b,c\n", "two columns 'video'"),
        ("video,question\na,b\n", "no column 'answer'; its columns are video, question; `columns:` says"),
        ("video,question,answer\na,b\n", "Row #2: Expected 3 columns, got 2"),
        ("video,question,answer\n", "holds no rows"),
        ("", r"is empty \(0 bytes\)"),
        ("video,answer\na.mp4,Yes\n", "row 2: has no question, and no task"),
        (None, "there is no such file"),
    ],
)
def test_a_broken_table_is_named(tmp_path, content, message):
    path = tmp_path / "rows.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(AnnotationError, match=message) as caught:
        load(source(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damage", ["no Parquet", "a text that is none"])
def test_a_damaged_parquet_file_is_named(tmp_path, damage):
    data = parquet(tmp_path).read_bytes()
    damaged = data.replace(b"1.0 - 2.5", b"1.0 \xff 2.5") if damage != "no Parquet" else damage.encode()
    assert damaged != data
    (tmp_path / "rows.parquet").write_bytes(damaged)
    with pytest.raises(AnnotationError, match="rows.parquet: cannot be read as parquet"):
        load(source(tmp_path / "rows.parquet"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("3", "line 2: found a int"),
        ('{"turns": []}', "expected messages or conversations"),
        ('{"messages": [{"role": "system", "content": "x"}], "video": "a"}', "the roles"),
        (
            '{"messages": [{"role": "user", "content": 3}, {"role": "assistant", "content": "x"}]}',
            "messages.0",
        ),
        (
            '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]}',
            "one path",
        ),
    ],
)
def test_a_broken_line_of_messages_is_named(tmp_path, line, message):
    path = messages(tmp_path)
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([first, line, *others]))
    with pytest.raises(AnnotationError, match="1 annotation record") as caught:
        load(source(path))
    assert message in str(caught.value)


def test_a_large_file_is_checked_once_and_again_when_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("CRASHCHAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_tables, "SMALLEST", 1)
    path = released(tmp_path)
    first = load(source(path, columns={"keep": ["ego"]}))
    (kept,) = (tmp_path / "cache" / "tables").iterdir()
    assert load(source(path, columns={"keep": ["ego"]})) == first
    made = kept.stat().st_mtime_ns
    kept.write_bytes(kept.read_bytes()[:-20])  # damaged: the file is read again
    assert load(source(path, columns={"keep": ["ego"]})) == first and kept.stat().st_mtime_ns != made
    chats = messages(tmp_path)
    chats.write_text("\n" + chats.read_text())
    for _ in range(2):
        (first_chat, _) = load(source(chats))[0].questions
        assert first_chat.data_id == 1  # as an editor counts lines, from 0, the first time and again
    write(path, record(), record(answer="Perhaps"))
    with pytest.raises(AnnotationError, match="record 1"):
        load(source(path))
    write(path, record(), record(video=""))
    for _ in range(2):  # what cannot be used is never kept
        with pytest.raises(AnnotationError, match="record 1: 'video' is"):
            load(source(path))
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    (tmp_path / "cache").write_text("no folder")
    assert len(load(source(released(tmp_path)))) == 2


def test_a_list_is_read_the_same_in_pieces_as_whole(tmp_path, monkeypatch):
    from crashchat import json_files

    records = [record(f"videos/{number} ü \\ud83d\\ude00.mp4") for number in range(50)]
    path = tmp_path / "rows.json"
    for text in (json.dumps(records), json.dumps(records, indent=2), json.dumps(records, ensure_ascii=False)):
        path.write_text(text)
        for piece in (1, 7, 100, 10**6):
            monkeypatch.setattr(json_files, "PIECE", piece)
            assert list(json_files.each_item(path, AnnotationError, "records")) == records
    for text in ('[{"a": 1}, 12, "x"]', '\ufeff[{"a": 1}]', '{"a": [1]}', "[]"):
        path.write_text(text)
        monkeypatch.setattr(json_files, "PIECE", 9)
        whole = json.loads(text.encode())
        found = list(json_files.each_item(path, AnnotationError, "records"))
        assert found == (whole if isinstance(whole, list) else [])
    for text in (
        '[{"a": 1}',
        '[{"a": 1},]',
        '[{"a": 1} {"b": 2}]',
        '[{"a": 1}] 3',
        '[{"a": 1, "a": 2}]',
        "[,]",
    ):
        path.write_text(text)
        with pytest.raises(AnnotationError, match="not JSON"):
            list(json_files.each_item(path, AnnotationError, "records"))
