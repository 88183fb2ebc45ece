"""Damaged annotations, configs, predictions and checkpoint folders: an error line or a valid result,
never a traceback.
"""

import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path

import yaml
from safetensors.torch import load_file

from crashchat.__main__ import main as crashchat_main
from crashchat.checkpoints import convert, merge
from crashchat.config import load_config
from crashchat.data.predictions import make_record
from crashchat.evaluation import evaluate, score
from crashchat.provenance import CARD_FILE
from crashchat.settings import TrainConfig
from crashchat.tasks import TASKS
from crashchat.training import train
from tests.faults.bench import TINY_BASE, Bench, Row, drawing, unclear
from tests.faults.running import Verdict, call
from tests.helpers.mutations import EXECUTED, damage_checkpoint, mutate_json, mutate_yaml

LONGEST = 20_000  # characters that a command may say; what was damaged is not to be repeated whole
SECONDS = 120.0
ASKED = ["limit=2", "max_new_tokens=4", "num_workers=0"]


def run(kind: str, bench: Bench, seed: int, numbers: Iterable[int]) -> Row:
    """kind: a key of JUDGES."""
    work = bench.folder / kind
    work.mkdir()
    bench.prepare(adapter=kind == "checkpoints")
    row = Row(f"{kind} with a fault")
    jobs = {number: (kind, seed, number, work, bench.data, bench.adapter) for number in numbers}
    for number, ended, loss in bench.workers.map(judge, jobs, SECONDS):
        row.add(number, ended, loss)
    return row


def judge(kind: str, seed: int, number: int, work: Path, data: Path, adapter: Path) -> Verdict:
    """Damage one file and use it."""
    draw = drawing(kind, seed, number)
    folder = work / str(number)
    folder.mkdir()
    code, said, wrong, what = JUDGES[kind](draw, folder, data, adapter)
    wrong = wrong or unclear(code, said)
    if not wrong and len(said) > LONGEST:
        wrong = f"says {len(said):,} characters"
    if (folder / EXECUTED).exists() or any(folder.rglob(EXECUTED)):
        wrong = "code in a file was run"
    if wrong:
        return "", f"{what[:160]}: {wrong}"
    shutil.rmtree(folder)
    return ("refused" if code else "used"), ""


def _write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return f"{path.name}: {repr(text)[:100]}"


def _annotations(draw, folder: Path, data: Path, adapter: Path) -> tuple[int, str, str, str]:
    """A test annotation file, read by an evaluation."""
    task = draw.choice(list(TASKS))
    name = TASKS[task].annotation_file("test")
    text = mutate_json((data / name).read_text(), draw.randrange(2**32))
    what = _write(folder / name, text)
    (folder / "videos").symlink_to(data / "videos")
    words = [
        f"tasks={task}",
        f"data_dir={folder}",
        f"model={TINY_BASE}",
        f"output_dir={folder / 'out'}",
        *ASKED,
    ]
    code, said = call(evaluate.main, "configs/eval/all_tasks.yaml", *words)
    wrong = ""
    if code == 0:
        records = [json.dumps(record, sort_keys=True) for record in json.loads(text)]
        if len(set(records)) < len(records) and not any(
            word in said for word in ("twice", "more than once", "again", "same")
        ):
            wrong = "a record that is there twice is used once, without a word"
    return code, said, wrong, what


def _configs(draw, folder: Path, data: Path, adapter: Path) -> tuple[int, str, str, str]:
    """A training's settings. What is accepted ends at a folder without annotations, before anything slow."""
    values = TrainConfig(output_dir=folder / "out", base_model=TINY_BASE, data_dir=data).model_dump(
        mode="json"
    )
    path = folder / "config.yaml"
    what = _write(path, mutate_yaml(yaml.safe_dump(values), draw.randrange(2**32)))
    overrides = [f"data_dir={folder / 'nowhere'}", f"output_dir={folder / 'out'}"]
    code, said = call(train.main, str(path), *overrides)
    if "no annotation file" not in said:
        return code, said, "", what
    config = load_config(TrainConfig, path, overrides)
    odd = {key: value for key, value in config if isinstance(value, float) and not math.isfinite(value)}
    return 0, said, f"accepts {odd}" if odd else "", what


def _predictions(draw, folder: Path, data: Path, adapter: Path) -> tuple[int, str, str, str]:
    """A prediction file, scored."""
    task = TASKS[draw.choice(list(TASKS))]
    records = []
    for number, annotated in enumerate(json.loads((data / task.annotation_file("test")).read_text())):
        answer = annotated["conversations"][1]["value"]
        start = 2.0 if task.name == "pre_crash_localization" else None
        probability = 0.5 if task.name == "crash_recognition" else None
        records.append(
            make_record(
                task,
                number,
                video_path=annotated["video"][0],
                prompt=task.prompt,
                raw_response=answer,
                answer=answer,
                crash_start=start,
                crash_probability=probability,
            )
        )
    path = folder / "predictions.json"
    what = _write(path, mutate_json(json.dumps(records), draw.randrange(2**32)))
    words = ["--predictions", str(path), "--out", str(folder / "scores.json"), "--no-meteor"]
    code, said = call(score.main, task.name, *words)
    wrong = ""
    if code == 0:
        for name, value in _numbers(json.loads((folder / "scores.json").read_text())):
            if not math.isfinite(value):
                wrong = f"{name} is {value}"
    return code, said, wrong, what


def _numbers(value: object, name: str = "scores"):
    """(place, number) of all numbers in a JSON value."""
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers(one, f"{name}.{key}")
    elif isinstance(value, float):
        yield name, value


def _checkpoints(draw, folder: Path, data: Path, adapter: Path) -> tuple[int, str, str, str]:
    """A base or adapter folder, evaluated, converted, merged or used to analyze a clip."""
    base, trained, out = shutil.copytree(TINY_BASE, folder / "base"), folder / "adapter", folder / "out"
    trained.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", CARD_FILE):
        shutil.copyfile(adapter / name, trained / name)
    use = draw.choice(("evaluate", "analyze", "convert", "merge", "evaluate with adapter", "convert adapter"))
    on_adapter = use in ("evaluate with adapter", "convert adapter") or (
        use == "merge" and draw.random() < 0.5
    )
    what = f"{use}: {damage_checkpoint(trained if on_adapter else base, draw.randrange(2**32))}"
    clip = sorted((data / "videos").glob("test_*"))[0]
    if use.startswith("evaluate"):
        words = [f"model={base}", f"data_dir={data}", f"output_dir={out}", *ASKED]
        words += [f"adapter={trained}"] if on_adapter else []
        code, said = call(evaluate.main, "configs/eval/all_tasks.yaml", *words)
    elif use == "analyze":
        words = ["analyze", str(clip), "--model", str(base), "--out", str(out), "--max-new-tokens", "4"]
        code, said = call(crashchat_main, *words)
        if code == 1 and "failed: " in said:  # the clip's card says why
            said += "\nerror: as the card says"
    elif use == "merge":
        code, said = call(merge.main, "--base", str(base), "--adapter", str(trained), "--out", str(out))
    else:
        to = "hub" if use == "convert" and draw.random() < 0.5 else "local"
        code, said = call(convert.main, str(trained if on_adapter else base), str(out), "--to", to)
    wrong = ""
    if code == 0:
        if ": NaN in" in what or ": infinity in" in what:
            wrong = "weights that are no numbers are used without a word"
        elif not out.exists():
            wrong = "nothing was written"
        for path in out.rglob("*.safetensors"):
            load_file(path)
    elif out.exists() and use not in ("evaluate", "analyze", "evaluate with adapter"):
        wrong = f"exit code {code}, and {out.name} is there"
    return code, said, wrong, what


JUDGES = {
    "annotations": _annotations,
    "configs": _configs,
    "predictions": _predictions,
    "checkpoints": _checkpoints,
}
