"""The tables, as the steps that lead to them. A step that was released is never edited: add another."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from akashllm.errors import StateError

APPLICATION_ID = 0x616B6C6D
"""`aklm` in the file's header: another program's database is not mistaken for ours."""

MIGRATIONS: Sequence[Sequence[str]] = (
    (
        """CREATE TABLE deployments (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL,
            market TEXT NOT NULL,
            reference TEXT NOT NULL UNIQUE,
            state TEXT NOT NULL CHECK (state IN ('deploying', 'active', 'failed', 'closing', 'closed')),
            step TEXT NOT NULL,
            dseq TEXT,
            provider TEXT,
            url TEXT,
            plan TEXT NOT NULL,
            sdl_path TEXT,
            reason TEXT NOT NULL DEFAULT '',
            facts TEXT NOT NULL DEFAULT '{}',
            created_at TEXT NOT NULL,
            updated_at TEXT NOT NULL,
            closed_at TEXT
        ) STRICT""",
        "CREATE UNIQUE INDEX one_open_deployment_a_name ON deployments (name) WHERE state <> 'closed'",
        "CREATE UNIQUE INDEX one_record_a_dseq ON deployments (market, dseq) WHERE dseq IS NOT NULL",
        """CREATE TABLE events (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            deployment INTEGER NOT NULL REFERENCES deployments (id),
            at TEXT NOT NULL,
            step TEXT NOT NULL,
            phase TEXT NOT NULL CHECK (phase IN ('before', 'after', 'failed', 'note')),
            detail TEXT NOT NULL DEFAULT '{}'
        ) STRICT""",
        "CREATE INDEX events_of_a_deployment ON events (deployment, id)",
    ),
)


def migrate(database: sqlite3.Connection, path: str, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
    """Bring the tables to the newest version, each step in one transaction. Raises `StateError`."""
    while True:
        database.execute("BEGIN IMMEDIATE")
        try:
            version = _version(database, path, len(migrations))
            if version == len(migrations):
                database.execute("ROLLBACK")
                return
            for statement in migrations[version]:
                database.execute(statement)
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {version + 1}")
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


def _version(database: sqlite3.Connection, path: str, newest: int) -> int:
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    application = int(database.execute("PRAGMA application_id").fetchone()[0])
    tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != APPLICATION_ID and (application or tables):
        raise StateError(
            f"{path} is another program's database",
            hint="move it away, or set AKASHLLM_HOME to another directory",
        )
    if version > newest:
        raise StateError(
            f"{path} was written by a newer akashllm (record version {version}, this one knows {newest})",
            hint="upgrade akashllm; the record was left as it is",
        )
    return version
