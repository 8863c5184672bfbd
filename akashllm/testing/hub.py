"""A Hugging Face hub on this machine: listings, redirects to a file server, gates, and that server's faults."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from akashllm.testing.files import Asked, Fault, FileServer, running_files

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 10_000
"""Bytes from which a file is kept apart (Git LFS), which gives it a sha256 and a redirect."""

_API = re.compile(r"/api/models/(?P<name>[^/]+/[^/?]+)(?:/revision/(?P<revision>[^/?]+))?\?blobs=true")
_RESOLVE = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>[^?]+)")


@dataclass
class Repository:
    """Files by path at commits; `tokens` are those that may read it (None: anyone)."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    tokens: frozenset[str] | None = None
    gated: bool = False


@dataclass
class HubServer:
    """`front` speaks the hub's API; `cdn` holds the large files, and takes the faults that downloads meet."""

    front: FileServer
    cdn: FileServer
    repositories: dict[str, Repository] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is set to."""
        return self.front.url

    def put(
        self,
        name: str,
        files: Mapping[str, bytes],
        *,
        commit: str = COMMIT,
        revision: str = "main",
        tokens: frozenset[str] | None = None,
        gated: bool = False,
    ) -> None:
        """A repository at one commit, with a branch that points there."""
        repository = self.repositories.setdefault(name, Repository())
        repository.commits[commit] = dict(files)
        repository.revisions[revision] = commit
        repository.tokens, repository.gated = tokens, gated
        for data in files.values():
            if len(data) >= LARGE:
                self.cdn.put(f"/{hashlib.sha256(data).hexdigest()}", data)

    def answer(self, asked: Asked) -> Fault | None:
        """What the hub says to one request."""
        api, resolve = _API.fullmatch(asked.path), _RESOLVE.fullmatch(asked.path)
        found = api or resolve
        if found is None:
            return Fault(status=404)
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        repository = self.repositories.get(found["name"])
        if repository is None:
            return _refuse(404 if token else 401, "RepoNotFound")
        if repository.tokens is not None and token not in repository.tokens:
            if repository.gated:
                return _refuse(403 if token else 401, "GatedRepo")
            return _refuse(404 if token else 401, "RepoNotFound")
        revision = found["revision"] or "main"
        commit = repository.revisions.get(revision, revision)
        files = repository.commits.get(commit)
        if files is None:
            return _refuse(404, "RevisionNotFound")
        if api:
            self.front.put(asked.path.partition("?")[0], _listing(found["name"], commit, files, repository))
            return Fault(headers={"Content-Type": "application/json"})
        data = files.get(found["file"])
        if data is None:
            return _refuse(404, "EntryNotFound")
        if len(data) < LARGE:
            self.front.put(asked.path, data)
            return None
        digest = hashlib.sha256(data).hexdigest()
        return Fault(
            status=302,
            headers={
                "Location": f"{self.cdn.url}/{digest}?signature=for-a-while",
                "X-Linked-ETag": f'"{digest}"',
                "X-Linked-Size": str(len(data)),
                "X-Repo-Commit": commit,
            },
        )


@contextmanager
def running_hub() -> Iterator[HubServer]:
    """A hub and its file server on ephemeral ports of the loopback interface."""
    with running_files() as front, running_files() as cdn:
        hub = HubServer(front, cdn)
        front.judge = hub.answer
        yield hub


def _listing(name: str, commit: str, files: Mapping[str, bytes], repository: Repository) -> bytes:
    siblings = []
    for path, data in files.items():
        row: dict[str, object] = {
            "rfilename": path,
            "size": len(data),
            "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest(),
        }
        if len(data) >= LARGE:
            row["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        siblings.append(row)
    body = {"id": name, "sha": commit, "gated": "manual" if repository.gated else False, "siblings": siblings}
    return json.dumps(body).encode()


def _refuse(status: int, code: str) -> Fault:
    return Fault(status=status, headers={"X-Error-Code": code})
