"""A look at many files in processes side by side: they may die, and so may the one that began them."""

import subprocess
import sys
import time
from pathlib import Path

from crashchat.config import ROOT
from tests.helpers.fleets import descendants


def script_of(folder: Path, look: str, names: list[str], workers: int) -> list[str]:
    """The command of a program that looks at these files as the body of look(path) says, and prints what it
    saw.
    """
    script = folder / "looks.py"
    script.write_text(
        f"import os, sys, time\nfrom pathlib import Path\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from crashchat.video.pool import each_video\n\n"
        f"def look(path):\n    {look}\n\n"
        "if __name__ == '__main__':\n"
        f"    print(*each_video(look, [Path(name) for name in {names}], {workers}, 'videos'), sep=', ')\n"
    )
    return [sys.executable, str(script)]


def test_a_file_that_kills_its_process_is_named(tmp_path):
    """A real process that dies, as a decoder's may: what the others look like still comes back."""
    look = "return os._exit(3) if path.name == 'bad' else path.name"
    words = script_of(tmp_path, look, ["a", "bad", "b"], workers=1)
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "a, bad: the process that decodes it crashed, b", done.stderr


def test_processes_end_with_the_one_that_began_them(tmp_path):
    """It is killed while they look, and while they wait for work."""
    look = "path.touch(); time.sleep(600 if path.name == 'long' else 0)"
    words = script_of(tmp_path, look, ["long", "short"], workers=2)
    begun = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not all((tmp_path / name).exists() for name in ("long", "short")):
        assert begun.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    processes = descendants(begun.pid)
    assert len(processes) >= 3, "two that look, and the one that they are copies of"
    begun.kill()
    begun.wait()
    while any(Path(f"/proc/{process}/exe").exists() for process in processes):
        assert time.monotonic() < deadline, processes
        time.sleep(0.05)
