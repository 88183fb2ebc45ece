"""An analysis folder with real clips, as `crashchat analyze` writes one, made without a model."""

from pathlib import Path

from crashchat.analysis.clip import Analysis
from crashchat.analysis.result_files import write_result
from crashchat.analysis.results import ClipResult
from crashchat.tasks import TASKS
from crashchat.video.decode import read_clip
from crashchat.video.film_strip import film_strip
from tests.helpers.flashes import frames, write_video

PART = {"name": "tiny", "sha256": "0" * 64, "trained_on": None, "unknown": []}
SAMPLING = {
    "fps": 1, "max_frames": 20, "token_compression": True, "vision": {}, "windows": {}, "decode": "free",
    "max_new_tokens": 24,
}  # fmt: skip
CRASH = {
    "crash_recognition": "Yes",
    "crash_description": "car hits a car.",
    "causal_reasoning": "The driver did not brake.",
    "prevention_reasoning": "Drivers should keep their distance.",
    "crash_localization": "4.0 - 6.0 seconds",
    "pre_crash_localization": "3.0 seconds",
}
CALM = {name: task.negative_answer for name, task in TASKS.items() if task.negative_answer}


def result_of(
    name: str, path: Path, crash: bool, probability: float, seconds: float = 10.0, **changed
) -> ClipResult:
    """What the cascade would find in a clip."""
    said = CRASH if crash else CALM
    answers = [
        {
            "task": task,
            "adapter": None,
            "raw_response": text,
            "values": TASKS[task].parse(text),
            "parsed": True,
        }
        for task, text in said.items()
    ]
    status = "crash" if crash else "no crash"
    window = {
        "start": 0,
        "end": seconds,
        "status": status,
        "crash_probability": probability,
        "answers": answers,
    }
    event = {
        "start": 4.0, "end": 6.0, "localized": True, "first_sign": 3.0, "crash_probability": probability,
        "description": CRASH["crash_description"], "cause": CRASH["causal_reasoning"],
        "prevention": CRASH["prevention_reasoning"], "window": 0, "windows": [0], "shown": (0, seconds),
    }  # fmt: skip
    values = {
        "name": name, "path": str(path), "bytes": path.stat().st_size if path.is_file() else None,
        "seconds": seconds, "status": status, "crash_probability": probability, "windows": [window],
        "events": [event] if crash else [], "model": {"base": PART, "linguistic": None, "perception": None},
        "sampling": SAMPLING, "versions": {},
    }  # fmt: skip
    return ClipResult.model_validate(values | changed)


def make_analysis(folder: Path, count: int = 10) -> Path:
    """Write clips to folder/clips and their results to folder/analysis; returns the latter.

    Every other clip is a crash, each less sure than the one before; clip03 contradicts itself, clip05 is
    unlike the training data.
    """
    clips, out = folder / "clips", folder / "analysis"
    clips.mkdir(parents=True)
    out.mkdir()
    for number in range(count):
        name, crash = f"clip{number:02d}", number % 2 == 0
        pictures = frames(60 + 5 * (number % 30), 10, (4, 6) if crash else None)
        path = write_video(clips / f"{name}.mp4", pictures)
        changed: dict = {}
        if number == 3:
            changed["status"] = "contradiction"
        if number == 5:
            changed["unlike_training"] = ["Its brightness is 0.10."]
        sure = 0.4 * (1 - number / count) + 0.1
        probability = round(0.5 + sure if crash else 0.5 - sure, 4)
        strip = film_strip(read_clip(path, 1.0, 20, threads=1).frames)
        write_result(out, Analysis(result_of(name, path, crash, probability, **changed), [strip]))
    return out
