"""What the review page shows and takes, without HTTP. Threads share it."""

import threading
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from crashchat.review.agreement import agreements, fleet
from crashchat.review.folder import Reviewed
from crashchat.review.labels import Labels, ReviewError, Verdict, model_labels
from crashchat.review.queue import due, full_queue, reasons_of
from crashchat.review.standing import Decision, Standing
from crashchat.review.store import Store
from crashchat.video.playable import is_playable, write_playable
from crashchat.video.source import probe

AHEAD = 20  # clips of the queue that a page is told of
CLOSED = ("description", "cause")  # answers of which there are not many
CHOICES = 200  # of a closed set, the most frequent


class ReviewService:
    """An analysis under review. copies: a private folder for videos as browsers play them."""

    def __init__(self, folder: Path, store: Store, clips: dict[str, Reviewed], copies: Path, seed: int):
        self.folder, self.store, self.clips, self.copies = folder, store, clips, copies
        self.rows = store.clips()
        self.names = {self.rows[name].id: name for name in clips}
        self.results = {name: clip.result for name, clip in clips.items()}
        self._queue = full_queue(self.results, self.rows, seed)
        said = list(map(model_labels, self.results.values()))
        self._texts = {name: _texts(said, name) for name in CLOSED}
        self._lock = threading.Lock()

    def queue(self, user: str) -> dict:
        """What waits for a user, the next AHEAD of it, and how far the review is."""
        roles, standings = self.store.roles(), self.store.standings()
        people = sum(role != "reader" for role in roles.values())
        waiting = due(self._queue, standings, user, lead=roles.get(user) == "lead", people=people)
        return {
            "user": user,
            "role": roles.get(user, "reader"),
            "clips": len(self.clips),
            "decided": sum(name in standings for name in self.clips),
            "waiting": len(waiting),
            "next": [{"clip": self.rows[name].id, "why": why} for name, why in waiting[:AHEAD]],
            "choices": self._choices(standings),
        }

    def _choices(self, standings: dict[str, Standing]) -> dict[str, list[str]]:
        said = [one.final.after for one in standings.values() if one.final]
        texts = {name: self._texts[name] + _texts(said, name) for name in CLOSED}
        return {name: [text for text, _ in texts[name].most_common(CHOICES)] for name in CLOSED}

    def clip(self, number: int, user: str) -> dict:
        """A clip for the page. What others said of it is shown to a lead who is to settle it, nobody else."""
        clip = self._clip(number)
        standing = self.store.standings().get(clip.name, Standing())
        settling = standing.disagree and self.store.roles().get(user) == "lead"
        mine = standing.opinions.get(user)
        return {
            "clip": number,
            "name": clip.name,
            "status": clip.result.status,
            "probability": clip.result.crash_probability,
            "seconds": clip.result.seconds,
            "frame": self._frame(clip),
            "missing": clip.missing(),
            "reasons": reasons_of(clip.result),
            "notes": [note for window in clip.result.windows for note in window.notes],
            "unlike": clip.result.unlike_training,
            "warnings": clip.result.warnings,
            "strips": [f"strips/{number}/{at}" for at in range(len(clip.strips(self.folder)))],
            "model": model_labels(clip.result).model_dump(),
            "mine": _shown(mine) if mine else None,
            "others": [_shown(one) for one in standing.opinions.values()] if settling else [],
        }

    def _frame(self, clip: Reviewed) -> float:
        """Seconds from one frame to the next, for stepping."""
        if clip.missing():
            return 0.1
        timeline = probe(clip.video).timeline
        return timeline.end / len(timeline.pts) if timeline and timeline.pts else 0.1

    def video(self, number: int) -> Path:
        """The file of a clip as a browser plays it: itself, or a copy made for the first who asks."""
        clip = self._clip(number)
        if reason := clip.missing():
            raise ReviewError(reason)
        if is_playable(probe(clip.video)):
            return clip.video
        copy = self.copies / f"{number}.playable.mp4"
        with self._lock:
            if not copy.is_file():
                write_playable(clip.video, copy)
        return copy

    def strip(self, number: int, index: int) -> Path:
        """One of a clip's film strips."""
        strips = self._clip(number).strips(self.folder)
        if index >= len(strips):
            raise ReviewError(f"clip {number} has {len(strips)} film strips")
        return strips[index]

    def decide(self, number: int, user: str, verdict: Verdict, labels: Labels, comment: str) -> int:
        """Keep a decision. One that says what is to be seen needs a video that can be seen."""
        clip = self._clip(number)
        if verdict in ("confirm", "correct") and (reason := clip.missing()):
            raise ReviewError(reason)
        said = labels if verdict in ("confirm", "correct") else None
        return self.store.decide(clip, user, verdict, said, comment=comment)

    def undo(self, user: str) -> dict:
        """Take back a user's last decision; returns its clip."""
        undone = self.store.undo(user)
        return {"clip": self.rows[undone.clip].id, "name": undone.clip}

    def statistics(self) -> dict:
        """The fleet's figures, and how far people agree."""
        standings = self.store.standings()
        return {
            "fleet": fleet(self.results, self.rows, standings).as_json(),
            "agreement": [asdict(pair) for pair in agreements(standings)],
        }

    def _clip(self, number: int) -> Reviewed:
        if number not in self.names:
            raise ReviewError(f"there is no clip {number} in this analysis")
        return self.clips[self.names[number]]


def _texts(said: list[Labels], name: str) -> Counter[str]:
    return Counter(text for labels in said if (text := getattr(labels, name)))


def _shown(one: Decision) -> dict:
    return {
        "user": one.user,
        "verdict": one.verdict,
        "labels": one.after.model_dump(),
        "comment": one.comment,
    }
