"""Reading multipart/form-data from a client that may mean harm: few parts, short fields, one file on disk."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from akashllm.errors import BadRequest, ServiceError, TooLarge, UnsupportedMedia
from akashllm.server.guard.body import pieces
from akashllm.server.settings import PREFIX, Settings

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS: Final = 64
MAX_FIELD: Final = 64 * 1024
"""Bytes of one field that is not the file."""
_HEAD: Final = 64
_ROOM: Final = 1024 * 1024
"""Bytes of a body besides the file."""
_BOUNDARY: Final = 70
"""Characters of a boundary (RFC 2046, 5.1.1)."""


@dataclass(slots=True)
class Form:
    """A form: its fields in order of arrival, and where the file was put. The file is gone after the request.

    head    the first bytes of the file;  size: how many it has
    """

    fields: dict[str, list[str]] = field(default_factory=dict)
    path: Path | None = None
    head: bytes = b""
    size: int = 0


@contextlib.asynccontextmanager
async def read_form(request: Request, *, file: str) -> AsyncIterator[Form]:
    """The form in the body; its part named `file` goes to a temporary file that only this user may read.

    Raises `BadRequest`, `TooLarge` or `UnsupportedMedia`; nothing stays on the disk in any case.
    """
    settings: Settings = request.app.state.settings
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        raise UnsupportedMedia(
            "the body must be multipart/form-data", hint="send a form with the parts file and model"
        )
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= _BOUNDARY:
        raise BadRequest("the form has no boundary, or one that is too long", code="invalid_form")
    try:
        descriptor, name = tempfile.mkstemp(prefix="akashllm-", suffix=".upload")
    except OSError as error:
        raise _no_room(error) from error
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as out:
            reader = _Reader(file, settings.max_audio_bytes, out.write)
            parser = MultipartParser(boundary, reader.callbacks())
            cap = settings.max_audio_bytes + _ROOM
            async for chunk in pieces(request, settings, cap, "MAX_AUDIO_BYTES"):
                reader.feed(parser, chunk)
        if not reader.ended:
            raise BadRequest("the form ends before its last boundary", code="invalid_form")
        if reader.found:
            reader.form.path = path
        yield reader.form
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


class _Reader:
    """What the parser calls. An error raised in a callback comes out of `feed`."""

    def __init__(self, file: str, largest: int, write: Callable[[bytes], object]) -> None:
        self.form = Form()
        self.ended = False
        self.found = False
        self._file = file
        self._largest = largest
        self._write = write
        self._parts = 0
        self._name = ""
        self._key = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._text = bytearray()
        self._to_file = False

    def feed(self, parser: MultipartParser, chunk: bytes) -> None:
        """Parse some more of the body."""
        try:
            parser.write(chunk)
        except FormParserError as error:
            raise BadRequest("the form is malformed", code="invalid_form") from error
        except OSError as error:
            raise _no_room(error) from error

    def callbacks(self) -> MultipartCallbacks:
        """By the parser's names."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._key.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_headers_finished": self._part,
            "on_part_data": self._data,
            "on_part_end": self._finish,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BadRequest(f"the form has more than {MAX_PARTS} parts", code="limit_exceeded")
        self._headers.clear()
        self._text.clear()

    def _header(self) -> None:
        self._headers[bytes(self._key).lower()] = bytes(self._value)
        self._key.clear()
        self._value.clear()

    def _part(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name")
        if kind != b"form-data" or name is None:
            raise BadRequest("a part of the form has no name", code="invalid_form")
        if self._headers.get(b"content-transfer-encoding", b"binary").strip().lower() not in _PLAIN:
            raise BadRequest("a part of the form is encoded: send its bytes as they are", code="invalid_form")
        self._name = _decoded(name, "a name")
        self._to_file = self._name == self._file
        if self._to_file:
            if self.found:
                raise BadRequest(f"'{self._file}' is given twice", param=self._file, code="invalid_form")
            self.found = True

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self._to_file:
            if len(self._text) + end - start > MAX_FIELD:
                raise BadRequest(
                    f"'{self._name[:40]}' has more than {MAX_FIELD} bytes",
                    param=self._name[:40],
                    code="limit_exceeded",
                )
            self._text += data[start:end]
            return
        form = self.form
        form.size += end - start
        if form.size > self._largest:
            raise TooLarge(
                f"the file is larger than {self._largest} bytes, the limit {PREFIX}MAX_AUDIO_BYTES sets",
                param=self._file,
            )
        if len(form.head) < _HEAD:
            form.head += data[start : min(end, start + _HEAD)]
        self._write(data[start:end])

    def _finish(self) -> None:
        if not self._to_file:
            self.form.fields.setdefault(self._name, []).append(
                _decoded(bytes(self._text), f"'{self._name[:40]}'")
            )

    def _end(self) -> None:
        self.ended = True


_PLAIN = frozenset({b"", b"binary", b"8bit", b"7bit"})


def _decoded(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"{what} in the form is not UTF-8", code="invalid_form") from error


def _no_room(error: OSError) -> ServiceError:
    return ServiceError(f"the file cannot be stored on this machine: {error.strerror}")
