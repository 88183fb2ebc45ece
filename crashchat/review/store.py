"""What was decided about the clips of an analysis, and by whom: `review.sqlite` beside its results.

    clips       a row a clip: its video, the hash of its result, whether it belongs to the random share
    users       who may look (reader), decide (reviewer), settle (lead); passwords as salted scrypt hashes
    decisions   who, when, what the model said, what was decided; rows are added, never changed or deleted

An undo is a decision too. Each decision is one transaction, on disk before it is answered; several servers
and commands may have the file open at once.
"""

import hashlib
import json
import math
import secrets
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from crashchat.provenance import now
from crashchat.review.database import Database
from crashchat.review.folder import Reviewed
from crashchat.review.labels import UNDO, VERDICTS, Labels, ReviewError, Verdict, check_labels, model_labels
from crashchat.review.standing import Decision, Standing, standings

FILE = "review.sqlite"
Role = Literal["reader", "reviewer", "lead"]
ROLES: tuple[Role, ...] = get_args(Role)
_SCRYPT = {"n": 2**14, "r": 8, "p": 1}  # 16 MiB and some 50 ms a guess
LONGEST_NAME, LONGEST_COMMENT = 100, 2000  # characters


@dataclass(frozen=True)
class ClipRow:
    """A clip as the store knows it. random: whether it belongs to the share that estimates are made from."""

    id: int
    name: str
    path: str
    bytes: int | None
    random: bool


class Store:
    """The decisions on an analysis. Threads and processes share it.

    Raises ReviewError for a file that is of another version or no review at all.
    """

    def __init__(self, folder: Path):
        self.path = folder / FILE
        self._lock = threading.Lock()
        self._decisions: list[Decision] = []
        self._of: dict[str, list[Decision]] = {}
        self._standings: dict[str, Standing] = {}
        self._database = Database(self.path)

    # --- clips

    def sync(self, clips: dict[str, Reviewed], share: float = 0.2, seed: int = 0) -> None:
        """Take in the clips of an analysis, and draw the random share of those that are new.

        A clip that is no longer in the analysis stays here with its decisions. Raises ReviewError where one
        that was decided on has another video now.
        """
        with self._database.writing() as connection:
            known = {row["name"]: row for row in connection.execute("SELECT * FROM clips")}
            decided = {row[0] for row in connection.execute("SELECT DISTINCT clip FROM decisions")}
            new = sorted(clips.keys() - known.keys(), key=lambda name: draw_of(name, seed))
            drawn = set(new[: math.ceil(share * len(new))])
            for name, clip in clips.items():
                result, row = clip.result, known.get(name)
                if row is None:
                    values = (name, result.path, result.bytes, clip.sha256, name in drawn)
                    connection.execute(
                        "INSERT INTO clips (name, path, bytes, result_sha256, random) VALUES (?, ?, ?, ?, ?)",
                        values,
                    )
                    continue
                if row["id"] in decided and result.bytes not in (None, row["bytes"]):
                    raise ReviewError(
                        f"{clip.video}: has {result.bytes:,} bytes, reviewed with {row['bytes'] or 0:,}"
                        "; a new video needs a new name, or a folder of its own"
                    )
                connection.execute(
                    "UPDATE clips SET path = ?, bytes = ?, result_sha256 = ? WHERE id = ?",
                    (result.path, result.bytes or row["bytes"], clip.sha256, row["id"]),
                )

    def clips(self) -> dict[str, ClipRow]:
        """{name: clip} of all that were ever taken in."""
        with self._database.opened() as connection:
            rows = connection.execute("SELECT * FROM clips ORDER BY id").fetchall()
        return {
            row["name"]: ClipRow(
                row["id"], row["name"], row["path"], bytes=row["bytes"], random=bool(row["random"])
            )
            for row in rows
        }

    # --- users

    def add_user(self, name: str, role: Role, password: str | None) -> None:
        """Add a user, or give one another role and password.

        password: None for who works alone on this machine and is not asked for one.
        """
        if not name or len(name) > LONGEST_NAME or ":" in name or not name.isprintable():
            raise ReviewError(
                f"user {name!r}: expected a name of 1 to {LONGEST_NAME} printable characters without a colon"
            )
        if role not in ROLES:
            raise ReviewError(f"role {role!r}: expected one of {', '.join(ROLES)}")
        salt = secrets.token_bytes(16) if password else None
        hashed = _hash(password, salt) if password and salt else None
        with self._database.writing() as connection:
            connection.execute(
                "INSERT INTO users VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
                "salt = excluded.salt, hash = excluded.hash, role = excluded.role",
                (name, salt, hashed, role, now()),
            )

    def roles(self, with_password: bool = False) -> dict[str, Role]:
        """{user: role}. with_password: only those that sign in by one."""
        with self._database.opened() as connection:
            rows = connection.execute("SELECT name, role, hash FROM users ORDER BY name").fetchall()
        return {row["name"]: row["role"] for row in rows if row["hash"] or not with_password}

    def admits(self, name: str, password: str) -> bool:
        """Whether this is a user's password."""
        with self._database.opened() as connection:
            row = connection.execute("SELECT salt, hash FROM users WHERE name = ?", (name,)).fetchone()
        # A name that is not known takes as long as one that is.
        salt, hashed = (row["salt"], row["hash"]) if row and row["hash"] else (bytes(16), bytes(64))
        return secrets.compare_digest(_hash(password, salt), hashed)

    # --- decisions

    def decide(
        self,
        clip: Reviewed,
        user: str,
        verdict: Verdict,
        labels: Labels | None = None,
        comment: str = "",
    ) -> int:
        """Keep a decision; returns its number. labels: None for those of the model.

        A lead's decision on a clip that others disagree about settles it. Raises ReviewError for what cannot
        be decided.
        """
        if verdict not in VERDICTS:
            raise ReviewError(f"verdict {verdict!r}: expected one of {', '.join(VERDICTS)}")
        if len(comment) > LONGEST_COMMENT:
            raise ReviewError(
                f"{clip.name}: the comment has {len(comment):,} characters, the limit is {LONGEST_COMMENT:,}"
            )
        before = model_labels(clip.result)
        after = before if labels is None else labels
        check_labels(clip.name, after, before=before, verdict=verdict, seconds=clip.result.seconds)
        with self._database.writing() as connection:
            role = self._may_decide(connection, user)
            row = connection.execute("SELECT id FROM clips WHERE name = ?", (clip.name,)).fetchone()
            if row is None:
                raise ReviewError(f"{clip.name}: is no clip of {self.path}; start crashchat review once more")
            mine = connection.execute(f"{_DECISIONS} WHERE clip = ? ORDER BY d.id", (row["id"],))
            disagree = standings(map(_decision, mine)).get(clip.name, Standing()).contradicts
            texts = (before.model_dump_json(), after.model_dump_json())
            settles = role == "lead" and disagree
            found = connection.execute(
                _INSERT,
                (row["id"], user, now(), verdict, *texts, comment.strip(), clip.sha256, settles, None),
            )
            return found.lastrowid or 0

    def undo(self, user: str) -> Decision:
        """Take back the user's last decision that stands; returns it. Raises ReviewError where none does."""
        with self._database.writing() as connection:
            self._may_decide(connection, user)
            rows = connection.execute(f"{_DECISIONS} WHERE user = ? ORDER BY d.id", (user,)).fetchall()
            decisions = [_decision(row) for row in rows]
            undone = {decision.undoes for decision in decisions}
            left = [one for one in decisions if one.verdict != UNDO and one.id not in undone]
            if not left:
                raise ReviewError(f"{user}: has no decision to undo")
            last = left[-1]
            earlier = [one for one in left[:-1] if one.clip == last.clip]
            after = earlier[-1].after if earlier else last.before
            row = next(row for row in rows if row["id"] == last.id)
            texts = (last.after.model_dump_json(), after.model_dump_json())
            connection.execute(
                _INSERT, (row["clip_id"], user, now(), UNDO, *texts, "", row["result_sha256"], False, last.id)
            )
        return last

    def decisions(self) -> list[Decision]:
        """All decisions, in their order."""
        with self._lock:
            self._read_on()
            return list(self._decisions)

    def standings(self) -> dict[str, Standing]:
        """{clip: what stands of it} of the clips that were decided on."""
        with self._lock:
            self._read_on()
            return dict(self._standings)

    def _read_on(self) -> None:
        """As decisions never change, only new ones are read, and only their clips stand anew."""
        last = self._decisions[-1].id if self._decisions else 0
        with self._database.opened() as connection:
            rows = connection.execute(f"{_DECISIONS} WHERE d.id > ? ORDER BY d.id", (last,)).fetchall()
        new = list(map(_decision, rows))
        self._decisions += new
        for one in new:
            self._of.setdefault(one.clip, []).append(one)
        for clip in {one.clip for one in new}:
            self._standings.pop(clip, None)
            self._standings |= standings(self._of[clip])

    def _may_decide(self, connection: sqlite3.Connection, user: str) -> Role:
        roles = dict(map(tuple, connection.execute("SELECT name, role FROM users")))
        if user not in roles:
            raise ReviewError(f"unknown user {user!r}; known are {', '.join(sorted(roles)) or 'none'}")
        if roles[user] == "reader":
            raise ReviewError(f"{user}: is a reader, who decides nothing; a lead may make it a reviewer")
        return roles[user]


_DECISIONS = (
    "SELECT d.*, d.clip AS clip_id, clips.name AS clip_name FROM decisions d JOIN clips ON clips.id = d.clip"
)
_INSERT = (
    "INSERT INTO decisions (clip, user, at, verdict, before, after, comment, result_sha256, settles, undoes) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def _decision(row: sqlite3.Row) -> Decision:
    return Decision(
        id=row["id"],
        clip=row["clip_name"],
        user=row["user"],
        at=row["at"],
        verdict=row["verdict"],
        before=Labels.model_validate(json.loads(row["before"])),
        after=Labels.model_validate(json.loads(row["after"])),
        comment=row["comment"],
        settles=bool(row["settles"]),
        undoes=row["undoes"],
    )


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, **_SCRYPT)


def draw_of(name: str, seed: int) -> bytes:
    """A clip's place in a random order that depends on nothing but its name and the seed."""
    return hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogatepass")).digest()
