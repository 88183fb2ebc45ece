"""A reviewer in a process of its own, who may be killed at any moment:
python -m tests.helpers.decide ANALYSIS USER COUNT; prints the number of each decision once it is kept.
"""

import sys
from pathlib import Path

from crashchat.review.folder import read_folder
from crashchat.review.store import Store

if __name__ == "__main__":
    folder, user, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    clips, store = list(read_folder(folder).values()), Store(folder)
    print("ready", flush=True)
    for number in range(count):
        kept = store.decide(clips[number % len(clips)], user, "unsure", comment=f"{user} {number}")
        print(kept, flush=True)
