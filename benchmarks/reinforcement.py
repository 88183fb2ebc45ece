"""What reinforcement on times brings beside supervised training for the same time, over several seeds.

    python benchmarks/reinforcement.py     scores the answers in results/reinforcement
    python benchmarks/reinforcement.py --folder outputs/again --answers outputs/again/answers
                                           trains all again, which takes hours

On the demo's clips, for each seed:

supervised    the heterogeneous strategy, all six tasks
continued     the same training gone on with from there, for as long as reinforcement takes
reinforced    from there, half of the loss from annotated answers of the other four tasks
unmixed       from there, on times alone
homogeneous   the homogeneous strategy of perception, times alone
homogeneous, reinforced     from there, on times alone

and of `supervised` and `reinforced`, without more training:

…, asked again     asked for the times once more, of the part around its first answers
…, read            times read off heads that were found on 120 training clips (crashchat find-heads)
…, looked again    asked for the times once more, of the part around those

All answer the questions on the test clips. One process and one core a seed; all lies in one folder; what is
there is not made again, so a second start goes on where the first one ended. The answers of a whole seed are
put into one file in --answers, and a seed whose file is there is scored without being trained.
"""

import argparse
import io
import json
import multiprocessing
import shutil
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from experiments import (
    BASE,
    TINY,
    answer,
    at_root,
    crashchat,
    find_heads,
    finish,
    made_with,
    main_figures,
    processor_seconds,
    table,
    write_result,
)

from crashchat.evaluation.find_heads import HEADS_FILE
from crashchat.files import write_bytes_atomic, write_json_atomic
from crashchat.reporting.comparison import make_comparison
from crashchat.tasks import TASKS
from crashchat.tasks.quantities import Timed

SUPERVISED, CONTINUED, REINFORCED, UNMIXED = "supervised", "continued", "reinforced", "unmixed"
TIMES, TIMES_REINFORCED = "homogeneous", "homogeneous, reinforced"
TRAINED = (SUPERVISED, CONTINUED, REINFORCED, UNMIXED, TIMES, TIMES_REINFORCED)
ASKED_AGAIN, READ, LOOKED_AGAIN = "asked again", "read", "looked again"
UNTRAINED = {
    row: [f"{row}, {way}" for way in (ASKED_AGAIN, READ, LOOKED_AGAIN)] for row in (SUPERVISED, REINFORCED)
}
ROWS = (*TRAINED, *(other for others in UNTRAINED.values() for other in others))
PAIRS = [
    (SUPERVISED, CONTINUED),
    (SUPERVISED, REINFORCED),
    (CONTINUED, REINFORCED),
    (UNMIXED, REINFORCED),
    (TIMES, TIMES_REINFORCED),
    *((row, other) for row, others in UNTRAINED.items() for other in others),
]
HEADS_CLIPS, HEADS_SECONDS = 120, 2
ALL_TASKS = "configs/train/heterogeneous.yaml"
ON_TIMES = ("configs/train/reinforce_localization.yaml", "with=configs/train/tiny_reinforce.yaml")
ALONE = ("supervised_tasks=[]", "global_batch_size=0")
STEPS = {SUPERVISED: 100, REINFORCED: 50}  # until the first validation
DONE, SECONDS, SETTINGS = "done", "seconds.json", "settings.json"


@dataclass(frozen=True)
class Seed:
    """All trainings of one seed, each in a folder that it goes on from after a kill. data: the clips."""

    folder: Path
    data: Path
    number: int

    def at(self, row: str) -> Path:
        """Where a row's adapter and answers lie."""
        return self.folder / row.replace(", ", "_").replace(" ", "_") / f"seed_{self.number}"

    def adapter(self, row: str) -> Path:
        """A row's adapter."""
        return self.at(row) / "train"

    def answers(self, row: str) -> Path:
        """A row's answers to the test clips."""
        return self.at(row) / "test"

    def train(self, row: str, command: str, *words: str, tasks: str = "") -> None:
        """Train a row and ask it, as far as it was not done before."""
        done = self.at(row) / DONE
        if done.is_file():
            return
        run(self.at(row), self.data, command, *words, f"seed={self.number}")
        answer(self.adapter(row), self.data, self.answers(row), *([f"tasks={tasks}"] if tasks else []))
        done.touch()
        print(f"seed {self.number}, {row}: done", flush=True)

    def look_twice(self, row: str, tasks: str) -> None:
        """A row's times without more training, see the module's head."""
        asked_again, read, looked_again = UNTRAINED[row]
        heads = self.at(read) / "heads"
        ways = {
            asked_again: [f"around={self.answers(row)}"],
            read: [f"times_from={heads / HEADS_FILE}"],
            looked_again: [f"around={self.answers(read)}", f"around_seconds={HEADS_SECONDS}"],
        }
        for other, words in ways.items():
            done = self.at(other) / DONE
            if done.is_file():
                continue
            if other == read:
                find_heads(self.adapter(row), self.data, heads, f"limit={HEADS_CLIPS}")
            answer(self.adapter(row), self.data, self.answers(other), f"tasks={tasks}", *words)
            done.touch()

    def supervise(self) -> None:
        """The first row, that most others go on from."""
        self.train(SUPERVISED, "train", ALL_TASKS, TINY)

    def packed(self, kept: Path) -> Path:
        """The file in `kept` that has this seed's answers."""
        return kept / f"seed_{self.number}.tar.xz"

    def pack(self, kept: Path) -> None:
        """Put the answers into one file, without the paths of this machine."""
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w:xz") as archive:
            for row in ROWS:
                for path in (self.at(row) / DONE, *sorted(self.answers(row).rglob("*_predict.json"))):
                    text = path.read_text(encoding="utf-8").replace(f"{self.folder.resolve()}/", "")
                    data = text.replace(f"{self.folder}/", "").encode()
                    member = tarfile.TarInfo(str(path.relative_to(self.folder)))
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        write_bytes_atomic(self.packed(kept), made.getvalue())

    def unpack(self, kept: Path) -> None:
        """Take the answers that are in `kept`."""
        if self.packed(kept).is_file():
            with tarfile.open(self.packed(kept)) as archive:
                archive.extractall(self.folder, filter="data")

    def work(self, steps: int, same: int, rate: str, kept: Path) -> None:
        """All rows, each after the one that it goes on from. steps: of reinforcement; same: of supervised
        training for the same time, at this learning rate where one is given. kept: where the answers go.
        """
        self.supervise()
        learnt = f"adapter={self.adapter(SUPERVISED)}"
        drawn, times = (*ON_TIMES, f"max_steps={steps}"), ",".join(TASKS.task_set.of_kind(Timed))
        rates = (f"learning_rate={rate}", f"projector_learning_rate={rate}") if rate else ()
        self.look_twice(SUPERVISED, times)
        self.train(REINFORCED, "reinforce", *drawn, learnt)
        self.look_twice(REINFORCED, times)
        self.train(CONTINUED, "train", ALL_TASKS, TINY, learnt, f"max_steps={same}", *rates)
        self.train(UNMIXED, "reinforce", *drawn, learnt, *ALONE)
        self.train(TIMES, "train", "configs/train/homogeneous_perception.yaml", TINY, tasks=times)
        start = f"adapter={self.adapter(TIMES)}"
        self.train(TIMES_REINFORCED, "reinforce", *drawn, start, *ALONE, tasks=times)
        if not self.packed(kept).is_file():
            self.pack(kept)


def run(at: Path, data: Path, command: str, *words: str) -> None:
    """Train into a folder, or go on with it."""
    fixed = [f"base_model={BASE}", f"data_dir={data}", f"output_dir={at / 'train'}"]
    crashchat(at / "train.log", command, *words, *fixed)


def seconds_a_step(seed: Seed) -> dict[str, float]:
    """{row: what a step of it takes of the processor}, from its start to its first validation, of supervised
    and reinforced training, one behind the other in this process.
    """
    at = seed.folder / "seconds"
    if not (at / SECONDS).is_file():
        seed.supervise()
        learnt, found = f"adapter={seed.adapter(SUPERVISED)}", {}
        ways = {SUPERVISED: ("train", ALL_TASKS, TINY, learnt), REINFORCED: ("reinforce", *ON_TIMES, learnt)}
        for row, words in ways.items():
            shutil.rmtree(at / row, ignore_errors=True)  # half a training's seconds say nothing
            before = processor_seconds()
            run(at / row, seed.data, *words, f"max_steps={STEPS[row]}")
            found[row] = (processor_seconds() - before) / STEPS[row]
        write_json_atomic(at / SECONDS, found)
    return json.loads((at / SECONDS).read_text(encoding="utf-8"))


def draw(data: Path) -> None:
    """The demo's clips."""
    crashchat(data.with_suffix(".log"), "synthesize", "--out", data)


def main() -> int:
    """Command line; returns the exit code."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--folder", type=Path, default=Path("outputs/reinforcement"), help="(default %(default)s)"
    )
    made.add_argument(
        "--answers",
        type=Path,
        default=Path("benchmarks/results/reinforcement"),
        help="of whole seeds, a file each (default %(default)s)",
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
    folder, kept, data = arguments.folder, arguments.answers, arguments.folder / "data"
    chosen = {"steps": arguments.steps, "rate": arguments.rate}
    for at in (kept, folder):
        if not made_with(at / SETTINGS, chosen):
            at.mkdir(parents=True, exist_ok=True)
            write_json_atomic(at / SETTINGS, chosen)
    if (kept / SECONDS).is_file():
        (folder / "seconds").mkdir(exist_ok=True)
        shutil.copyfile(kept / SECONDS, folder / "seconds" / SECONDS)
    seeds = [Seed(folder, data, number) for number in range(arguments.seeds)]
    for seed in seeds:
        seed.unpack(kept)
    # Forked, as each process of its own would import all again.
    with ProcessPoolExecutor(arguments.workers, multiprocessing.get_context("fork")) as pool:
        pool.submit(draw, data).result()
        seconds = pool.submit(seconds_a_step, seeds[0]).result()
        write_json_atomic(kept / SECONDS, seconds)
        same = round(arguments.steps * seconds[REINFORCED] / seconds[SUPERVISED])
        print(f"{arguments.steps} steps of reinforcement take as long as {same} supervised ones", flush=True)
        finish(pool, [partial(seed.work, arguments.steps, same, arguments.rate, kept) for seed in seeds])
    sums = make_comparison({row: [seed.answers(row) for seed in seeds] for row in ROWS}, data).sums
    figures = {row: main_figures(one) for row, one in sums.items()}
    for row, values in figures.items():
        print(row, {task: round(value, 3) for task, value in values.items()})
    parts = {
        "settings": chosen | {"seeds": arguments.seeds},
        "figures": figures,
        "all figures": {row: {task: one.metrics() for task, one in sums[row].items()} for row in ROWS},
        "differences": table(sums, PAIRS),
        "processor seconds a step": seconds,
        "steps of continued": same,
    }
    write_result(arguments.out, "reinforcement", parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
