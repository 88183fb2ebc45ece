"""Training, evaluation and scores on a table of questions, with no data folder."""

import csv
import json

from crashchat.checkpoints.model_card import read_card
from crashchat.data.predictions import prediction_path
from crashchat.tasks import TASKS
from tests.helpers.commands import SETTINGS, TRAIN_CONFIG, crashchat


def test_a_table_is_learnt_asked_and_scored(tiny_data, tiny_base, tmp_path):
    rows = [
        {
            "clip": record["video"][0],
            "task": name,
            "answer": record["conversations"][1]["value"],
            "part": split,
            "half": "first" if index % 2 else "second",
        }
        for split in ("train", "val")
        for name, task in TASKS.items()
        for index, record in enumerate(json.loads((tiny_data / task.annotation_file(split)).read_text()))
    ]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    one = {
        "path": str(tmp_path / "rows.csv"),
        "videos": str(tiny_data),
        "columns": {"video": "clip", "keep": ["half"]},
        "split_column": "part",
        "weight": 2,
    }
    data, out = f"data={json.dumps([one])}", tmp_path / "out"
    words = [*SETTINGS, "max_steps=1", "eval_steps=1", "save_steps=1", "val_videos=1", "global_batch_size=4"]
    said = crashchat("train", TRAIN_CONFIG, *words, data, f"output_dir={out}")
    learnt = sum(row["part"] == "train" for row in rows)
    assert f"{2 * learnt} training questions on 6 videos" in said
    use = read_card(out).data[0]
    assert (use.name, use.videos, use.questions, list(use.annotations)) == ("rows", 6, learnt, ["rows.csv"])
    evaluated = ["split=val", f"model={tiny_base}", "model_name=m", "num_workers=0", "max_new_tokens=8"]
    crashchat("evaluate", "configs/eval/all_tasks.yaml", *evaluated, data, f"output_dir={tmp_path}")
    path = prediction_path(tmp_path, "pre_crash_localization", "m", "val")
    said = crashchat("score", "pre_crash_localization", "--predictions", path, "--by", "half")
    assert "by half (videos)" in said and "truth not checked" not in said
    assert all(record["crash_start"] > 0 for record in json.loads(path.read_text()))
