"""`crashchat score --by`: figures by the values of a column that is kept with the questions."""

import csv
import json

import pytest

from crashchat.config import load_config
from crashchat.data.predictions import make_record, prediction_path
from crashchat.data.sources import describe_questions, load_questions
from crashchat.evaluation.manifest import Evaluation, weights_hashes
from crashchat.evaluation.score import main as score
from crashchat.evaluation_settings import EvalConfig
from crashchat.files import write_json_atomic
from crashchat.metrics.bootstrap import balanced
from crashchat.metrics.recognition import recognition_sums
from crashchat.tasks import TASKS
from tests.helpers.commands import crashchat
from tests.helpers.predictions import write_row

RECOGNITION = "crash_recognition"
PROMPT = TASKS[RECOGNITION].prompt
# Of 60 clips: 40 by the ego-car, of which 30 are right; 15 by others, all right; 5 where it is not known.
ROWS = [
    {
        "video": f"videos/{number}.mp4",
        "question": PROMPT,
        "answer": "Yes" if number % 2 else "No",
        "ego": "yes" if number < 40 else "no" if number < 55 else "",
        "length": f"{number / 2}",
        "note": f"clip {number}",
    }
    for number in range(60)
]
WRONG = set(range(10))


def answered(number: int, answer: str) -> str:
    return {"Yes": "No", "No": "Yes"}[answer] if number in WRONG else answer


@pytest.fixture
def scored(tmp_path):
    """Predictions of a made-up model, and the data folder; returns score's options for them."""
    data = tmp_path / "data"
    data.mkdir()
    records = [
        {
            "video": [row["video"]],
            "conversations": [{"from": "human", "value": PROMPT}, {"from": "gpt", "value": row["answer"]}],
            **{key: row[key] for key in ("ego", "length", "note")},
            "source": "fleet",
        }
        for row in ROWS
    ]
    (data / TASKS[RECOGNITION].annotation_file("test")).write_text(json.dumps(records))
    numbers = iter(range(60))
    folder = write_row(tmp_path, data, lambda task, answer: answered(next(numbers), answer), (RECOGNITION,))
    predictions = prediction_path(folder, RECOGNITION, "model")
    return [
        RECOGNITION,
        "--predictions",
        str(predictions),
        "--data-dir",
        str(data),
        "--out",
        str(tmp_path / "s.json"),
    ]


def test_each_value_has_its_figures_and_all_count_alike_in_the_balanced_one(scored, tmp_path, capsys):
    assert score([*scored, "--by", "ego,source"]) == 0
    out, found = capsys.readouterr().out, json.loads((tmp_path / "s.json").read_text())
    by = found["by"]["ego"]
    assert {name: one["num_videos"] for name, one in by["values"].items()} == {
        "no": 15,
        "yes": 40,
        "not said": 5,
    }
    assert by["values"]["yes"]["Accuracy"] == 0.75 and by["values"]["no"]["Accuracy"] == 1
    assert by["balanced"]["Accuracy"] == 0.875 != found["Accuracy"]
    low, high = by["balanced"]["intervals"]["Accuracy"]
    assert 0.75 < low < 0.875 < high < 0.95
    assert by["too_few"] == ["not said"] and "Accuracy" not in by["values"]["not said"]
    assert "by ego (videos)" in out and "too few videos, fewer than 10: not said (5)" in out
    assert "balanced" not in found["by"]["source"]["values"] and found["by"]["source"]["balanced"] == {
        "intervals": {}
    }
    with (tmp_path / "s.csv").open() as file:
        table = {row["metric"]: row["value"] for row in csv.DictReader(file)}
    assert float(table["by.ego.values.yes.Accuracy"]) == 0.75


def test_numbers_of_many_values_are_cut_into_thirds(scored, tmp_path):
    assert score([*scored, "--by", "length"]) == 0
    values = json.loads((tmp_path / "s.json").read_text())["by"]["length"]["values"]
    assert {name: one["num_videos"] for name, one in values.items()} == {
        "up to 9.83333": 20,
        "9.83333 to 19.6667": 20,
        "above 19.6667": 20,
    }
    assert [one["Accuracy"] for one in values.values()] == [0.5, 1, 1]


def test_a_column_that_is_not_there_or_no_breakdown_is_named(scored, tmp_path, capsys):
    assert score([*scored, "--by", "weather"]) == 1
    assert "none of the questions in" in capsys.readouterr().err
    assert score([*scored, "--by", "note"]) == 1
    assert "--by note: has 60 different values" in capsys.readouterr().err
    scored[4] = str(tmp_path)
    assert score([*scored, "--by", "ego"]) == 1
    assert "--by ego: annotations have the column, and there is no" in capsys.readouterr().err


def test_a_comparison_has_figures_by_a_column_and_says_where_videos_are_too_few(scored, tmp_path):
    data, out = scored[4], tmp_path / "out"
    told = crashchat("compare", f"m={scored[2]}", "--data-dir", data, "--by", "ego,length", "--no-meteor",
                     "--out", out)  # fmt: skip
    assert "recognition by ego" in told and "too few: fewer than 10 videos" in told
    with (out / "comparison.csv").open() as file:
        lines = [row for row in csv.DictReader(file) if row["row"] == "m"]
    found = {
        column: {
            row["heading"]: float(row["value"]) for row in lines if row["table"].endswith(f"by {column}")
        }
        for column in ("ego", "length")
    }
    assert found["ego"] == pytest.approx({"yes (40)": 0.75, "no (15)": 1.0})
    assert sorted(found["length"].values()) == pytest.approx([0.5, 1, 1])
    refused = crashchat("compare", f"m={scored[2]}", "--data-dir", data, "--by", "weather", "--no-meteor",
                        "--out", tmp_path / "none", ok=False)  # fmt: skip
    assert "--by weather: none of the questions in" in refused and not (tmp_path / "none").exists()


def test_what_is_right_everywhere_is_no_certainty():
    def part(count):
        return recognition_sums(
            [{"video_path": f"{n}", "gt_label": "Yes", "pred_label": "Yes"} for n in range(count)]
        )

    means, ranges = balanced([part(20), part(10)])
    assert means["Accuracy"] == 1 and 0.7 < ranges["Accuracy"][0] < 0.85 and ranges["Accuracy"][1] == 1


def test_a_run_that_read_sources_is_held_against_them_again(tmp_path, tiny_base, capsys):
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    (tmp_path / "eval.yaml").write_text(
        f"data:\n- path: {tmp_path / 'rows.csv'}\n  split: test\nmodel: {tiny_base}\nmodel_name: m\n"
        f"output_dir: {tmp_path}\n"
    )
    config = load_config(EvalConfig, tmp_path / "eval.yaml")
    videos = load_questions(config, "test", config.tasks)
    records = [
        make_record(
            TASKS[RECOGNITION],
            question.data_id,
            video_path=str(video.path),
            prompt=question.text,
            raw_response=answered(question.data_id, question.answer),
            answer=question.answer,
            model="m",
        )
        for video in videos
        for question in video.questions
    ]
    path = prediction_path(tmp_path, RECOGNITION, "m")
    write_json_atomic(path, records)
    run = Evaluation(config, describe_questions(config, "test", config.tasks, videos), weights_hashes(config))
    run.state(path, RECOGNITION, len(records))
    words = [RECOGNITION, "--predictions", str(path), "--out", str(tmp_path / "s.json"), "--by", "ego"]
    assert score(words) == 0
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["truth_checked"] and list(found["annotations"]) == [str(tmp_path / "rows.csv")]
    assert found["by"]["ego"]["values"]["yes"]["Accuracy"] == 0.75
    text = (tmp_path / "rows.csv").read_text()
    (tmp_path / "rows.csv").write_text(text.replace(",No,", ",Yes,", 1))
    assert score(words) == 1 and "records differ from" in capsys.readouterr().err
