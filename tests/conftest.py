"""What several test files share: the reference data beside the project, and the tiny base checkpoint."""

import os

# Before torch is imported: tests fork processes (helpers/forks.py), which OpenMP's threads would not outlive.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing of ours is compiled. Where bitsandbytes is installed, peft imports it, and it the compiler of torch:
# a quarter of the time that a process of the tests needs to begin.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import gc
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from crashchat.config import ROOT

gc.disable()  # until all is collected: what the tests import stays (crashchat/__main__.py)
# Tables of large files that were checked: of all runs of the tests in one place, and not in the user's cache.
os.environ.setdefault("CRASHCHAT_CACHE", str(Path(tempfile.gettempdir()) / f"crashchat_tests_{os.getuid()}"))
# The files that take longest, by their place in tests/: handed out first, so that all workers end together.
LONGEST = (
    "training/test_train_scripts.py", "review/test_learning_again.py", "test_faults.py",
    "analysis/test_spread.py", "analysis/test_recordings.py", "training/test_runs.py",
    "training/test_nodes.py", "test_fleet.py", "training/planning/test_real_steps.py",
    "evaluation/test_eval_scripts.py", "training/test_curves.py", "test_readme.py",
    "training/planning/test_plan.py", "tasks/test_examples.py", "video/test_video.py",
    "analysis/test_analyze.py", "reporting/test_report_page.py", "serving/test_serve.py",
    "evaluation/test_cheats.py", "training/test_reinforce.py", "answering/test_cascade.py",
    "training/test_precision.py", "checkpoints/test_damage.py", "serving/test_serve_page_data.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collection_finish() -> None:
    # What has been imported stays: looking at all of it again takes half a second whenever a command, at its
    # end, has garbage collected.
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data that may lie beside the project."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}")
    return folder


TINY_BASE = ROOT / "ckpt" / "tiny_base"


@pytest.fixture(scope="session")
def tiny_base() -> Path:
    """The pre-trained tiny model that is part of the repo."""
    assert (TINY_BASE / "config.json").is_file(), (
        f"{TINY_BASE} belongs to the repo; fetch it again with git checkout"
    )
    return TINY_BASE


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_base):
    """Its tokenizer."""
    from crashchat.checkpoints.folders import load_tokenizer

    return load_tokenizer(tiny_base)


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Once:
    """once(name, make) -> the folder that make(folder) made: at the first asking of all of pytest-xdist's
    workers; the others wait for it. What lies in it belongs to all: tests spoil copies.
    """
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent

    def get(name: str, make: Callable[[Path], object]) -> Path:
        folder, made = common / "once" / name, common / "once" / f"{name}.made"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(folder.with_name(f"{name}.lock")):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed to make it
                make(folder)
                made.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def tiny_data(once) -> Path:
    """A small synthetic data set: 6 train, 3 val and 4 test clips with all annotations."""
    from crashchat.synthetic.make import make_demo_set

    return once("data", lambda folder: make_demo_set(folder, train=6, val=3, test=4, seed=7, workers=1))


@pytest.fixture(scope="session")
def flash_adapters(tiny_base, once) -> tuple[Path, Path]:
    """A linguistic and a perception adapter on ckpt/tiny_base, trained on the spot (see flashes.py)."""
    from tests.helpers.flashes import INTERVAL, SIGN, train_adapter

    def linguistic(crash: bool) -> dict:
        if crash:
            return {"crash_recognition": "Yes", "crash_description": "car hits a car."}
        return {"crash_recognition": "No", "crash_description": "no collision."}

    def perception(crash: bool) -> dict:
        return {"crash_localization": INTERVAL, "pre_crash_localization": SIGN}

    def make(folder: Path) -> None:
        train_adapter(tiny_base, folder / "flash_linguistic", linguistic, steps=100, batch=4)
        train_adapter(tiny_base, folder / "flash_perception", perception, steps=30, batch=4)

    folder = once("adapters", make)
    return folder / "flash_linguistic", folder / "flash_perception"


@pytest.fixture(scope="session")
def trained(tiny_data, once) -> Path:
    """The output folder of a training on one process, by the script."""
    from tests.helpers.commands import run, train_command

    def make(out: Path) -> None:
        output = run(*train_command(tiny_data, out, 1))
        assert "trained parameters" in output and "best validation loss" in output
        assert "FutureWarning" not in output

    return once("trained", make)


@pytest.fixture(scope="session")
def trained_by_two(tiny_data, once) -> Path:
    """The output folder of the same training on two processes, by the script and torchrun."""
    from tests.helpers.commands import run, train_command

    return once("trained_by_two", lambda out: run(*train_command(tiny_data, out, 2)))


@pytest.fixture(scope="session")
def trained_by_zero3(tiny_data, once) -> Path:
    """The output folder of the same training by ZeRO-3 on two processes, in several passes a step,
    whose gloo threads were starved from its last checkpoint on.
    """
    from tests.helpers.commands import ENVIRONMENT, train_command
    from tests.helpers.starving import run_starved

    def make(out: Path) -> None:
        settings = ("deepspeed=configs/deepspeed/zero3.json", "max_tokens_per_batch=1200")
        command = train_command(tiny_data, out, 2, *settings)
        last = out / "checkpoint-4"
        done = run_starved(command, last.is_dir, 600, cwd=ROOT, env=ENVIRONMENT)
        assert done.returncode == 0, done.stdout[-4000:]

    return once("trained_by_zero3", make)


@pytest.fixture
def full_disk(tmp_path) -> Iterator[Path]:
    """A disk with no byte left."""
    from tests.helpers.disks import fill, small_disk_at

    with small_disk_at(tmp_path / "disk", kib=1024) as folder:
        fill(folder)
        yield folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> dict[str, Path]:
    """Clips to send to a server: with a flash, without, too long, and none at all."""
    from tests.helpers.flashes import frames, write_video

    folder = tmp_path_factory.mktemp("clips")
    (folder / "broken.mp4").write_bytes(b"no video" * 100)
    return {
        "crash": write_video(folder / "crash.mp4", frames(90, 15, (5, 9))),
        "calm": write_video(folder / "calm.mp4", frames(90, 15)),
        "long": write_video(folder / "long.mp4", frames(90, 130)),
        "broken": folder / "broken.mp4",
    }


@pytest.fixture(scope="session")
def server(tiny_base, flash_adapters, once, tmp_path_factory):
    """`crashchat serve` with the flash world's adapters, 1 MiB and 120 s at most, and a review beside it."""
    from tests.helpers.models import MODEL
    from tests.helpers.review import make_analysis
    from tests.helpers.serving import Server

    linguistic, perception = map(str, flash_adapters)
    model = [*MODEL, "--model", str(tiny_base), "--linguistic", linguistic, "--perception", perception]
    reviewed = tmp_path_factory.mktemp("reviewed") / "analysis"
    shutil.copytree(once("reviewed", make_analysis) / "analysis", reviewed)
    limits = ["--max-seconds", "120", "--max-mebibytes", "1"]
    running = Server(tmp_path_factory.mktemp("serve"), *model, *limits, "--review", str(reviewed))
    yield running
    folder = running.private_folder()
    running.stop()
    assert not folder.exists()  # nothing is left behind


@pytest.fixture(scope="session")
def browser():
    """A real headless Chromium, whose pages wait as long as web.py does.

    Without one, tests are skipped on a developer's machine, and fail where CI=true.
    """
    from tests.helpers.web import PATIENCE

    def without(reason: str):
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)

    try:
        from playwright import sync_api
    except ImportError:
        without("playwright is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    quiet = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
    ]
    with sync_api.sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(
                executable_path=program, args=[*quiet, "--disable-component-update", "--disable-sync"]
            )
        except sync_api.Error as error:
            without(
                f"no Chromium to start: {error.message.splitlines()[0]} (bash scripts/browser.sh installs "
                "one)"
            )
        new_page = opened.new_page

        def patient(**options):
            page = new_page(**options)
            page.set_default_timeout(1000 * PATIENCE)
            return page

        opened.new_page = patient
        yield opened
        opened.close()
