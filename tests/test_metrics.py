import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

from crashchat.metrics.bertscore import BertScore
from crashchat.metrics.localization import crash_localization_sums, first_sign_score, interval_iou, pre_crash_localization_sums
from crashchat.metrics.meteor import _program, has_java
from crashchat.metrics.probability import probability_scores
from crashchat.metrics.recognition import recognition_sums
from crashchat.metrics.score import main, newest_predictions, read_crash_starts, score_table, scores, task_sums
from crashchat.metrics.text import Extras, text_sums
from crashchat.predictions import PredictionError, constant_answer, prediction_path, read_predictions, video_name
from crashchat.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
CRASHES = "annotations/crashchat_dada_video_total_crash_localization_val.json"


def golden(shared: Path, task_name: str) -> Path:
    return shared / "golden/metrics" / f"{task_name}_predict.json"


def expected(shared: Path) -> dict:
    return json.loads((shared / "golden/metrics/expected.json").read_text())


@pytest.mark.parametrize("task_name", TASKS)
def test_agrees_with_the_released_scripts(shared, task_name):
    records = read_predictions(golden(shared, task_name), task_name)
    crash_starts = read_crash_starts(shared / CRASHES) if task_name == "pre_crash_localization" else None
    metrics = task_sums(task_name, records, crash_starts).metrics("released")
    released = expected(shared)[task_name]
    assert {key: metrics[key] for key in released} == pytest.approx(released, abs=1e-9, rel=0)
    left_out = ("num_scored", "num_unparsed", "num_failed", "num_no_truth", "missing_video_count", "bad_gt_tta_count")
    assert sum(metrics.get(key, 0) for key in left_out) == metrics["num_records"] == len(records)


@pytest.mark.parametrize("task_name", ["crash_description", "causal_reasoning", "prevention_reasoning"])
def test_constant_answer_agrees_with_the_released_scripts(shared, task_name):
    released = expected(shared)[f"{task_name}_constant_answer"]
    task = TASKS[task_name]
    assert released.pop("answer") == task.negative_answer
    sums = task_sums(task_name, constant_answer(task, read_predictions(golden(shared, task_name))))
    metrics = sums.metrics("released")
    assert {key: metrics[key] for key in released} == pytest.approx(released, abs=1e-9, rel=0)
    assert sums.metrics("strict") == metrics


def asked(count: int, truth: str, answer: str | None, **extra) -> list[dict]:
    return [{"video_path": "x.mp4", "gt_label": truth, "pred_label": answer, **extra}] * count


def test_recognition_macro_is_the_papers():
    # The paper's heterogeneous row is the macro scores of this table (SPEC.md, The paper's results).
    records = asked(1161, "Yes", "Yes") + asked(1, "Yes", "No") + asked(643, "No", "No") + asked(34, "No", "Yes")
    metrics = recognition_sums(records).metrics()
    macro = [round(metrics[f"macro_{name}"], 4) for name in ("recall", "precision", "f1")]
    assert macro == [0.9745, 0.985, 0.9793]
    assert metrics["confusion"]["No"] == {"Yes": 34, "No": 643, "unparsed": 0, "failed": 0}


def test_recognition_refusals_count_as_wrong_only_in_strict():
    records = asked(3, "Yes", "Yes") + asked(1, "Yes", None) + asked(1, "No", "Maybe") + asked(2, "No", "No")
    records += asked(1, "No", None, error="no such file") + asked(1, "Perhaps", "Yes")
    released, metrics = recognition_sums(records).metrics("released"), recognition_sums(records).metrics()
    counts = ("num_records", "num_scored", "num_unparsed", "num_failed", "num_no_truth")
    assert [metrics[key] for key in counts] == [released[key] for key in counts] == [9, 5, 2, 1, 1]
    assert released["Accuracy"] == released["macro_f1"] == 1.0
    assert [metrics[key] for key in ("N", "TP", "TN", "FP", "FN")] == [8, 3, 2, 2, 1]
    assert metrics["Accuracy"] == 5 / 8
    assert metrics["Precision"] == 3 / 5 and metrics["Recall"] == 3 / 4
    assert metrics["macro_recall"] == (3 / 4 + 2 / 4) / 2
    assert metrics["confusion"]["No"] == {"Yes": 0, "No": 2, "unparsed": 1, "failed": 1}


def texts(*pairs: tuple[str, str | None], **extra) -> list[dict]:
    return [{"video_path": f"{at}.mp4", "gt": truth, "pred": answer, **extra} for at, (truth, answer) in enumerate(pairs)]


def test_nothing_scored_is_none_not_zero():
    sums = recognition_sums(asked(2, "Yes", None))
    assert sums.metrics("released")["F1"] is None and sums.metrics()["F1"] == 0.0
    sums = text_sums(texts(("a b", None)), "gt", "pred")
    assert sums.metrics("released")["BLEU"] is None and sums.metrics()["BLEU"] == sums.metrics()["rougeL_f"] == 0.0
    assert sums.metrics()["METEOR"] is None and sums.metrics()["BERTScore"] is None
    sums = crash_localization_sums([interval(1.0, 2.0, None, None)])
    assert sums.metrics("released")["mIoU"] is None and sums.metrics()["start_MAE"] is None and sums.metrics()["mIoU"] == 0.0
    assert "not computed" in score_table(scores(sums))
    assert crash_localization_sums([interval(None, None, 1.0, 2.0)]).metrics()["mIoU"] is None
    with pytest.raises(ValueError, match="protocol 'loose', expected one of strict, released"):
        sums.metrics("loose")


def test_text_empty_answers():
    pairs = [("car hits car", "car hits car"), ("car hits car", " "), ("car hits truck", None), ("", "car")]
    records = texts(*pairs) + texts(("car hits car", None), error="unreadable") + texts(("car hits bus", "car hits train"))
    sums = text_sums(records, "gt", "pred")
    metrics, released = sums.metrics(), sums.metrics("released")
    counts = ("num_records", "num_scored", "num_unparsed", "num_failed", "num_no_truth", "num_new")
    assert [metrics[key] for key in counts] == [6, 2, 2, 1, 1, 1]
    assert released["exact_match"] == 0.5 and released["rouge1_f"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["exact_match"] == 0.2 and metrics["rouge1_f"] == pytest.approx((1 + 2 / 3) / 5)
    assert 0 < metrics["BLEU"] < released["BLEU"] and 0 < metrics["CIDEr"] < released["CIDEr"]


@pytest.mark.parametrize(
    "pairs",
    [
        [("a b c d e", "a b c d e")],
        [("a b c d e f", "a b c d"), ("one two", "two one"), ("g h i j k", "")],
        [("a b", "c d")],
        [("a b c", "")],
        [("a", "a b c d e f g a")],
    ],
)
def test_bleu_is_nltks(pairs):
    references, answers = [[truth.split()] for truth, _ in pairs], [answer.split() for _, answer in pairs]
    nltks = corpus_bleu(references, answers, smoothing_function=SmoothingFunction().method1)
    assert text_sums(texts(*pairs), "gt", "pred").metrics()["BLEU"] == pytest.approx(nltks, abs=1e-12)


@pytest.mark.skipif(not has_java(), reason="METEOR needs a Java runtime")
def test_meteor_is_pycocoevalcaps():
    pairs = [
        ("A truck hits the parked car at night.", "a truck hit parked cars in the night"),
        ("the driver brakes", "The driver brakes"),  # no break between the words: its single chunk does not count
        ("Pedestrian crosses suddenly", "nothing happens"),
        ("car hits car", ""),
    ]
    truths, answers = ({n: [pair[side]] for n, pair in enumerate(pairs)} for side in (0, 1))
    theirs, each = _program().compute_score(truths, answers)  # pycocoevalcap's own way to the scores
    sums = text_sums(texts(*pairs), "gt", "pred", Extras(meteor=True))
    assert sums.metrics()["METEOR"] == pytest.approx(theirs, abs=1e-12)
    one_by_one = sums.figures(sums.columns)["METEOR"]
    assert one_by_one.tolist() == pytest.approx(each, abs=1e-12)
    # Line breaks and the program's own separator in an answer don't bring it out of step.
    odd = text_sums(texts(("a car turns", "a ||| car\nturns"), ("a b", "a b")), "gt", "pred", Extras(meteor=True))
    assert odd.figures(odd.columns)["METEOR"].tolist() == pytest.approx([1.0, 1.0])


def test_without_java_meteor_is_not_computed(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(some_predictions("crash_description")))
    done = run_script("crash_description", "--predictions", path, cwd=tmp_path, PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert re.search(r"METEOR +not computed", done.stdout)
    assert json.loads((tmp_path / "p_metrics.json").read_text())["METEOR"] is None


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory) -> Path:
    """A BERT of random weights."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "car", "truck", "hits", "a", "bus", "slowly"]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def test_bertscore_is_greedy_matching_of_hidden_states(tiny_bert):
    import torch
    from transformers import AutoModel, AutoTokenizer

    pairs = [("car hits a truck", "a bus hits truck"), ("car hits car", "car hits car"), ("car", "")]
    scores = BertScore(tiny_bert, layer=2).f1(pairs)
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_bert), AutoModel.from_pretrained(tiny_bert).eval()

    def vectors(text: str) -> torch.Tensor:
        with torch.no_grad():
            return model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[2][0]

    truth, answer = map(vectors, pairs[0])
    likeness = torch.cosine_similarity(answer[:, None], truth[None], dim=-1)
    # [CLS] and [SEP] may be found, but only words search.
    precision, recall = likeness.max(1).values[1:-1].mean().item(), likeness.max(0).values[1:-1].mean().item()
    assert scores == pytest.approx([2 * precision * recall / (precision + recall), 1.0, 0.0], abs=1e-5)
    records = texts(*pairs)
    metrics = text_sums(records, "gt", "pred", Extras(bertscore=BertScore(tiny_bert, layer=2))).metrics()
    assert metrics["BERTScore"] == pytest.approx(sum(scores) / 3)
    with pytest.raises(ValueError, match="has layers 1 to 3, not 4"):
        BertScore(tiny_bert, layer=4)


def test_script_takes_a_bertscore_model(tiny_bert, tmp_path, capsys):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(some_predictions("crash_description")))
    words = ["--predictions", str(path), "--no-meteor", "--bertscore-model"]
    assert main("crash_description", [*words, str(tiny_bert)]) == 0
    assert json.loads((tmp_path / "p_metrics.json").read_text())["BERTScore"] == pytest.approx(1.0, abs=1e-5)
    assert main("crash_description", [*words, str(tmp_path)]) == 1
    assert "no config.json in it" in capsys.readouterr().err


def interval(gt_start, gt_end, pred_start, pred_end, **extra) -> dict:
    return {
        "video_path": "x.mp4",
        "gt_start": gt_start,
        "gt_end": gt_end,
        "pred_start": pred_start,
        "pred_end": pred_end,
        **extra,
    }


@pytest.mark.parametrize(
    ("truth", "answer", "iou"),
    [
        ((1, 3), (1, 3), 1.0),
        ((1, 3), (3, 1), 1.0),
        ((3, 1), (2, 4), 1 / 3),
        ((0, 1), (2, 3), 0.0),
        ((0, 1), (1, 2), 0.0),
        ((2, 2), (2, 2), 0.0),
        ((0, 4), (1, 2), 0.25),
    ],
)
def test_interval_iou(truth, answer, iou):
    assert interval_iou(truth, answer) == pytest.approx(iou)


def test_crash_localization_counts():
    records = [
        interval(1.0, 3.0, 3.0, 1.0),  # swapped ends
        interval(2.0, 2.0, 2.0, 2.0),  # empty union
        interval(1.0, 3.0, None, None),  # a refusal
        interval(1.0, 3.0, float("nan"), 2.0),
        interval(1.0, 3.0, None, None, error="truncated"),
        interval(None, None, 1.0, 2.0),
    ]
    sums = crash_localization_sums(records)
    metrics, released = sums.metrics(), sums.metrics("released")
    counts = ("num_records", "num_scored", "num_unparsed", "num_failed", "num_no_truth", "num_swapped")
    assert [metrics[key] for key in counts] == [6, 2, 2, 1, 1, 1]
    assert metrics["num_empty_truth"] == 1
    assert released["mIoU"] == released["AP@70"] == 0.5
    assert metrics["mIoU"] == metrics["AP@30"] == 1 / 5
    assert metrics["start_MAE"] == metrics["end_MAE"] == 0.0


@pytest.mark.parametrize(
    ("answer", "expected_score"),
    [(5.0, 0.0), (6.0, 0.0), (2.4, 0.0), (2.5, 1.0), (3.0, 1.0), (4.0, 0.5), (3.5, 0.75)],
)
def test_first_sign_score(answer, expected_score):
    assert first_sign_score(crash_start=5.0, truth=3.0, answer=answer) == pytest.approx(expected_score)


def first_sign(video: str, truth: float, answer: float | None, **extra) -> dict:
    return {"video_path": f"data/videos/{video}.mp4", "gt_time": truth, "pred_time": answer, **extra}


def test_pre_crash_localization_counts():
    records = [
        first_sign("a", 3.0, 4.0),  # 0.5
        first_sign("a", 3.0, 5.0),  # late
        first_sign("a", 3.0, 1.0),  # too early
        first_sign("a", 3.0, None),  # a refusal
        first_sign("a", 3.0, None, error="gone"),
        first_sign("a", 5.0, 4.0),  # no time to accident
        first_sign("unknown", 3.0, 3.0),
        first_sign("unknown", 3.0, 3.0, crash_start=4.0),  # carries its own
    ]
    sums = pre_crash_localization_sums(records, {"a.mp4": 5.0})
    metrics, released = sums.metrics(), sums.metrics("released")
    counts = ("num_scored", "num_unparsed", "num_failed", "missing_video_count", "bad_gt_tta_count")
    assert [metrics[key] for key in counts] == [4, 1, 1, 1, 1]
    assert metrics["late_pred_count"] == metrics["too_early_pred_count"] == 1
    assert released["mIoU"] == 1.5 / 4 and metrics["mIoU"] == 1.5 / 6
    assert released["mTTA_gt"] == 7 / 4 and released["mTTA_pred"] == (1 + 0 + 4 + 1) / 4
    assert metrics["mTTA_pred"] == 1.0 and released["TTA_MAE"] == (1 + 2 + 2 + 0) / 4


def test_metrics_import_no_torch():
    code = "import sys, crashchat.metrics.score, crashchat.metrics.lookfree; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_video_name():
    assert video_name("data/videos/x.mp4") == video_name("videos/x.mp4") == video_name("C:\\videos\\x.mp4") == "x.mp4"


def test_crash_starts_of_one_name_twice(tmp_path):
    def annotation(video: str, answer: str) -> dict:
        prompt = f"<video>\n{TASKS['crash_localization'].prompt}"
        turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]
        return {"video": [video], "conversations": turns}

    path = tmp_path / "a.json"
    path.write_text(json.dumps([annotation("v/x.mp4", "1.0 - 2.0 seconds"), annotation("w/y.mp4", "3.0 - 4.0 seconds")]))
    assert read_crash_starts(path) == {"x.mp4": 1.0, "y.mp4": 3.0}
    path.write_text(json.dumps([annotation("v/x.mp4", "1.0 - 2.0 seconds"), annotation("w/x.mp4", "3.0 - 4.0 seconds")]))
    with pytest.raises(PredictionError, match="two videos are called x.mp4"):
        read_crash_starts(path)


# ------------------------------------------------------------------------------------------- the scripts themselves


def run_script(task_name: str, *arguments: str | Path, cwd: Path, **changed: str) -> subprocess.CompletedProcess:
    script = ROOT / "scripts/eval" / f"compute_{task_name}_metrics.py"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | changed
    command = [sys.executable, script, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def some_predictions(task_name: str) -> list[dict]:
    task = TASKS[task_name]
    numbers = task.group == "perception"
    fields = dict.fromkeys(
        (*task.gt_fields, *task.pred_fields), 1.5 if numbers else "No" if "label" in task.gt_fields[0] else "car hits a car"
    )
    common = {"prompt": "", "raw_response": "", "crash_start": 3.0}
    return [{"data_id": n, "video_path": f"data/videos/{n}.mp4", **common, **fields} for n in range(3)]


@pytest.mark.parametrize("task_name", TASKS)
def test_script_finds_the_newest_predictions(task_name, tmp_path, monkeypatch, capsys):
    for age, model in enumerate(("new", "old")):
        path = prediction_path(tmp_path / "outputs", task_name, model)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(some_predictions(task_name)))
        os.utime(path, (1e9 - age, 1e9 - age))
    monkeypatch.chdir(tmp_path)
    assert main(task_name, ["--no-meteor"]) == 0
    told = capsys.readouterr().out
    newest = prediction_path(tmp_path / "outputs", task_name, "new")
    written = newest.with_name(f"{newest.stem}_metrics.json")
    metrics = json.loads(written.read_text())
    assert metrics["num_records"] == metrics["num_scored"] == 3
    rows = list(csv.reader(written.with_suffix(".csv").open()))
    assert rows[0] == ["metric", "value", "low", "high"] and ["num_records", "3", "", ""] in rows
    assert "released" in told and "strict" in told
    # The scores beside the predictions are not taken for predictions.
    assert newest_predictions(task_name, tmp_path / "outputs") == newest


@pytest.mark.parametrize("task_name", TASKS)
def test_script_scores_a_released_file_in_the_released_terms(shared, task_name, tmp_path, capsys):
    out = tmp_path / "new" / "scores.json"
    words = ["--predictions", str(golden(shared, task_name)), "--out", str(out), "--no-meteor"]
    if task_name == "pre_crash_localization":
        assert main(task_name, words) == 1 and "give --crash-annotations FILE" in capsys.readouterr().err
        assert not out.exists()
        words += ["--crash-annotations", str(shared / CRASHES)]
    assert main(task_name, [*words, "--protocol", "released"]) == 0
    released, found = expected(shared)[task_name], json.loads(out.read_text())
    assert found["protocol"] == "released"
    assert {key: found[key] for key in released} == pytest.approx(released, abs=1e-9, rel=0)
    assert out.with_suffix(".csv").exists()
    # Without the option every question counts; nothing is lost either way.
    assert main(task_name, words) == 0
    strict = json.loads(out.read_text())
    assert strict["protocol"] == "strict"
    assert {key: strict[key] for key in found["strict"]} == found["strict"]
    assert {key: found[key] for key in strict["released"]} == strict["released"]


def test_script_compares_two_models(tmp_path, capsys):
    records = some_predictions("crash_recognition")
    for name, answer in (("right", "No"), ("wrong", "Yes")):
        (tmp_path / f"{name}.json").write_text(json.dumps([{**record, "pred_label": answer} for record in records]))
    (tmp_path / "fewer.json").write_text(json.dumps(records[:2]))
    words = ["--predictions", str(tmp_path / "right.json"), "--out", str(tmp_path / "out.json"), "--against"]
    assert main("crash_recognition", [*words, str(tmp_path / "wrong.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())["against"]["Accuracy"]
    assert found == {"value": 1.0, "low": 1.0, "high": 1.0, "p": pytest.approx(2 / 1001)}
    assert re.search(r"Accuracy +\+1\.0000 +\+1\.0000 – \+1\.0000 +0\.0020", capsys.readouterr().out)
    assert main("crash_recognition", [*words, str(tmp_path / "fewer.json")]) == 1
    assert "1 videos are in only one of the two" in capsys.readouterr().err


def test_script_help_has_an_example(tmp_path):
    done = run_script("crash_recognition", "--help", cwd=tmp_path)
    assert done.returncode == 0 and "example: python scripts/eval/compute_crash_recognition_metrics.py" in " ".join(
        done.stdout.split()
    )


def test_bad_use_is_an_error_exit(tmp_path, capsys):
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(some_predictions("crash_description")))
    done = run_script("crash_recognition", "--predictions", wrong, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "holds crash_description predictions, expected crash_recognition" in done.stderr
    assert list(tmp_path.iterdir()) == [wrong]
    done = run_script("crash_recognition", cwd=tmp_path)
    assert done.returncode == 1 and "looked for outputs/crash_recognition_evaluation_results" in done.stderr
    assert main("crash_recognition", ["--predictions", str(tmp_path / "none.json")]) == 1
    assert "none.json: cannot be read" in capsys.readouterr().err
    good = tmp_path / "good.json"
    good.write_text(json.dumps(some_predictions("pre_crash_localization")))
    bad_annotations = ["--predictions", str(good), "--crash-annotations", str(wrong)]
    assert main("pre_crash_localization", bad_annotations) == 1
    assert "cannot be used" in capsys.readouterr().err


def test_probabilities_are_ranked_and_calibrated():
    """Against figures worked out by hand: one pair of six is in the wrong order, and a tie counts half."""
    pairs = [("Yes", 0.9), ("Yes", 0.6), ("No", 0.7), ("No", 0.2), ("Yes", 0.8)]
    records = [{"gt_label": label, "crash_probability": probability} for label, probability in pairs]
    found = probability_scores(records)
    assert found["ROC_AUC"] == pytest.approx(5 / 6)
    assert found["average_precision"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert found["calibration_error"] == pytest.approx((0.1 + 0.4 + 0.7 + 0.2 + 0.2) / 5)
    tied = [{"gt_label": label, "crash_probability": 0.5} for label in ("Yes", "No", "No")]
    assert probability_scores(tied)["ROC_AUC"] == pytest.approx(0.5)
    assert set(probability_scores([{"gt_label": "Yes"}]).values()) == {None}
    assert probability_scores(records[:2])["ROC_AUC"] is None
