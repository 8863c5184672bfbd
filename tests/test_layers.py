"""The arrows between the layers, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "akashllm"

LEAVES = {"errors", "names", "digests", "gguf", "gguf_files", "version"}
"""Modules that may import nothing of ours but each other."""

FORBIDDEN = {
    "server": {
        "cli",
        "market",
        "render",
        "smoke",
        "plan",
        "planning",
        "catalog",
        "sizing",
        "sdl",
        "state",
        "bench",
        "images",
    },
    "server/domain": {"server", "errors", "names"},
    "server/wire": {"server.api", "server.engines", "server.runtime", "server.app", "server.chat"},
    "server/api": {"server.engines", "server.chat", "server.app"},
    "server/engines": {"server.wire", "server.api", "server.runtime", "server.app", "server.guard"},
    "server/chat": {"server.wire", "server.api", "server.runtime", "server.app", "server.engines"},
    "plan": {"cli", "market", "render", "server", "smoke", "state"},
    "planning": {"cli", "market", "render", "smoke", "state"},
    "sizing": {"cli", "market", "render", "server", "smoke", "state"},
    "catalog": {"cli", "market", "render", "smoke", "state"},
    "sdl": {"cli", "market", "render", "server", "smoke", "state"},
    "render": {"cli", "market", "server", "smoke", "state"},
    "smoke": {"cli", "market", "render", "server", "state", "plan"},
    "state": {"cli", "market", "render", "server", "smoke"},
    "market": {"cli", "server"},
}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name below `akashllm`."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> set[str]:
    """What of ours a file imports, by dotted name below `akashllm`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            assert node.level == 0, f"{path}: relative import"
        else:
            continue
        found |= {name.removeprefix("akashllm.") for name in names if name.startswith("akashllm.")}
    return found


def within(name: str, layer: str) -> bool:
    """Whether a module belongs to a layer."""
    layer = layer.replace("/", ".")
    return name == layer or name.startswith(layer + ".")


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_no_layer_reaches_up(layer: str) -> None:
    """A layer imports only what lies below it."""
    wrong = [
        f"{name} imports {target}"
        for name, path in modules().items()
        if within(name, layer)
        for target in imports(path)
        if any(within(target, bad) for bad in FORBIDDEN[layer]) and not within(target, layer)
    ]

    assert wrong == []


def test_the_leaves_import_nothing_of_ours() -> None:
    """Errors, names, digests and the GGUF header reader stand on their own."""
    wrong = [
        f"{name} imports {target}"
        for name, path in modules().items()
        if name in LEAVES
        for target in imports(path)
        if target.split(".")[0] not in LEAVES
    ]

    assert wrong == []


def test_only_the_command_line_prints() -> None:
    """A library never writes to stdout; what it has to say goes through its callers."""
    wrong = [
        name
        for name, path in modules().items()
        if not within(name, "cli")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]

    assert wrong == []
