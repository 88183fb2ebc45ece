"""What reinforcement on times brings beside supervised training for the same time, over several seeds.

    python benchmarks/reinforcement.py
    python benchmarks/reinforcement.py --seeds 1 --folder /tmp/look     a first look

On the demo's clips, for each seed:

supervised    the heterogeneous strategy, all six tasks
continued     the same training gone on with from there, for as many processor seconds as reinforcement takes
reinforced    from there, half of the loss from annotated answers of the other four tasks
unmixed       from there, on times alone
homogeneous   the homogeneous strategy of perception, times alone
homogeneous, reinforced     from there, on times alone

All answer the questions on the test clips. One process and one core a seed; all lies in one folder; what is
there is not made again, so a second start goes on where the first one ended.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common import machine
from experiments import BASE, TINY, answer, at_root, crashchat, main_figures, table

from crashchat.files import write_json_atomic
from crashchat.reporting.comparison import make_comparison
from crashchat.tasks import TASKS
from crashchat.tasks.quantities import Timed

SUPERVISED, CONTINUED, REINFORCED, UNMIXED = "supervised", "continued", "reinforced", "unmixed"
TIMES, TIMES_REINFORCED = "homogeneous", "homogeneous, reinforced"
ROWS = (SUPERVISED, CONTINUED, REINFORCED, UNMIXED, TIMES, TIMES_REINFORCED)
PAIRS = [
    (SUPERVISED, CONTINUED),
    (SUPERVISED, REINFORCED),
    (CONTINUED, REINFORCED),
    (UNMIXED, REINFORCED),
    (TIMES, TIMES_REINFORCED),
]
ALL_TASKS = "configs/train/heterogeneous.yaml"
ON_TIMES = ("configs/train/reinforce_localization.yaml", "with=configs/train/tiny_reinforce.yaml")
ALONE = ("supervised_tasks=[]", "global_batch_size=0")
FACTS = "facts.json"  # written last of all


@dataclass(frozen=True)
class Seed:
    """All trainings of one seed. data: the clips."""

    folder: Path
    data: Path
    number: int
    steps: int
    rate: str

    def at(self, row: str) -> Path:
        """Where a row's adapter and answers lie."""
        return self.folder / row.replace(", ", "_") / f"seed_{self.number}"

    def answers(self, row: str) -> Path:
        """A row's answers to the test clips."""
        return self.at(row) / "test"

    def facts(self, row: str) -> dict:
        """What a row's training took."""
        return json.loads((self.at(row) / FACTS).read_text(encoding="utf-8"))

    def train(self, row: str, command: str, *words: str, tasks: str = "") -> None:
        """Train a row and ask it, unless that was done before."""
        at = self.at(row)
        if (at / FACTS).is_file():
            return
        shutil.rmtree(at, ignore_errors=True)  # half a training's seconds say nothing
        adapter, started = at / "train", processor_seconds()
        fixed = [
            f"base_model={BASE}",
            f"data_dir={self.data}",
            f"output_dir={adapter}",
            f"seed={self.number}",
        ]
        crashchat(at / "train.log", command, *words, *fixed)
        seconds = processor_seconds() - started
        answer(adapter, self.data, self.answers(row), *([f"tasks={tasks}"] if tasks else []))
        state = json.loads((adapter / "trainer_state.json").read_text(encoding="utf-8"))
        facts = {"row": row, "seed": self.number, "steps": state["global_step"]}
        write_json_atomic(at / FACTS, facts | {"processor_seconds": round(seconds, 1)})
        print(f"seed {self.number}, {row}: {seconds:.0f} s of the processor", flush=True)

    def work(self) -> None:
        """All rows, each after the one that it goes on from."""
        learnt = f"adapter={self.at(SUPERVISED) / 'train'}"
        drawn, times = (*ON_TIMES, f"max_steps={self.steps}"), ",".join(TASKS.task_set.of_kind(Timed))
        self.train(SUPERVISED, "train", ALL_TASKS, TINY)
        self.train(REINFORCED, "reinforce", *drawn, learnt)
        once, stage = self.facts(SUPERVISED), self.facts(REINFORCED)
        same = round(stage["processor_seconds"] * once["steps"] / once["processor_seconds"])
        rates = (f"learning_rate={self.rate}", f"projector_learning_rate={self.rate}") if self.rate else ()
        self.train(CONTINUED, "train", ALL_TASKS, TINY, learnt, f"max_steps={same}", *rates)
        self.train(UNMIXED, "reinforce", *drawn, learnt, *ALONE)
        self.train(TIMES, "train", "configs/train/homogeneous_perception.yaml", TINY, tasks=times)
        start = f"adapter={self.at(TIMES) / 'train'}"
        self.train(TIMES_REINFORCED, "reinforce", *drawn, start, *ALONE, tasks=times)


def processor_seconds() -> float:
    """What this process has taken so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def draw(data: Path) -> None:
    """The demo's clips."""
    crashchat(data.with_suffix(".log"), "synthesize", "--out", data)


def main() -> int:
    """Command line; returns the exit code."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--folder", type=Path, default=Path("outputs/reinforcement"), help="(default %(default)s)"
    )
    made.add_argument("--seeds", type=int, default=5, help="(default %(default)s)")
    made.add_argument("--steps", type=int, default=300, help="of reinforcement (default %(default)s)")
    made.add_argument("--rate", default="", help="learning rate of `continued` (default: that of supervised)")
    made.add_argument("--workers", type=int, default=2, help="seeds at a time (default %(default)s)")
    made.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "reinforcement_cpu.json", help="JSON"
    )
    arguments = made.parse_args()
    at_root()
    folder, data = arguments.folder, arguments.folder / "data"
    chosen = {"steps": arguments.steps, "rate": arguments.rate}
    settings = folder / "settings.json"
    if settings.is_file() and (found := json.loads(settings.read_text())) != chosen:
        raise SystemExit(f"error: {folder} was made with {found}, not {chosen}; name another --folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(settings, chosen)
    seeds = [Seed(folder, data, number, **chosen) for number in range(arguments.seeds)]
    # Forked, as each process of its own would import all again.
    with ProcessPoolExecutor(arguments.workers, multiprocessing.get_context("fork")) as pool:
        pool.submit(draw, data).result()
        for done in [pool.submit(seed.work) for seed in seeds]:
            done.result()
    sums = make_comparison({row: [seed.answers(row) for seed in seeds] for row in ROWS}, data).sums
    figures = {row: main_figures(one) for row, one in sums.items()}
    for row, values in figures.items():
        print(row, {task: round(value, 3) for task, value in values.items()})
    result = {
        "benchmark": "reinforcement",
        "machine": machine(),
        "settings": chosen | {"seeds": arguments.seeds},
        "figures": figures,
        "all figures": {row: {task: one.metrics() for task, one in sums[row].items()} for row in ROWS},
        "differences": table(sums, PAIRS),
        "trainings": [seed.facts(row) for seed in seeds for row in ROWS],
    }
    write_json_atomic(arguments.out, result)
    print(f"written: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
