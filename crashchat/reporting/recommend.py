"""Whether a model that went on learning may take the deployed one's place.

    crashchat recommend --on data outputs/next/old_held_out outputs/next/new_held_out \\
        --on outputs/next/data outputs/next/old_random outputs/next/new_random --out outputs/next/verdict.json

Each --on names a data folder, and the two models' answers to its test split. On each, the new model counts as
worse where the mean over tasks of its main figures (accuracy, ROUGE-L, mIoU) is lower, or where one task's is
lower with a 95% interval of the paired difference that leaves 0 out. Exit code: 0 worse on none, 1 worse on
some, or something cannot be compared.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from crashchat.command import add_task_set, make_parser, with_task_set
from crashchat.data.truth import Annotations
from crashchat.errors import CrashChatError, exit_code
from crashchat.files import write_json_atomic
from crashchat.metrics.bootstrap import Difference, paired
from crashchat.metrics.by_kind import shown
from crashchat.reporting.comparison import sum_rows
from crashchat.reporting.runs import collect
from crashchat.tasks import SPLITS, TASKS

OLD, NEW = "old", "new"
TEST = SPLITS[-1]


class WorseError(CrashChatError):
    """A model that must not take another one's place; the message says where it is worse."""


@dataclass(frozen=True)
class Compared:
    """Old and new on one data set. tasks: {task: new minus old in its main figure}."""

    data: str
    tasks: dict[str, Difference]

    @property
    def mean(self) -> float:
        """The difference in the mean over tasks."""
        return sum(one.value for one in self.tasks.values()) / len(self.tasks)

    @property
    def worse(self) -> list[str]:
        """Where the new model is worse, in words; empty where it is not."""
        found = [
            f"{_named(task)} {one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})"
            for task, one in self.tasks.items()
            if one.high < 0
        ]
        return [*([f"mean over tasks {self.mean:+.4f}"] if self.mean < 0 else []), *found]

    def lines(self) -> list[str]:
        """All figures."""
        return [
            f"{self.data}: mean over {len(self.tasks)} tasks {self.mean:+.4f}",
            *(
                f"  {_named(task)} {one.value:+.3f} (95% {one.low:+.3f} to {one.high:+.3f})"
                for task, one in self.tasks.items()
            ),
        ]

    def as_json(self) -> dict:
        """The same as JSON values."""
        tasks = {
            task: {"metric": shown(TASKS[task]).main[0], **asdict(one)} for task, one in self.tasks.items()
        }
        return {"data": self.data, "mean": self.mean, "tasks": tasks, "worse": self.worse}


def _named(task: str) -> str:
    """A task and the figure that it is compared by, in words."""
    return f"{TASKS[task].title} {shown(TASKS[task]).main[1]}"


def compared(data_dir: Path, old: Path, new: Path) -> Compared:
    """Two models' answers to the test split of a data folder.

    Raises CrashChatError for answers that cannot be compared.
    """
    annotations = Annotations(data_dir, TEST)
    runs = collect({OLD: [old], NEW: [new]}, annotations)
    records = {
        name: {task: file.records for task, file in of_row[0].items()} for name, of_row in runs.items()
    }
    if records[OLD].keys() != records[NEW].keys():
        raise CrashChatError(f"{old} and {new} do not answer the same tasks; evaluate both alike")
    sums = sum_rows(records, {task: annotations.starts(TASKS[task]) for task in records[OLD]})
    found = {
        task: difference
        for task in TASKS
        if task in sums[OLD]
        and (difference := paired(sums[OLD][task], sums[NEW][task]).get(shown(TASKS[task]).main[0]))
        is not None
    }
    if not found:
        raise CrashChatError(f"{old}: no task has a figure to compare by; expected answers to {data_dir}")
    return Compared(str(data_dir), found)


def recommend(sets: list[list[Path]], out: Path) -> None:
    """Compare on each (data folder, old answers, new answers), and write the verdict with all figures.

    Raises WorseError where the new model is worse on any.
    """
    every = [compared(*one) for one in sets]
    worse = {one.data: one.worse for one in every if one.worse}
    write_json_atomic(out, {"recommended": not worse, "on": [one.as_json() for one in every]})
    print("\n".join(line for one in every for line in one.lines()))
    if worse:
        where = "; ".join(f"on {data}: {', '.join(why)}" for data, why in worse.items())
        raise WorseError(f"the new model is not recommended, it is worse {where}")
    print(f"recommended: the new model is worse on none of {', '.join(one.data for one in every)}")


@with_task_set
def main(argv: list[str]) -> int:
    """Command line; returns the exit code."""
    parser = make_parser("recommend", __doc__)
    add_task_set(parser)
    parser.add_argument(
        "--on",
        action="append",
        nargs=3,
        type=Path,
        required=True,
        metavar=("DATA_DIR", "OLD", "NEW"),
        help="a data folder, and the output folders of two evaluations of its test split",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="for the verdict, as JSON")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: recommend(arguments.on, arguments.out))
