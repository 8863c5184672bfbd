"""`open`: the chat page of a deployment."""

from __future__ import annotations

import html
import json as json_module
import sys
import webbrowser
from pathlib import Path

from akashllm.cli import options as opt
from akashllm.cli.operate import address_of, recorded
from akashllm.cli.out import Out
from akashllm.market.closing import DOOR
from akashllm.state.private import read_private, write_private

_DOOR = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="referrer" content="no-referrer"><title>{name}</title></head><body><p>Opening {name}.</p>
<script>location.replace({address})</script></body></html>
"""


def open_(name: opt.Name, *, json: opt.Json = False) -> None:
    """Open a deployment's chat page.

    The key goes along in the address's fragment, which no server ever sees; it is written to a private file
    that the browser is sent to, because others on this machine can read a browser's arguments.
    """
    out = Out(json=json)
    with recorded() as (store, _):
        row = store.find(name)
        page = f"{address_of(row)}/chat"
        directory = store.home.directory(row.name, row.id)
        key = read_private(directory / "api-key").strip()
    opened = _opened(_write_door(directory / DOOR, row.name, f"{page}#key={key}"))
    out.document({"name": row.name, "url": page, "opened": opened})
    out.line(page)
    if not opened:
        out.talk(
            f"no browser can be opened from here: go to that address; `akashllm key {row.name}` prints the key"
        )


def _write_door(path: Path, name: str, address: str) -> Path:
    """A page that leads to `address`, for this user only."""
    # In a script a literal "</" would end it.
    text = json_module.dumps(address).replace("</", "<\\/")
    write_private(path, _DOOR.format(name=html.escape(name), address=text))
    return path


def _opened(path: Path) -> bool:
    """Whether a browser took it. Nothing is started where nobody would see it."""
    if not sys.stderr.isatty():
        return False
    try:
        return webbrowser.open(path.as_uri())
    except webbrowser.Error:
        return False
