"""The record of deployments: SQLite, mode 0600, every change one transaction."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from akashllm.errors import NoSuchDeployment, StateError
from akashllm.state.home import Home, check_private, private_directory, safe_name
from akashllm.state.records import Deployment, Event, Phase
from akashllm.state.schema import migrate

_WAIT = 10.0
"""Seconds to wait for another process that is writing."""

_COLUMNS = frozenset(
    {"state", "step", "dseq", "provider", "url", "plan", "sdl_path", "reason", "facts", "closed_at"}
)


def utc_now() -> datetime:
    """Now, with its zone."""
    return datetime.now(UTC)


class Store:
    """A context manager. Raises `StateError` for a file that is damaged, newer, or open to others."""

    def __init__(self, home: Home, *, now: Callable[[], datetime] = utc_now) -> None:
        self.home = home.prepare()
        self._now = now
        self._path = home.database
        with self._explained():
            self._create_file()
            # Transactions are spelled out below: the driver begins none by itself.
            self._database = sqlite3.connect(self._path, timeout=_WAIT, isolation_level=None)
        try:
            with self._explained():
                self._database.row_factory = sqlite3.Row
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = FULL")
                self._database.execute("PRAGMA foreign_keys = ON")
                migrate(self._database, str(self._path))
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def add(self, name: str, market: str, plan: Mapping[str, Any], step: str) -> Deployment:
        """A new deployment of that name, with its own directory. Raises `StateError` if the name is taken."""
        safe_name(name)
        at = self._stamp()
        reference = f"{name}-{secrets.token_hex(6)}"
        with self._writing() as database:
            try:
                row = database.execute(
                    "INSERT INTO deployments"
                    " (name, market, reference, state, step, plan, created_at, updated_at)"
                    " VALUES (?, ?, ?, 'deploying', ?, ?, ?, ?) RETURNING id",
                    (name, market, reference, step, _json(plan), at, at),
                ).fetchone()
            except sqlite3.IntegrityError:
                raise StateError(
                    f"there is a deployment named {name} already",
                    hint=f"`akashllm status {name}` shows it; --name gives this one another name",
                ) from None
            number = int(row["id"])
            private_directory(self.home.root / "deployments")
            private_directory(self.home.directory(name, number))
        return self.get(number)

    def get(self, number: int) -> Deployment:
        """The deployment of that row."""
        with self._explained():
            row = self._database.execute("SELECT * FROM deployments WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise NoSuchDeployment(f"the record has no row {number}")
        return _deployment(row)

    def named(self, name: str) -> Deployment | None:
        """The open deployment of exactly that name."""
        found = self._select("WHERE name = ? AND state <> 'closed'", (name,))
        return found[0] if found else None

    def by_dseq(self, market: str, dseq: str) -> Deployment | None:
        """The deployment that a market calls `dseq`, open or closed."""
        found = self._select("WHERE market = ? AND dseq = ?", (market, dseq))
        return found[0] if found else None

    def all(self, *, closed: bool = False) -> Sequence[Deployment]:
        """Every open deployment, oldest first; with the closed ones if asked."""
        return self._select("" if closed else "WHERE state <> 'closed'", ())

    def find(self, word: str, *, closed: bool = False) -> Deployment:
        """By name, by dseq, or by a beginning of either that only one has. Raises `NoSuchDeployment`.

        closed   where no open one is meant, take the last closed one of exactly that name or dseq
        """
        rows = self.all()
        exact = [row for row in rows if row.name == word] or [row for row in rows if row.dseq == word]
        if exact:
            return exact[0]
        hits = [
            row for row in rows if word and (row.name.startswith(word) or (row.dseq or "").startswith(word))
        ]
        if len(hits) == 1:
            return hits[0]
        if len(hits) > 1:
            raise NoSuchDeployment(
                f"{len(hits)} deployments begin with that: {', '.join(row.name for row in hits)}",
                hint="write the whole name",
            )
        if closed:
            past = self._select("WHERE state = 'closed' AND (name = ? OR dseq = ?)", (word, word))
            if past:
                return past[-1]
        known = ", ".join(row.name for row in rows)
        raise NoSuchDeployment(
            "no deployment has that name or number",
            hint=f"there is {known}" if known else "`akashllm deploy --market local` makes one",
        )

    def update(self, number: int, **changes: Any) -> Deployment:
        """Change columns of one row; `plan` and `facts` are plain data."""
        with self._writing() as database:
            self._change(database, number, changes)
        return self.get(number)

    def exchange(self, old: Deployment, new: Deployment, *, retired: str) -> tuple[Deployment, Deployment]:
        """Give `new` the name of `old`, and `old` the name `retired`, in one transaction."""
        at = self._stamp()
        detail = {"from": new.name, "instead_of": old.id}
        with self._writing() as database:
            for number, name, plan in ((old.id, retired, old.plan), (new.id, old.name, new.plan)):
                database.execute(
                    "UPDATE deployments SET name = ?, plan = ?, updated_at = ? WHERE id = ?",
                    (safe_name(name), _json({**plan, "name": name}), at, number),
                )
            database.execute(
                "INSERT INTO events (deployment, at, step, phase, detail) VALUES (?, ?, 'update', 'after', ?)",
                (new.id, at, _json(detail)),
            )
        return self.get(old.id), self.get(new.id)

    def record(
        self,
        number: int,
        step: str,
        phase: Phase,
        detail: Mapping[str, Any] | None = None,
        /,
        **changes: Any,
    ) -> Deployment:
        """An event and the change that comes with it, in one transaction."""
        with self._writing() as database:
            database.execute(
                "INSERT INTO events (deployment, at, step, phase, detail) VALUES (?, ?, ?, ?, ?)",
                (number, self._stamp(), step, phase, _json(detail or {})),
            )
            self._change(database, number, changes)
        return self.get(number)

    def events(self, number: int) -> Sequence[Event]:
        """What happened to a deployment, oldest first."""
        with self._explained():
            rows = self._database.execute(
                "SELECT at, step, phase, detail FROM events WHERE deployment = ? ORDER BY id", (number,)
            ).fetchall()
        return [
            Event(at=row["at"], step=row["step"], phase=row["phase"], detail=json.loads(row["detail"]))
            for row in rows
        ]

    def _select(self, where: str, values: tuple[str, ...]) -> list[Deployment]:
        with self._explained():
            rows = self._database.execute(
                f"SELECT * FROM deployments {where} ORDER BY id",  # noqa: S608 - `where` is one of ours, above
                values,
            ).fetchall()
        return [_deployment(row) for row in rows]

    def _change(self, database: sqlite3.Connection, number: int, changes: Mapping[str, Any]) -> None:
        if unknown := set(changes) - _COLUMNS:
            raise ValueError(f"no such column: {unknown}")
        values = {key: _json(value) if key in {"plan", "facts"} else value for key, value in changes.items()}
        values["updated_at"] = self._stamp()
        if values.get("state") == "closed":
            values.setdefault("closed_at", values["updated_at"])
        assignments = ", ".join(f"{key} = ?" for key in values)
        database.execute(
            f"UPDATE deployments SET {assignments} WHERE id = ?",  # noqa: S608 - names from _COLUMNS
            (*values.values(), number),
        )

    def _create_file(self) -> None:
        try:
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW, 0o600))
        except FileExistsError:
            check_private(self._path)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._explained():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the driver's words into what to do next."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise StateError(
                    f"another process has been writing {self._path} for more than {_WAIT:.0f} s",
                    hint="wait for the other akashllm command, then try again",
                ) from error
            raise StateError(
                f"{self._path} cannot be used: {error}",
                hint="check that the disk is not full and that the directory can be written",
            ) from error
        except sqlite3.IntegrityError as error:
            raise StateError(
                f"the record would contradict itself ({error})",
                hint="`akashllm list --all` shows what it holds",
            ) from error
        except sqlite3.DatabaseError as error:
            raise StateError(
                f"{self._path} is damaged ({error})",
                hint=f"move it away (mv {self._path} {self._path}.damaged) and run `akashllm list`:"
                " it shows what still runs, and `akashllm close` takes its number",
            ) from error
        except OSError as error:
            raise StateError(
                f"{self._path} cannot be used: {error.strerror or error}",
                hint="check the directory's owner and mode",
            ) from error

    def _stamp(self) -> str:
        return self._now().astimezone(UTC).isoformat(timespec="milliseconds")


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(dict(value), separators=(",", ":"), ensure_ascii=False)


def _deployment(row: sqlite3.Row) -> Deployment:
    values = dict(row)
    try:
        values["plan"], values["facts"] = json.loads(values["plan"]), json.loads(values["facts"])
    except ValueError as error:
        raise StateError(
            f"the record of {values['name']} is damaged ({error})", hint="`akashllm close` takes its number"
        ) from error
    return Deployment(**values)
