"""The processes of one run, as torchrun starts them: which one this is, on what device it computes,
and how it ends.
"""

import atexit
import ctypes
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist

from crashchat.settings import Dtype

LAUNCHER = "CRASHCHAT_LAUNCHER"  # scripts/launch.sh's process id, which is torchrun's
GPU_READERS = 8  # processes that read videos for one beside a GPU
READ_AHEAD = 2  # fetches of each reader that may wait
VIDEO_BYTES = 10240 * 4 * 588  # of a video of the recipe's size, before compression
PR_SET_PDEATHSIG = 1  # Linux, prctl(2)


def rank() -> int:
    """This process's number among all that torchrun started, from 0; alone, 0."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """How many processes torchrun started, on all nodes; alone, 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def under_torchrun() -> bool:
    """Whether torchrun started this process, be it as the only one."""
    return "WORLD_SIZE" in os.environ


def join_processes() -> dist.Store | None:
    """Have the processes of a run that computes without a common group of GPUs wait for each other (gloo).

    Returns the store that they share; None for one process alone. They may wait for days: what one has to do
    takes as long as its videos do.
    """
    if process_count() == 1:
        return None
    store, own, count = next(dist.rendezvous("env://"))
    dist.init_process_group(
        "gloo", store=dist.PrefixStore("group", store), rank=own, world_size=count, timeout=timedelta(days=7)
    )
    return dist.PrefixStore("work", store)


class Claims:
    """Numbers from 0 to count, each given to one process of the run alone, when it asks for one.

    Processes that are done sooner take more, so that none idles while another has a queue.
    """

    def __init__(self, count: int, store: dist.Store | None):
        self.count, self.store = count, store

    def __iter__(self) -> Iterator[int]:
        if self.store is None:
            yield from range(self.count)
            return
        while (number := self.store.add("claimed", 1) - 1) < self.count:
            yield number


def print_once(line: str) -> None:
    """Print from the first process alone."""
    if rank() == 0:
        print(line)


def choose_device() -> torch.device:
    """A GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def local_device() -> torch.device:
    """This process's device under torchrun: its own GPU (LOCAL_RANK), or the CPU."""
    device = choose_device()
    return (
        torch.device(device.type, int(os.environ.get("LOCAL_RANK", "0"))) if device.type == "cuda" else device
    )


def choose_dtype(device: torch.device, name: Dtype | None = None) -> torch.dtype:
    """The numbers that a setting names; without it bfloat16 on a GPU, float32 on a CPU."""
    if name is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def reader_count(setting: int | None) -> int:
    """Processes that read videos for this one: as the setting says; without it 8 beside a GPU, else 2.

    Warns where /dev/shm, through which they hand frames over, is as small as a container's usually is.
    """
    count = setting if setting is not None else GPU_READERS if torch.cuda.is_available() else 2
    shared = Path("/dev/shm")
    if (
        count
        and shared.is_dir()
        and (free := shutil.disk_usage(shared).free) < count * READ_AHEAD * VIDEO_BYTES
    ):
        print_once(
            f"warning: {shared} has {free / 2**20:.0f} MiB free, and {count} readers may fill "
            f"{count * READ_AHEAD * VIDEO_BYTES / 2**20:.0f} MiB with full-size videos: a 'Bus error' means "
            "that it was too small; start the container with --shm-size=16g, or give num_workers=0"
        )
    return count


def run_process(main: Callable[[], int]) -> NoReturn:
    """Run a command as this process, and end with its exit code: 1 for an error,
    2 for a wrong command line, 130 for Ctrl-C.

    Under torchrun the interpreter is left without being taken apart. gloo's threads outlive
    destroy_process_group (Trainer and DeepSpeed hold their groups) and may drop a collective's last tensor
    while Python ends, which aborts a run that is done.
    """
    if under_torchrun():
        end_with_launcher()
    try:
        code = main()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BaseException:
        traceback.print_exc()
        code = 1
    if not under_torchrun():
        sys.exit(code)
    try:
        # All that others left to do: readers ended, temporary folders deleted, logs written.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # a full disk, a closed pipe: what was printed is lost
        code = code or 1
    finally:
        os._exit(code)


def end_with_launcher() -> None:
    """Have the kernel end this process when torchrun does: killed, it cannot end its processes,
    and they would go on unseen.
    """
    if sys.platform != "linux":
        return
    launcher = int(os.environ.get(LAUNCHER, os.getppid()))
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != launcher:  # it ended before
        print(f"error: the launcher, process {launcher}, has ended", file=sys.stderr)
        os._exit(1)
