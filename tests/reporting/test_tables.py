"""The tables of a comparison: marks, published figures, differences, breakdowns."""

import json
from html import unescape
from pathlib import Path

from crashchat.files import write_json_atomic
from crashchat.reporting.about import DRAWN_NOTE
from crashchat.reporting.columns import best_rows
from crashchat.reporting.compare import write_report
from crashchat.reporting.comparison import sum_rows
from crashchat.reporting.published import NOT_PUBLISHED_NOTE, published_tables, read_published
from crashchat.reporting.table_text import as_markdown, as_text
from crashchat.reporting.tables import (
    breakdown_tables,
    difference_tables,
    strategy_tables,
)
from crashchat.tasks import TASKS
from tests.helpers.comparisons import read, scored
from tests.helpers.predictions import write_row


def test_a_row_that_lacks_some_tasks_of_a_table_has_dashes_there(rows, tiny_data, tmp_path):
    one = write_row(tmp_path / "one", tiny_data, lambda task, truth: truth, ["crash_recognition"])
    (table, _) = strategy_tables(scored({"mute": rows["mute"], "one": one}, tiny_data))
    row = next(row for row in table.rows if row.name == "one")
    assert [cell.text for cell in row.cells] == ["1.000", "1.000", "1.000", "0"] + ["—"] * 12
    # In the terminal, where the tasks stand one below the other, it has a line only where it was asked.
    assert sum(line.startswith("one ") for line in as_text(table).splitlines()) == 1
    assert "| one | **1.000** [0.500–1.000] |" in as_markdown(table)


def test_the_best_is_marked_only_where_there_is_a_better_and_a_worse():
    figures = {
        "TTA_MAE": (0.5, 0.2),
        "mTTA_pred": (1.0, 2.0),
        "mIoU": (0.3, 0.3),
        "AP@50": (None, 0.3),
        "AP@30": (0.1, 0.4),
        "num_unparsed": (1, 2),
    }
    best = {key: best_rows(dict(zip("ab", pair, strict=True)), key) for key, pair in figures.items()}
    assert best == {
        "TTA_MAE": {"b"},
        "mTTA_pred": set(),
        "mIoU": set(),
        "AP@50": set(),
        "AP@30": {"b"},
        "num_unparsed": set(),
    }


def test_published_figures_stand_beside_ours_and_are_marked(rows, tiny_data, shared):
    assert read_published() == json.loads((shared / "published_results.json").read_text())
    linguistic, perception = published_tables(scored({"perfect": rows["perfect"]}, tiny_data))
    kinds = {row.name: row.kind for row in perception.rows}
    assert (
        kinds.pop("perfect") == "model"
        and set(kinds.values()) == {"published"}
        and "WSAL (published)" in kinds
    )
    heterogeneous = next(
        row for row in linguistic.rows if row.name == "CrashChat-7B heterogeneous (published)"
    )
    assert [column[1] for column in linguistic.columns[:6]] == [
        "macro P",
        "macro R",
        "macro F1",
        "BLEU",
        "ROUGE-L",
        "BERTScore",
    ]
    assert [cell.value for cell in heterogeneous.cells[:6]] == [0.985, 0.9745, 0.9793, 0.4608, 0.8535, 0.9783]
    ours = next(row for row in linguistic.rows if row.name == "perfect")
    assert (
        ours.cells[2].best
        and ours.cells[2].interval == "0.500–1.000"
        and ours.cells[5].text == "not computed"
    )


def annotate(folder: Path, videos: dict[str, tuple[str, str]], split: str = "test") -> None:
    """Recognition annotations of {video: (source, label)}."""
    task = TASKS["crash_recognition"]
    records = [
        {
            "video": [f"videos/{name}"],
            "source": source,
            "conversations": [
                {"from": "human", "value": f"<video>\n{task.prompt}"},
                {"from": "gpt", "value": label},
            ],
        }
        for name, (source, label) in videos.items()
    ]
    write_json_atomic(folder / task.annotation_file(split), records)


def of_recognition(folder: Path, data: Path) -> dict[str, list[Path]]:
    """One row that is always right about recognition."""
    write_row(folder, data, lambda task, truth: truth, ["crash_recognition"])
    return {"model": [folder]}


def test_published_figures_and_notes_stand_only_where_they_are_true(tmp_path):
    sources = {"MM-AU-CAP": "Yes", "MM-AU-DADA": "Yes", "D2City": "No", "Nexar": "No"}
    kinds = list(sources.items())
    videos = {f"{index}.mp4": kinds[index % 4] for index in range(1839)}
    released, other = tmp_path / "released", tmp_path / "other"
    annotate(released, videos)
    # As many videos, but one of another collection, and one of a source that has both.
    annotate(other, videos | {"7.mp4": ("dashcams", "Yes"), "8.mp4": ("MM-AU-CAP", "No")})
    for data, shown in ((released, True), (other, False)):
        out = tmp_path / f"out_{data.name}"
        text = write_report(of_recognition(tmp_path / f"row_{data.name}", data), data, out)
        page, markdown = ((out / name).read_text() for name in ("report.html", "comparison.md"))
        assert ("CrashChat-7B heterogeneous (published)" in page) == shown
        assert ("CrashChat-7B heterogeneous (published)" in markdown.replace("\\", "")) == shown
        assert (NOT_PUBLISHED_NOTE in unescape(page)) != shown
        crashes, calm = "MM-AU-CAP (460), MM-AU-DADA (460)", "D2City (460), Nexar (459)"
        note = f"all videos of {crashes} are crashes, none of {calm} is"
        assert all((note in one) == shown for one in (unescape(page), markdown, " ".join(text.split())))
        assert DRAWN_NOTE not in page + markdown + text
        assert text.startswith(f"{data.name}: test split, 1,839 videos")
    part = tmp_path / "part"
    annotate(part, dict(list(videos.items())[:100]))
    write_report(of_recognition(tmp_path / "row_part", part), part, tmp_path / "out_part")
    assert "(published)" not in (tmp_path / "out_part" / "report.html").read_text()


def test_differences_and_breakdowns(rows, tiny_data):
    from crashchat.metrics.bootstrap import paired

    sums = sum_rows(read(rows, tiny_data))
    between = {"perfect": {task: paired(sums["mute"][task], sums["perfect"][task]) for task in TASKS}}
    table = difference_tables(between, "mute")[0]
    assert (
        # Four videos prove nothing, however large the difference.
        table.rows[0].cells[2].text == "+1.000" and table.rows[0].cells[2].behind == "[0.500–1.000] p 1.000"
    )
    videos = sums["mute"]["crash_recognition"].videos
    recognition, *_ = breakdown_tables(
        sums, dict(zip(videos, ["x", "x", "y", "z"], strict=True)), "letter", limit=2
    )
    assert [column[1] for column in recognition.columns] == ["x (2)", "others (2)"]
    assert {row.name: [cell.value for cell in row.cells] for row in recognition.rows} == {
        "mute": [0, 0],
        "perfect": [1, 1],
    }
    assert breakdown_tables(sums, dict.fromkeys(videos, "x"), "letter") == []


def test_figures_of_warnings_have_a_best_row_but_not_how_early_they_come():
    values = {"ours": 0.5, "base": 0.25}
    for metric in ("AP@0.5s", "mAP", "right_time", "joint"):
        assert best_rows(values, metric) == {"ours"}
    assert best_rows(values, "alarms/h@R80") == {"base"}
    assert best_rows(values, "TTA@R80") == set(), "who always warns warns earliest"
