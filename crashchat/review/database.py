"""The file of a review: connections, transactions, and its versions."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from crashchat.review.labels import ReviewError

APPLICATION = 0x43435256  # in the file's header, so that another program's file is known as such
BUSY = 60.0  # seconds that a transaction waits for the others'

# MIGRATIONS[k] leads from version k to k + 1; a file's version is its user_version.
MIGRATIONS: list[list[str]] = [
    [
        """CREATE TABLE clips (
            id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, path TEXT NOT NULL, bytes INTEGER,
            result_sha256 TEXT NOT NULL, random INTEGER NOT NULL
        )""",
        """CREATE TABLE users (
            name TEXT PRIMARY KEY, salt BLOB, hash BLOB, role TEXT NOT NULL, created TEXT NOT NULL
        )""",
        """CREATE TABLE decisions (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            clip INTEGER NOT NULL REFERENCES clips, user TEXT NOT NULL REFERENCES users, at TEXT NOT NULL,
            verdict TEXT NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL, comment TEXT NOT NULL,
            result_sha256 TEXT NOT NULL, settles INTEGER NOT NULL, undoes INTEGER REFERENCES decisions
        )""",
        """CREATE TRIGGER decisions_stay BEFORE UPDATE ON decisions
            BEGIN SELECT RAISE(ABORT, 'decisions are never changed'); END""",
        """CREATE TRIGGER decisions_last BEFORE DELETE ON decisions
            BEGIN SELECT RAISE(ABORT, 'decisions are never deleted'); END""",
    ]
]


class Database:
    """A SQLite file that threads and processes share.

    Raises ReviewError for one that is of another version or no review at all.
    """

    def __init__(self, path: Path):
        self.path = path
        with self.writing() as connection:
            self._migrate(connection)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
        connection.row_factory = sqlite3.Row
        return connection

    @contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """A connection, to read by. Raises ReviewError."""
        try:
            with closing(self._connect()) as connection:
                yield connection
        except sqlite3.DatabaseError as error:
            raise ReviewError(
                f"{self.path}: {error}; expected a review that crashchat review wrote, on a disk that can be "
                "written to"
            ) from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is on disk at its end, or nothing."""
        with self.opened() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _migrate(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application != APPLICATION and (application or version or tables):
            raise ReviewError(f"{self.path}: is another program's database; move it away")
        if version > len(MIGRATIONS):
            raise ReviewError(
                f"{self.path}: has version {version}, this crashchat knows {len(MIGRATIONS)}; use the "
                "crashchat that wrote it, or a newer one"
            )
        for statement in sum(MIGRATIONS[version:], []):
            connection.execute(statement)
        if version < len(MIGRATIONS):
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
