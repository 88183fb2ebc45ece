"""Heads found on annotated clips, times read off them, and asked again of what they look at."""

import json
from pathlib import Path

from tests.evaluation.test_around import TIMES, ask, records
from tests.helpers.commands import crashchat


def find(tiny_base: Path, tiny_data: Path, out: Path, *more: str, ok: bool = True) -> str:
    words = [f"model={tiny_base}", f"data_dir={tiny_data}", f"output_dir={out}", "num_workers=0", *more]
    return crashchat("find-heads", "configs/eval/all_tasks.yaml", *words, ok=ok)


def test_times_are_read_off_heads_and_asked_again_of_what_they_look_at(tiny_base, tiny_data, tmp_path):
    said = find(tiny_base, tiny_data, tmp_path, "split=train")
    heads = tmp_path / "time_heads.json"
    written = json.loads(heads.read_text())
    assert f"saved to {heads}" in said and "s off with heads" in said and "mIoU" in said
    assert set(written["tasks"]) == {"crash_localization", "pre_crash_localization"}
    assert written["split"] == "train" and str(tiny_base) in written["weights"]
    first = tmp_path / "first"
    ask(tiny_base, tiny_data, first, TIMES, f"times_from={heads}")
    read = records(first)
    assert len(read) == 2 and all(read.values())
    for own in read.values():
        for record in own:
            times = [record[name] for name in ("pred_start", "pred_end", "pred_time") if name in record]
            assert times == sorted(times) and None not in times and "error" not in record
    manifest = json.loads(next(first.glob("*/*/*_manifest.json")).read_text())
    assert manifest["settings"]["times_from"] == str(heads)
    words = ["--predictions", next(first.glob("crash_loc*/*/*_predict.json")), "--data-dir", tiny_data]
    assert "mIoU" in crashchat("score", "crash_localization", *words)

    again = tmp_path / "again"
    ask(tiny_base, tiny_data, again, TIMES, f"around={first}", "around_tasks=crash_localization")
    spans = {record["video_path"]: record for record in read["crash_localization"]}
    for own in records(again).values():
        for record in own:
            start, end = record["part"]
            looked_at = spans[record["video_path"]]
            assert start <= max(0, looked_at["pred_start"] - 1) + 0.1 and end >= looked_at["pred_end"] + 1


def test_what_cannot_be_found_or_read_is_told(tiny_base, tiny_data, tmp_path):
    assert "give split=train or split=val" in find(tiny_base, tiny_data, tmp_path, "split=test", ok=False)
    recognition = ["split=train", "tasks=crash_recognition"]
    assert "none of them has times" in find(tiny_base, tiny_data, tmp_path, *recognition, ok=False)
    find(tiny_base, tiny_data, tmp_path, "split=val", "tasks=crash_localization", "limit=2")
    heads, out = tmp_path / "time_heads.json", tmp_path / "out"

    def fault(*more: str) -> str:
        return ask(tiny_base, tiny_data, out, *more, ok=False)

    given = f"times_from={heads}"
    assert "no heads of pre_crash_localization; run crashchat find-heads" in fault(TIMES, given)
    assert "is for times, which crash_recognition" in fault(given)
    assert "do not go with it" in fault(TIMES, given, "temperature=1.0")
    assert "needs around=" in fault(TIMES, "around_tasks=crash_localization")
    assert "unknown tasks ['crash']" in fault(TIMES, f"around={tmp_path / 'first'}", "around_tasks=crash")
    written = json.loads(heads.read_text())
    heads.write_text(json.dumps(written | {"weights": {"another": "0" * 64}}))
    assert "run crashchat find-heads with this model" in fault("tasks=crash_localization", given)
    heads.write_text(json.dumps(written | {"tasks": {}, "more": 1}))
    assert f"{heads}: more" in fault("tasks=crash_localization", given)
