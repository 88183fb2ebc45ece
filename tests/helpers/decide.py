"""Reviewers in processes of their own, who are killed at random and start again:
python -m tests.helpers.decide ANALYSIS COUNT USER ...

Ends once COUNT decisions were told as kept; prints them and how often a reviewer was killed, as JSON.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector

from crashchat.review.folder import Reviewed, read_folder
from crashchat.review.store import Store

LONGEST_LIFE = 40  # decisions of a reviewer before it is killed


def review(folder: Path, clips: list[Reviewed], user: str, told: int) -> None:
    """Decide for ever; the number of each decision is written to `told` once it is kept."""
    store, number = Store(folder), 0
    while True:
        kept = store.decide(clips[number % len(clips)], user, "unsure", comment=f"{user} {number}")
        os.write(told, f"{kept}\n".encode())
        number += 1


class Reviewer:
    """A process that reviews until it is killed."""

    def __init__(self, folder: Path, clips: list[Reviewed], user: str, life: int):
        self.user, self.left, self.rest = user, life, b""
        self.read, write = os.pipe()
        self.process = os.fork()
        if not self.process:
            os.close(self.read)
            os.dup2(write, sys.stdout.fileno())  # nobody waits for this process' output
            try:
                review(folder, clips, user, write)
            finally:  # as where nobody reads any more
                os._exit(1)
        os.close(write)

    def numbers(self) -> list[int]:
        """The decisions that were told since; none once it has ended and all was read."""
        *lines, self.rest = (self.rest + os.read(self.read, 4096)).split(b"\n")
        self.left -= len(lines)
        return list(map(int, lines))

    def kill(self) -> list[int]:
        """End it; returns what it had told and nobody had read."""
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        late = []
        while more := self.numbers():
            late += more
        os.close(self.read)
        return late  # what is in self.rest was not told to its end


def main() -> None:
    """Command line."""
    folder, count, users = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    clips, draw = list(read_folder(folder).values()), random.Random(0)
    told: list[int] = []
    kills = 0
    with DefaultSelector() as waiting:

        def begin(user: str) -> None:
            reviewer = Reviewer(folder, clips, user=user, life=draw.randrange(1, LONGEST_LIFE))
            waiting.register(reviewer.read, EVENT_READ, reviewer)

        for user in users:
            begin(user)
        while waiting.get_map():
            for key, _ in waiting.select():
                reviewer = key.data
                told += reviewer.numbers()
                if reviewer.left <= 0 or len(told) >= count:
                    waiting.unregister(reviewer.read)
                    told += reviewer.kill()
                    kills += 1
                    if len(told) < count:
                        begin(reviewer.user)
    print(json.dumps({"told": told, "kills": kills}))


if __name__ == "__main__":
    main()
