"""`login`: keep the key for Akash's Console."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer

from akashllm.cli import options as opt
from akashllm.cli.out import Out
from akashllm.errors import KeyRefused
from akashllm.market.console import ConsoleMarket
from akashllm.market.console_http import ConsoleHttp
from akashllm.market.console_journal import Journal
from akashllm.market.console_key import WHERE, ApiKey, forget_key, keep_key
from akashllm.state import Home

Forget = Annotated[bool, typer.Option("--forget", help="Remove the key that was kept.")]


def login(
    *,
    api_key_env: opt.KeyEnv = None,
    api_key_file: opt.KeyFile = None,
    forget: Forget = False,
    json: opt.Json = False,
) -> None:
    """Keep the key for Akash's Console.

    Asks for it, tries it, and writes it to a file that only you can read. AKASH_CONSOLE_API_KEY goes before it.
    """
    out = Out(json=json)
    home = Home.find()
    if forget:
        there = forget_key(home)
        out.document({"kept": False, "was_kept": there})
        out.line("the key is forgotten" if there else "no key was kept")
        return
    key = ApiKey(opt.read_key(api_key_env, api_key_file) or _typed())
    market = ConsoleMarket(http=ConsoleHttp(key), journal=Journal(home.root / "console" / "orders"))
    try:
        balance = market.balance()
    finally:
        market.close_connections()
    path = keep_key(home, key)
    out.document({"kept": True, "path": str(path), "balance": str(balance.available)})
    out.line(f"Console accepts the key; the account has ${balance.available:.2f}")
    out.line(f"kept in {path}")


def _typed() -> str:
    """The key from a prompt that does not show it, or a line of stdin."""
    text = getpass.getpass("API key of Akash's Console: ") if sys.stdin.isatty() else sys.stdin.readline(1024)
    if not text.strip():
        raise KeyRefused("no key was given", hint=WHERE)
    return text
