"""Texts judged right or wrong by a language model, and what its verdicts are worth.

A judge's share of right answers never stands alone: beside it is the share corrected by how often the judge
errs on answers that people labelled (crashchat.metrics.judged), and what the judge says of answers that must
not pass (controls.py). The rubric is fixed. Verdicts are kept beside the scores as they are given, so that no
question is asked twice.
"""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from tqdm import tqdm

from crashchat.data.journals import PredictionJournal
from crashchat.data.labels import Labels, read_labels
from crashchat.data.prediction_files import PredictionFile
from crashchat.data.predictions import video_name
from crashchat.evaluation.controls import control_answers
from crashchat.evaluation.judges import KEY, Judge, JudgeError, open_judge
from crashchat.files import held
from crashchat.metrics.judged import Judged, Part
from crashchat.provenance import file_hash, text_hash
from crashchat.tasks import TASKS, Task

RUBRIC_FILE = Path(__file__).resolve().parents[1] / "templates" / "judge_rubric.txt"
ANSWERS = "these answers"


def add_judge(parser: argparse.ArgumentParser) -> None:
    """The options that ask for a judge."""
    parser.add_argument(
        "--judge",
        metavar="FOLDER_OR_ADDRESS",
        help="have a language model judge each text: a folder of transformers, or what /chat/completions "
        f"follows in an OpenAI-compatible address, http://localhost:8000/v1 (its key: {KEY} in the "
        "environment); with --controls it judges these, too",
    )
    parser.add_argument("--judge-name", metavar="MODEL", help="the model's name at that address")
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="answers that people labelled, which say how often the judge errs: columns video, task, answer "
        "and correct (1 or 0)",
    )


@dataclass(frozen=True)
class Pair:
    """An answer, and the annotated one to hold it against."""

    reference: str
    answer: str


class Verdicts:
    """A judge's verdicts by the rubric on answers to one question, kept in a file as they are given."""

    def __init__(self, judge: Judge, question: str, folder: Path) -> None:
        rubric = RUBRIC_FILE.read_text(encoding="utf-8")
        self.judge, self.question, self.rubric = judge, question, Template(rubric)
        self.rubric_hash = text_hash([rubric])
        self.run = {"judge": judge.identity, "rubric": self.rubric_hash}
        name = text_hash([f"{key} {value}" for key, value in sorted(judge.identity.items())])[:12]
        self.path = folder / f"verdicts_{self.rubric_hash[:12]}_{name}.jsonl"

    def of(self, pairs: Sequence[Pair], title: str) -> list[bool]:
        """Whether each answer is judged right. A pair that was judged before is not asked about again.

        Raises JudgeError where the judge gives no verdict, PredictionError for a file of verdicts that is
        damaged, FolderError where another process writes it.
        """
        prompts = [self._prompt(pair) for pair in pairs]
        keys = [hashlib.sha256(prompt.encode()).hexdigest() for prompt in prompts]
        lock = self.path.with_name(f".{self.path.name}.lock")
        with held(lock, str(self.path)), PredictionJournal(self.path, self.run) as journal:
            known = {str(record["data_id"]): self._kept(record) for record in journal.records}
            new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in known}
            for key, prompt in tqdm(new.items(), desc=title, unit="answer", leave=False, disable=None):
                known[key] = self.judge.ask(prompt)
                journal.append({"data_id": key, "correct": known[key]})
        return [known[key] for key in keys]

    def _prompt(self, pair: Pair) -> str:
        fields = {"question": self.question, "reference": pair.reference, "answer": pair.answer}
        # Half a surrogate pair, which JSON can hold, can be sent nowhere.
        return self.rubric.substitute(fields).strip().encode("utf-8", "replace").decode()

    def _kept(self, record: dict) -> bool:
        if not isinstance(record.get("correct"), bool):
            raise JudgeError(f"{self.path}: a line without a verdict; delete the file to start over")
        return record["correct"]


def judged_scores(arguments: argparse.Namespace, file: PredictionFile, out: Path) -> tuple[dict, str]:
    """What a judge says of a prediction file's texts, for JSON and for the terminal.

    arguments: with the options of `add_judge`, and `controls`. out: the folder that keeps the verdicts.
    Raises LabelError for labels that do not do, JudgeError for a judge that cannot be used, gives no verdict
    or is no better than chance, and what Verdicts.of raises.
    """
    task = TASKS[file.task]
    references = _references(task, file)
    labels = read_labels(arguments.labels, task.name, references)
    verdicts = Verdicts(open_judge(arguments.judge, arguments.judge_name), task.prompt, out)
    quality = _quality(labels, references, verdicts)
    asked = [record for record in file.records if (record[task.gt_fields[0]] or "").strip()]
    if not asked:
        raise JudgeError(f"{file.path}: no record has an annotated answer, so nothing can be judged")
    said = [
        "" if record.get("error") is not None else (record[task.pred_fields[0]] or "") for record in asked
    ]

    def judged(answers: Sequence[str], title: str, ask_empty: bool) -> dict:
        pairs = [
            Pair(record[task.gt_fields[0]], answer)
            for record, answer in zip(asked, answers, strict=True)
            if ask_empty or answer.strip()
        ]
        return _figures(quality(sum(verdicts.of(pairs, title)), len(pairs)), len(asked))

    rows = {ANSWERS: judged(said, "judge", ask_empty=False)}
    if arguments.controls:
        for name, answers in control_answers(task, asked).items():
            rows[name] = judged(answers, f"judge: {name}", ask_empty=True)
    low = rows[ANSWERS]["intervals"]["corrected"][0]
    for name, row in rows.items():
        if name != ANSWERS:
            row["passes"] = row["corrected"] >= low
    errors = quality(0, 0)
    found = {
        **verdicts.run,
        "verdicts": str(verdicts.path),
        "labels": {
            "file": str(labels.path),
            "sha256": file_hash(labels.path),
            "right": errors.sensitivity.number,
            "wrong": errors.specificity.number,
            "of_other_tasks": labels.others,
        },
        "sensitivity": errors.sensitivity.share,
        "specificity": errors.specificity.share,
        "intervals": {
            "sensitivity": list(errors.sensitivity.interval),
            "specificity": list(errors.specificity.interval),
        },
        "answers": rows.pop(ANSWERS),
        "controls": rows,
    }
    return found, _text(found, errors)


def _references(task: Task, file: PredictionFile) -> dict[str, str]:
    """{video: annotated answer} of all questions that have one, whether they have a record or not."""
    field = task.gt_fields[0]
    known = {video_name(record["video_path"]): record[field] or "" for record in file.records}
    if file.truth is not None:
        known |= {
            name: str(task.ground_truth(question.answer)[field] or "")
            for name, (_, question) in file.truth.questions.items()
        }
    return {video: answer for video, answer in known.items() if answer.strip()}


def _quality(labels: Labels, references: dict[str, str], verdicts: Verdicts) -> Callable[[int, int], Judged]:
    """(judged right, judged) -> what that is worth, by the judge's errors on the labelled answers.

    Raises JudgeError for a judge that is no better than chance.
    """
    pairs = [Pair(references[label.video], label.answer) for label in labels.labels]
    agreed: dict[bool, list[bool]] = {True: [], False: []}
    for label, verdict in zip(labels.labels, verdicts.of(pairs, "judge: labels"), strict=True):
        agreed[label.correct].append(verdict == label.correct)
    sensitivity, specificity = (Part(sum(agreed[side]), len(agreed[side])) for side in (True, False))
    if Judged(Part(0, 0), sensitivity, specificity).skill <= 0:
        raise JudgeError(
            f"{labels.path}: the judge calls {sensitivity.hits} of {sensitivity.number} right answers right "
            f"and {specificity.hits} of {specificity.number} wrong ones wrong, no better than chance; take "
            "another judge"
        )
    return lambda right, judged: Judged(Part(right, judged), sensitivity, specificity)


def _figures(judged: Judged, asked: int) -> dict:
    """asked: questions; those without an answer are wrong without a verdict, so that the judge's errors are
    corrected only among the others.
    """
    answered = judged.right.number
    share = answered / asked
    corrected, ends = (judged.corrected, judged.interval) if answered else (0.0, (0.0, 1.0))
    return {
        "num_asked": asked,
        "num_unanswered": asked - answered,
        "num_judged_right": judged.right.hits,
        "raw": judged.right.share * share,
        "corrected": corrected * share,
        "intervals": {"corrected": [end * share for end in ends]},
    }


def _text(found: dict, errors: Judged) -> str:
    judge, labels = found["judge"], found["labels"]
    rows = {ANSWERS: found["answers"], **found["controls"]}
    others = labels["of_other_tasks"]
    others = f"; its {others} labels of other tasks are not used" if others else ""
    parts = [
        f"{name} {part.share:.3f} ({part.hits} of {part.number})"
        for name, part in (("sensitivity", errors.sensitivity), ("specificity", errors.specificity))
    ]
    lines = [
        f"judged by {' '.join(judge[key] for key in ('model', 'address') if key in judge)}, rubric "
        f"{found['rubric'][:12]}…; {', '.join(parts)} on {labels['file']}{others}",
        "corrected: by sensitivity and specificity, with what is not known of them in the interval",
        "",
        f"{'':15}{'judged right':>16}{'raw':>9}{'corrected':>12}{'95% interval':>19}",
    ]
    for name, row in rows.items():
        low, high = row["intervals"]["corrected"]
        of = f"{row['num_judged_right']} of {row['num_asked']}"
        interval = f"{low:.4f} – {high:.4f}"
        lines.append(f"{name:15}{of:>16}{row['raw']:>9.4f}{row['corrected']:>12.4f}{interval:>19}")
    if unanswered := found["answers"]["num_unanswered"]:
        lines.append(f"{unanswered} questions have no answer, and are wrong without a verdict")
    if passing := [name for name, row in found["controls"].items() if row["passes"]]:
        lines.append(
            f"warning: within the interval of these answers, or above it: {', '.join(passing)}; the judge "
            "does not tell them from these answers, or these are no better"
        )
    return "\n".join(lines)
