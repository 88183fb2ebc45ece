"""Texts judged by a language model: a server that follows a rule, one that breaks, a tiny model."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from crashchat.config import ROOT
from crashchat.data.labels import LabelError, read_labels
from crashchat.data.predictions import make_record
from crashchat.evaluation.judges import KEY, RIGHT, WRONG, AddressJudge, FolderJudge, JudgeError, open_judge
from crashchat.evaluation.score import main
from crashchat.files import write_json_atomic
from crashchat.tasks import TASKS
from tests.helpers.judging import erring, gullible, serving

TASK = TASKS["causal_reasoning"]
QUESTION = "<reference>\ncar 1 skids\n</reference>\n<answer>\ncar 1 slips\n</answer>"


def said(number: int, right: bool) -> str:
    return f"ice, on which car {number if right else 1000 + number} slides"


def write_files(folder: Path, videos: int, share: float, labels: int = 20, silent: int = 0) -> list[str]:
    """Predictions of which a share is right, the last `silent` of them empty, and labels of as many right as
    wrong answers; returns the words of the command but for the judge.
    """
    answers = [said(number, number < share * videos) for number in range(videos - silent)] + [""] * silent
    write_json_atomic(
        folder / "p.json",
        [
            make_record(
                TASK,
                number,
                video_path=f"data/videos/{number}.mp4",
                prompt=TASK.prompt,
                raw_response=answer,
                answer=f"car {number} skids on ice",
            )
            for number, answer in enumerate(answers)
        ],
    )
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["who", "video", "task", "answer", "correct"])
        for number in range(2 * labels):
            right, video = number % 2 == 0, number // 2
            answer = f"car {video if right else 2000 + video} had summer tyres"
            writer.writerow(["a", f"{video}.mp4", TASK.name, answer, int(right)])
        writer.writerow(["a", "elsewhere.mp4", "crash_description", "car hits a car", 1])
    files = ["--predictions", str(folder / "p.json"), "--labels", str(folder / "labels.csv")]
    return [TASK.name, *files, "--data-dir", str(folder / "none"), "--no-meteor"]


def at(server) -> list[str]:
    return ["--judge", server.address, "--judge-name", "ruled"]


def judged(folder: Path) -> dict:
    return json.loads((folder / "p_metrics.json").read_text())["judge"]


def test_the_corrected_figure_covers_the_truth_where_the_raw_one_does_not(tmp_path, capsys):
    words = write_files(tmp_path, videos=300, share=0.3, labels=150)
    with serving(erring(missed=10, passed=30)) as server:
        assert main([*words, *at(server)]) == 0
    told, found = capsys.readouterr().out, judged(tmp_path)
    assert abs(found["sensitivity"] - 0.9) < 0.1 and abs(found["specificity"] - 0.7) < 0.1
    answers = found["answers"]
    low, high = answers["intervals"]["corrected"]
    assert 0 < low <= 0.3 <= high < answers["raw"] and answers["num_asked"] == 300
    # The raw figure stands nowhere without the corrected one and its interval.
    line = f"{answers['raw']:.4f} {answers['corrected']:.4f} {low:.4f} – {high:.4f}"
    assert f"these answers {answers['num_judged_right']} of 300 {line}" in re.sub(" +", " ", told)
    assert "its 1 labels of other tasks are not used" in told
    assert len(found["rubric"]) == 64 and found["judge"] == {"address": server.address, "model": "ruled"}
    cells = {row["metric"]: row for row in csv.DictReader((tmp_path / "p_metrics.csv").open())}
    assert float(cells["judge.answers.corrected"]["low"]) == low and "judge.answers.raw" in cells


def test_controls_tell_a_judge_that_takes_everything(tmp_path, capsys):
    words = write_files(tmp_path, videos=20, share=0.5, silent=4)
    with serving(gullible) as server:
        assert main([*words, *at(server), "--controls"]) == 0
    told, found = capsys.readouterr().out, judged(tmp_path)
    assert set(found["controls"]) == {"empty", "no accident", "most frequent", "swapped", "padded", "padding"}
    assert [name for name, row in found["controls"].items() if row["passes"]] == ["padded"]
    assert "of these answers, or above it: padded;" in told and "padded 20 of 20" in re.sub(" +", " ", told)
    assert found["answers"]["corrected"] == found["answers"]["raw"] == 0.5
    assert found["answers"]["intervals"]["corrected"][1] <= 0.8  # the silent ones are wrong for sure
    assert "4 questions have no answer" in told and found["answers"]["num_unanswered"] == 4
    with serving(erring(missed=0, passed=0)) as server:
        assert main([*words, *at(server), "--controls"]) == 0
    assert not any(row["passes"] for row in judged(tmp_path)["controls"].values())
    assert "warning" not in capsys.readouterr().out


def test_a_killed_run_goes_on_and_asks_nothing_twice(tmp_path, capsys):
    words = write_files(tmp_path, videos=30, share=0.5)
    with serving(erring(missed=0, passed=0)) as server:
        server.silent_at = 55  # 40 labels and 15 answers
        command = [sys.executable, "-m", "crashchat", "score", *words, *at(server)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert server.silent.wait(120), process.communicate()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert len(server.answered) == 55 and not (tmp_path / "p_metrics.json").exists()
        server.silent_at = None
        (journal,) = tmp_path.glob("verdicts_*.jsonl")
        with journal.open("ab") as file:
            file.write(b'{"data_id": "half a li')
        assert main([*words, *at(server)]) == 0
        assert set(Counter(server.answered).values()) == {1} and len(server.answered) == 70
        assert main([*words, *at(server)]) == 0 and len(server.answered) == 70
        same = ["--judge", f"{server.address}/", "--judge-name", "ruled"]
        assert main([*words, *same]) == 0 and len(server.answered) == 70
        assert judged(tmp_path)["answers"]["corrected"] == 0.5
        with journal.open("ab") as file:
            file.write(b'{"data_id": "x"}\n')
        capsys.readouterr()
        assert main([*words, *at(server)]) == 1
    assert "a line without a verdict; delete the file to start over" in capsys.readouterr().err


def test_a_judge_no_better_than_chance_is_refused_before_it_judges(tmp_path, capsys):
    words = write_files(tmp_path, videos=30, share=0.5)
    with serving(lambda prompt: "CORRECT") as server:
        assert main([*words, *at(server), "--controls"]) == 1
        assert len(server.answered) == 40
    error = capsys.readouterr().err
    assert "20 of 20 right answers right and 0 of 20 wrong ones wrong, no better than chance" in error
    assert error.count("\n") == 1 and not (tmp_path / "p_metrics.json").exists()


def asked(server, timeout: float = 5.0) -> bool:
    return AddressJudge(server.address, "ruled", timeout=timeout, first_wait=0.001).ask(QUESTION)


def test_what_may_pass_is_tried_again_and_a_verdict_may_be_dressed(monkeypatch):
    monkeypatch.setenv(KEY, "sesame")
    with serving(lambda prompt: "<think>\nit is INCORRECT?\n</think>\n**Verdict: correct.**") as server:
        server.failures = [(503, b"", {}), (500, b"", {}), (429, b"", {"Retry-After": "0"})]
        assert asked(server) and server.requests == 4
        assert server.headers["Authorization"] == "Bearer sesame"
    with serving(lambda prompt: "INCORRECT") as server:
        assert not asked(server)


@pytest.mark.parametrize(
    ("reply", "requests", "message"),
    [
        ((500, b"no memory", {}), 5, "no verdict in 5 tries, the last: status 500, 'no memory'"),
        ((401, b"no key", {}), 1, f"status 401, 'no key'; expected .* with a key in {KEY}"),
        ((307, b"", {"Location": "http://127.0.0.1:9/"}), 1, "status 307"),
        ((200, b"<html>", {}), 1, "is not JSON"),
        ((200, b'{"error": "?"}', {}), 1, "the reply: choices is missing"),
        ((200, b'{"choices": [{"message": {"content": null}}]}', {}), 1, "content: found None"),
        ((200, b'{"choices": []}', {}), 1, "at least 1 item"),
        ((200, b'{"choices": [{"message": {"content": "Both, IN A WAY"}}]}', {}), 1, "is no verdict"),
    ],
)  # fmt: skip
def test_what_gives_no_verdict_is_told_in_a_line(reply, requests, message):
    with serving(gullible) as server:
        server.failures = [reply] * 9
        with pytest.raises(JudgeError, match=message) as error:
            asked(server)
        assert server.requests == requests and "\n" not in str(error.value)


def test_a_judge_that_is_silent_or_gone_is_told_in_a_line(tmp_path, capsys):
    with serving(gullible) as server:
        server.silent_at = 0
        with pytest.raises(JudgeError, match="no verdict in 5 tries, the last: ReadTimeout"):
            asked(server, timeout=0.05)
    with pytest.raises(JudgeError, match="the last: ConnectError"):
        asked(server)
    words = write_files(tmp_path, videos=20, share=0.5)
    with serving(gullible) as server:
        server.failures = [(404, b"no such model", {})]
        assert main([*words, *at(server)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: http://") and "'no such model'" in error and error.count("\n") == 1


def test_what_is_no_judge_is_refused(tmp_path, monkeypatch):
    for place, name, message in (
        ("http://localhost:8000/v1", None, "--judge-name is missing"),
        ("http://user:pass@localhost/v1", "m", "without a user, a password"),
        ("http://localhost:port/v1", "m", "expected an address like"),
        (str(tmp_path), "m", "is no address, and a folder takes no --judge-name"),
        (str(tmp_path), None, "no config.json in it"),
    ):
        with pytest.raises(JudgeError, match=message):
            open_judge(place, name)
    monkeypatch.setenv(KEY, "two words")
    with pytest.raises(JudgeError, match=f"{KEY} holds what no key can"):
        open_judge("http://localhost:8000/v1", "m")
    for words in (["--judge", "x"], ["--labels", "x"]):
        with pytest.raises(SystemExit):
            main([TASK.name, *words])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0.mp4,causal,x,1", "line 42: found the task 'causal', expected crash_description"),
        ("77.mp4,causal_reasoning,x,1", "line 42: found the video '77.mp4', about which no causal_reasoning"),
        ("0.mp4,causal_reasoning,x,yes", "line 42: correct is 'yes', expected 1 or 0"),
        ("0.mp4,causal_reasoning,x", "line 42: 3 cells, expected 4"),
        ("v/0.mp4,causal_reasoning, car 0 1 slips,0", "line 42: labels the same answer of '0.mp4' as line 2"),
        ('0.mp4,causal_reasoning,"x,1', "no CSV file in UTF-8"),
    ],
)
def test_labels_that_cannot_be_used_are_named_by_line(line, message, tmp_path):
    path, videos = tmp_path / "labels.csv", {f"{number}.mp4" for number in range(20)}
    both = [(number, right) for right in (1, 0) for number in range(20)]
    rows = [f"{number}.mp4,causal_reasoning,car {number} {right} slips,{right}" for number, right in both]
    path.write_text("\ufeff" + "\n".join(["video,task,answer,correct", *rows, ""]), encoding="utf-8")
    assert len(read_labels(path, TASK.name, videos).labels) == 40
    path.write_text("\n".join(["video,task,answer,correct", *rows, line, ""]))
    with pytest.raises(LabelError, match=message):
        read_labels(path, TASK.name, videos)
    for text, found in (
        ("video,task,correct\n", "found the columns"),
        ("\n".join(["video,task,answer,correct", *rows[:30]]), None),
        (
            "\n".join(["video,task,answer,correct", *rows[:29]]),
            "9 causal_reasoning answers labelled wrong",
        ),
        ("\n".join(["video,task,answer,correct", *rows[11:]]), "9 causal_reasoning answers labelled right"),
    ):
        path.write_text(text)
        if found is None:
            read_labels(path, TASK.name, videos)
            continue
        with pytest.raises(LabelError, match=found):
            read_labels(path, TASK.name, videos)
    with pytest.raises(LabelError, match="cannot be read: No such file"):
        read_labels(tmp_path / "none.csv", TASK.name, videos)


@pytest.fixture(scope="module")
def tiny_judge(tiny_tokenizer, tmp_path_factory) -> Path:
    """A small Llama with random weights, which knows nothing."""
    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=max(tiny_tokenizer.get_vocab().values()) + 1, max_position_embeddings=4096, **sizes
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("template", [None, "{% for m in messages %}[{{ m.content }}]{% endfor %}Said:"])
def test_a_folder_judges_by_the_likelier_word(tiny_judge, tiny_tokenizer, template, tmp_path):
    folder = shutil.copytree(tiny_judge, tmp_path / "judge")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    if template:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    judge = FolderJudge(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def likelihood(prompt: str, word: str) -> float:
        before, behind = (f"[{prompt}]Said:", word) if template else (prompt, f" {word}")
        start = len(tiny_tokenizer(before)["input_ids"])
        tokens = torch.tensor([tiny_tokenizer(before + behind)["input_ids"]])
        with torch.no_grad():
            chances = model(tokens).logits.log_softmax(dim=-1)[0]
        return sum(float(chances[at - 1, tokens[0, at]]) for at in range(start, tokens.shape[1]))

    for prompt in ("The car slides. Verdict:", "Nothing happens. Verdict:", QUESTION):
        assert judge.ask(prompt) == (likelihood(prompt, RIGHT) > likelihood(prompt, WRONG))
    with pytest.raises(JudgeError, match="is more than the 4096 that it takes"):
        judge.ask("skid " * 5000)


def test_a_model_that_knows_nothing_is_refused(tiny_judge, tmp_path, capsys):
    words = write_files(tmp_path, videos=12, share=0.5, labels=10)
    assert main([*words, "--judge", str(tiny_judge)]) == 1
    assert "no better than chance; take another judge" in capsys.readouterr().err
    weights = shutil.copytree(tiny_judge, tmp_path / "broken") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    assert main([*words, "--judge", str(weights.parent)]) == 1
    error = capsys.readouterr().err
    assert "does not load" in error and error.count("error: ") == 1
