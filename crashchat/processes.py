"""The processes of one run, as torchrun starts them: which one this is, on what device it computes,
and how it ends.
"""

import atexit
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

import torch

LAUNCHER = "CRASHCHAT_LAUNCHER"  # scripts/launch.sh's process id, which is torchrun's
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


def choose_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU, float32 on a CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


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
