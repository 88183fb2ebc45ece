"""How fast a training runs: what the log says beside the loss, and a profiler's trace of a few steps."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import TrainerCallback

from crashchat.training.planning.gpus import gpu_called

FIRST, STEPS = 2, 3  # the profile's: the first two steps are unlike all others


class Speed:
    """Counts what has gone through the model since the last log, over all processes."""

    def __init__(self, processes: int = 1) -> None:
        self.processes = processes
        self.restart()

    def restart(self) -> None:
        """Begin anew, as after a validation, whose time is not training's."""
        self._start = time.perf_counter()
        self._tokens = self._videos = self._operations = 0
        self._waited = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """What happens inside is waiting for videos."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._waited += time.perf_counter() - begin

    def count(self, tokens: int, videos: int, operations: int) -> None:
        """Add a step's; operations in units of 10^9."""
        self._tokens += tokens
        self._videos += videos
        self._operations += operations

    def since_last_log(self) -> dict[str, float]:
        """Of all processes tokens and videos a second, and the model's operations, in 10^12 a second
        (planning/cost.py; what gradient checkpointing repeats is not counted); the share of the time that
        this process waited for videos; on a GPU the memory that was in use at most, in GiB, and on a known
        one the operations over its peak (MFU).
        """
        if not self._videos:
            return {}
        seconds = time.perf_counter() - self._start
        values = {
            "tokens_per_second": round(self._tokens / seconds, 1),
            "videos_per_second": round(self._videos / seconds, 3),
            "waiting_for_data": round(self._waited / seconds, 3),
            "model_tflops": round(self._operations / 1000 / seconds, 4),
        }
        if torch.cuda.is_available():
            values["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            if gpu := gpu_called(torch.cuda.get_device_name()):
                values["mfu"] = round(values["model_tflops"] / (gpu.tflops * self.processes), 4)
        self.restart()
        return values


class Profile(TrainerCallback):
    """Writes a trace of a few early steps, which chrome://tracing and Perfetto read."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.profiler: torch.profiler.profile | None = None
        self.begun = 0

    def on_step_begin(self, args, state, control, **kwargs):
        """Start behind the first steps of this process's run."""
        self.begun += 1
        if self.begun == FIRST + 1 and state.is_world_process_zero:
            self.profiler = torch.profiler.profile()
            self.profiler.start()

    def on_step_end(self, args, state, control, **kwargs):
        """Write the trace once the steps are through, or the run is."""
        if self.profiler and (self.begun == FIRST + STEPS or state.global_step >= state.max_steps):
            self.profiler.stop()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.profiler.export_chrome_trace(str(self.folder / "trace.json.gz"))
            self.profiler = None
