"""What a review brings: clips that the queue picks, corrected and learnt from, against as many at random.

    python benchmarks/review.py
    python benchmarks/review.py --clips 60 --runs 1 --fleet 120 --test 60     a first look

A model learns on drawn clips of one look (a city by day) and analyzes those of another (night and rain). A
scripted reviewer, who knows what was drawn, goes through the queue as `crashchat review` shows it, or through
the same queue with all clips outside the random share in an order of chance. So both hold the same random
share out, and differ in nothing but what else they see. What each corrected, the deployed model learns by
scripts/train/Continue_from_review.sh; old and new models then answer the questions on other clips by night
and in rain. Every run draws a random share, an order of chance and a training seed of its own.

All lies in one folder; what is there is not made again, so a second start goes on where the first one ended.
"""

import argparse
import json
import multiprocessing
import random
import shutil
import sys
from collections import Counter
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
    finish,
    made_with,
    main_figures,
    table,
    write_result,
)

from crashchat.data.annotations import annotation_paths, load_annotations
from crashchat.files import new_folder, write_json_atomic
from crashchat.reporting.comparison import make_comparison
from crashchat.review.folder import Reviewed, read_folder
from crashchat.review.labels import CONFIRM, CORRECT, Labels, annotated_labels, model_labels
from crashchat.review.queue import RANDOM, full_queue, reasons_of
from crashchat.review.replay import LEARNT
from crashchat.review.store import Store
from crashchat.tasks import TASKS

QUEUE, CHANCE, DEPLOYED = "queue", "random", "deployed"
REVIEWER = "reviewer"
FACTS = "facts.json"  # written last of all


@dataclass(frozen=True)
class World:
    """The folder, and what was drawn, learnt and analyzed once for all reviews."""

    folder: Path

    @property
    def day(self) -> Path:
        """What the deployed model learnt on."""
        return self.folder / "day"

    @property
    def night(self) -> Path:
        """The fleet's clips (its training split) and the held-out ones (its test split)."""
        return self.folder / "night"

    @property
    def deployed(self) -> Path:
        """The deployed model's adapter."""
        return self.folder / DEPLOYED

    @property
    def analysis(self) -> Path:
        """What the deployed model says of the fleet's clips."""
        return self.folder / "analysis"


@dataclass(frozen=True)
class Review:
    """One review and what was learnt from it. run: its random share, order of chance and training seed."""

    world: World
    way: str
    clips: int
    run: int

    @property
    def row(self) -> str:
        """What tables call it, together with its other runs."""
        return f"{self.way} {self.clips}"

    @property
    def folder(self) -> Path:
        """Where all of it lies."""
        return self.world.folder / "reviews" / f"{self.way}_{self.clips}_{self.run}"

    @property
    def answers(self) -> Path:
        """The new model's answers to the held-out clips."""
        return self.folder / "night"

    def picked(self, clips: dict[str, Reviewed], store: Store) -> list[str]:
        """The clips that are reviewed, in their order."""
        queue = full_queue({name: clip.result for name, clip in clips.items()}, store.clips(), self.run)
        if self.way == CHANCE:
            others = [name for name, why in queue if why != RANDOM]
            random.Random(self.run).shuffle(others)
            queue = [(name if why == RANDOM else others.pop(), why) for name, why in queue]
        return [name for name, _ in queue[: self.clips]]

    def decide(self, truth: dict[str, Labels]) -> None:
        """Review a copy of the analysis."""
        with new_folder(self.folder / "analysis") as made:
            for path in self.world.analysis.glob("*.json"):
                shutil.copyfile(path, made / path.name)
            clips, store = read_folder(made), Store(made)
            store.sync(clips, seed=self.run)
            store.add_user(REVIEWER, "reviewer", None)
            for name in self.picked(clips, store):
                clip, labels = clips[name], truth[clips[name].video.stem]
                verdict = CONFIRM if labels == model_labels(clip.result) else CORRECT
                store.decide(clip, REVIEWER, verdict, labels)

    def learn(self, settings: list[str]) -> None:
        """Go on from the deployed model as scripts/train/Continue_from_review.sh does, and answer."""
        data, out, log = self.folder / "data", self.folder / "train", self.folder / "log.txt"
        if not data.is_dir():
            replay = ["--hold-out-random", "--drawn", "--replay", self.world.day]
            crashchat(log, "export-labels", self.folder / "analysis", "--out", data, *replay)
        files = {split: ",".join(map(str, sorted(data.glob(f"*_{split}.json")))) for split in LEARNT}
        words = [f"base_model={BASE}", f"adapter={self.world.deployed}", f"data_dir={data}", TINY]
        words += [f"output_dir={out}", f"seed={self.run}", *settings]
        words.append(f"annotation_files={{{', '.join(f'{split}: [{files[split]}]' for split in files)}}}")
        crashchat(log, "train", "configs/train/heterogeneous.yaml", *words)
        answer(out, self.world.night, self.answers)

    def work(self, settings: list[str], truth: dict[str, Labels]) -> None:
        """All of it, as far as it was not done before."""
        if not (self.folder / FACTS).is_file():
            if not (self.folder / "analysis").is_dir():
                self.decide(truth)
            self.learn(settings)
            write_json_atomic(self.folder / FACTS, self.facts())
        print(f"{self.row}, run {self.run}: done", flush=True)

    def facts(self) -> dict:
        """What was reviewed, and what came of it besides the answers."""
        clips, store = read_folder(self.folder / "analysis"), Store(self.folder / "analysis")
        rows, decisions = store.clips(), store.decisions()
        learnt = [one for one in decisions if not rows[one.clip].random]
        reasons = Counter(reasons_of(clips[one.clip].result)[0] for one in learnt)
        return {
            "row": self.row,
            "run": self.run,
            "reviewed": len(decisions),
            "to learn from": len(learnt),
            "crashes": sum(bool(one.after.crash) for one in learnt),
            "crash or not was wrong": sum(one.after.crash != one.before.crash for one in learnt),
            "reasons": dict(reasons),
        }


def make_world(world: World, arguments: argparse.Namespace, chosen: dict) -> None:
    """Draw, train, analyze. chosen: what everything in the folder is made with."""
    folder = world.folder
    if made_with(folder / FACTS, chosen):
        return
    counts = ["--train", arguments.train, "--val", arguments.train // 6, "--test", 40]
    looks = ["--skies", "day", "--roadsides", "buildings", "--seed", 0]
    crashchat(folder / "day.log", "synthesize", "--out", world.day, *counts, *looks)
    counts = ["--train", arguments.fleet, "--val", 2, "--test", arguments.test]
    looks = ["--skies", "night", "rain", "--seed", 1]
    crashchat(folder / "night.log", "synthesize", "--out", world.night, *counts, *looks)
    if not (world.deployed / "adapter_model.safetensors").is_file():
        words = [TINY, f"data_dir={world.day}", f"output_dir={world.deployed}"]
        crashchat(folder / "deployed.log", "train", "configs/train/heterogeneous.yaml", *words)
    print("the deployed model is trained", flush=True)
    clips = sorted((world.night / "videos").glob("train_*.mp4"))
    model = ["--model", BASE, "--linguistic", world.deployed, "--perception", world.deployed]
    crashchat(folder / "analysis.log", "analyze", *clips, "--out", world.analysis, *model, "--resume")
    print("the fleet's clips are analyzed", flush=True)
    answer(world.deployed, world.night, folder / "deployed_night")
    write_json_atomic(folder / FACTS, chosen)


def truth_of(data_dir: Path) -> dict[str, Labels]:
    """{clip: what was drawn}."""
    return {
        video.path.stem: annotated_labels({one.task: one.answer for one in video.questions if one.task})
        for video in load_annotations(annotation_paths(data_dir, TASKS, "train"), data_dir)
    }


def main() -> int:
    """Command line; returns the exit code."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--folder", type=Path, default=Path("outputs/review"), help="(default %(default)s)")
    made.add_argument("--clips", type=int, nargs="+", default=[30, 60], help="reviewed (default 30 60)")
    made.add_argument("--runs", type=int, default=3, help="reviews of each kind (default %(default)s)")
    made.add_argument("--train", type=int, default=240, help="clips by day (default %(default)s)")
    made.add_argument("--fleet", type=int, default=300, help="clips analyzed (default %(default)s)")
    made.add_argument("--test", type=int, default=200, help="held-out clips (default %(default)s)")
    made.add_argument("--workers", type=int, default=2, help="reviews learnt from at a time (default 2)")
    made.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "review_cpu.json", help="JSON file"
    )
    made.add_argument("settings", nargs="*", metavar="key=value", help="of learning again, e.g. epochs=12")
    arguments = made.parse_args()
    at_root()
    world = World(arguments.folder)
    reviews = [
        Review(world, way, clips, number)
        for number in range(arguments.runs)
        for clips in arguments.clips
        for way in (QUEUE, CHANCE)
    ]
    settings = ["epochs=4", "eval_steps=10", "save_steps=10", *arguments.settings]
    chosen = {name: getattr(arguments, name) for name in ("train", "fleet", "test")} | {"training": settings}
    # Forked, as each process of its own would import all again.
    with ProcessPoolExecutor(arguments.workers, multiprocessing.get_context("fork")) as pool:
        pool.submit(make_world, world, arguments, chosen).result()
        truth = truth_of(world.night)
        finish(pool, [partial(review.work, settings, truth) for review in reviews])
    rows = {DEPLOYED: [world.folder / "deployed_night"]}
    for review in reviews:
        rows.setdefault(review.row, []).append(review.answers)
    sums = make_comparison(rows, world.night).sums
    gains = table(sums, [(DEPLOYED, row) for row in rows if row != DEPLOYED])
    most = f"{CHANCE} {max(arguments.clips)}"
    pairs = [(f"{CHANCE} {clips}", f"{QUEUE} {clips}") for clips in arguments.clips]
    pairs += [(most, f"{QUEUE} {clips}") for clips in arguments.clips if clips < max(arguments.clips)]
    against = table(sums, pairs)
    facts = [json.loads((review.folder / FACTS).read_text()) for review in reviews]
    print("\n".join(map(str, facts)))
    parts = {
        "settings": {"clips": arguments.clips, "runs": arguments.runs, **chosen},
        "figures": {row: main_figures(one) for row, one in sums.items()},
        "gains": gains,
        "queue against random": against,
        "reviews": facts,
    }
    write_result(arguments.out, "review", parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
