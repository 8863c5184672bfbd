"""The Hugging Face hub over HTTP: what a repository holds at one commit, and its files.

Paths and headers as huggingface_hub's `hf_api.py` (`/api/models/{repo}/revision/{revision}?blobs=true`) and
`file_download.py` (`/{repo}/resolve/{commit}/{file}`, `X-Error-Code`).
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from akashllm.digests import Sha256
from akashllm.errors import BadName, DigestMismatch, DownloadFailed
from akashllm.server.models.download import download
from akashllm.server.models.filling import Progress, patiently
from akashllm.server.models.origin import safe_path
from akashllm.server.models.source import Patience, Refused, Source, new_client

ENDPOINT = "https://huggingface.co"

MAX_LISTING = 32 << 20
_CHUNK = 1 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repository at one commit. `sha256` is known for large files, `blob` (git's own) for all."""

    path: str
    size: int
    sha256: Sha256 | None
    blob: str


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit."""

    name: str
    commit: str
    files: tuple[RemoteFile, ...]


class Hub:
    """Reads one hub. `token` is sent to `endpoint` only, and not to where its redirects lead."""

    def __init__(
        self, *, endpoint: str = ENDPOINT, token: str | None = None, patience: Patience | None = None
    ) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._token = token
        self._patience = patience or Patience()

    @property
    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._token}"} if self._token else {}

    async def repository(self, name: str, revision: str = "") -> Repository:
        """What `name` (`org/repo`) holds at a branch, tag or commit. Raises `DownloadFailed` in words."""
        what = f"{name} at {revision}" if revision else name
        at = quote(revision or "main", safe="")
        listing = await self._json(
            f"{self._endpoint}/api/models/{quote(name)}/revision/{at}?blobs=true", name, what
        )
        commit = listing.get("sha")
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise DownloadFailed(f"the hub does not say which commit {what} is", hint="try again later")
        return Repository(name, commit, tuple(_files(listing)))

    async def fetch(
        self, repository: Repository, file: RemoteFile, into: Path, *, progress: Progress | None = None
    ) -> Path:
        """Bring one file to `into`, verified. Raises `DownloadFailed` in words, and `DigestMismatch`."""
        url = f"{self._endpoint}/{quote(repository.name)}/resolve/{repository.commit}/{quote(file.path)}"
        try:
            await download(
                url,
                into,
                digest=file.sha256,
                size=file.size,
                headers=self._headers,
                progress=progress,
                patience=self._patience,
            )
        except Refused as error:
            raise self._refusal(error, repository.name, f"{file.path} of {repository.name}") from error
        if file.sha256 is None and file.blob:
            await asyncio.to_thread(_check_blob, into, file, repository.name)
        return into

    async def _json(self, url: str, name: str, what: str) -> Mapping[str, Any]:
        body = bytearray()

        async def attempt() -> None:
            body.clear()
            async with source.get() as response:
                async for piece in response.aiter_bytes():
                    body.extend(piece)
                    if len(body) > MAX_LISTING:
                        raise DownloadFailed(f"the hub's list of files of {what} is too long")

        async with new_client(self._patience) as client:
            source = Source(client, url, what, self._headers)
            try:
                await patiently(self._patience, attempt)
            except Refused as error:
                raise self._refusal(error, name, what) from error
        try:
            listing = msgspec.json.decode(bytes(body))
        except (msgspec.DecodeError, RecursionError):
            listing = None
        if not isinstance(listing, dict):
            raise DownloadFailed(
                f"{httpx.URL(url).host} does not answer as the Hugging Face hub does",
                hint="check HF_ENDPOINT, or try again later",
            )
        return listing

    def _refusal(self, error: Refused, name: str, what: str) -> DownloadFailed:
        """A refusal in words. The hub answers 401 for what does not exist if there is no token."""
        status, word = error.status, error.word.lower()
        page = f"{self._endpoint}/{name}"
        if "gated" in word or status == 403:
            if self._token:
                return DownloadFailed(
                    f"{name} is gated, and the account of HF_TOKEN may not read it",
                    hint=f"accept its licence on {page} with that account, or use the token of one that did",
                    status=status,
                )
            return DownloadFailed(
                f"{name} is gated: its licence has to be accepted",
                hint=f"accept it on {page}, make a token that may read, and deploy with HF_TOKEN",
                status=status,
            )
        if status == 401 and self._token and "notfound" not in word:
            return DownloadFailed(
                "the hub does not accept HF_TOKEN", hint="make a new token that may read", status=status
            )
        if "revision" in word:
            return DownloadFailed(
                f"{name} has no such revision", hint=f"{page}/commits/main lists them", status=status
            )
        if status in {401, 404}:
            also = "" if self._token else "; if it is private or gated, set HF_TOKEN"
            return DownloadFailed(f"the hub has no {what}", hint=f"check the spelling{also}", status=status)
        return DownloadFailed(error.message, hint=error.hint, status=status, retry_after=error.retry_after)


def _files(listing: Mapping[str, Any]) -> list[RemoteFile]:
    """The files that may be written somewhere. What a listing says is not believed without a look."""
    found = []
    rows = listing.get("siblings")
    for row in rows if isinstance(rows, list) else ():
        match row:
            case {"rfilename": str(path), "size": int(size)} if size >= 0 and safe_path(path):
                found.append(RemoteFile(path, size, _sha256(row), str(row.get("blobId") or "")))
    return found


def _sha256(row: Mapping[str, Any]) -> Sha256 | None:
    lfs = row.get("lfs")
    text = lfs.get("sha256") or lfs.get("oid") if isinstance(lfs, dict) else None
    try:
        return Sha256(text) if isinstance(text, str) else None
    except BadName:
        return None


def _check_blob(path: Path, file: RemoteFile, name: str) -> None:
    """Compare a small file, which has no sha256, with what git calls its content."""
    hashed = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with path.open("rb") as opened:
        while piece := opened.read(_CHUNK):
            hashed.update(piece)
    if hashed.hexdigest() != file.blob:
        path.unlink()
        raise DigestMismatch(
            f"{file.path} of {name} is not the file that the hub lists", hint="it was removed; fetch it again"
        )
