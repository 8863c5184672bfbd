"""What a template is once it is read. `at` is a place in the source, for complaints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Dot:
    """`.`"""

    at: int

    def __str__(self) -> str:
        return "."


@dataclass(frozen=True, slots=True)
class Nil:
    """`nil`"""

    at: int

    def __str__(self) -> str:
        return "nil"


@dataclass(frozen=True, slots=True)
class Literal:
    """A number, string, character or boolean: its value and how it was written."""

    at: int
    value: Any
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Field:
    """`.A.B`"""

    at: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return "".join(f".{name}" for name in self.names)


@dataclass(frozen=True, slots=True)
class Variable:
    """`$x.A.B`; `name` has the dollar."""

    at: int
    name: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name + "".join(f".{name}" for name in self.names)


@dataclass(frozen=True, slots=True)
class Function:
    """A function's name."""

    at: int
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Chain:
    """`(pipeline).A.B`"""

    at: int
    of: Operand
    names: tuple[str, ...]

    def __str__(self) -> str:
        inner = f"({self.of})" if isinstance(self.of, Pipe) else str(self.of)
        return inner + "".join(f".{name}" for name in self.names)


@dataclass(frozen=True, slots=True)
class Command:
    """An operand with its arguments."""

    at: int
    args: tuple[Operand, ...]

    def __str__(self) -> str:
        return " ".join(f"({arg})" if isinstance(arg, Pipe) else str(arg) for arg in self.args)


@dataclass(frozen=True, slots=True)
class Pipe:
    """Commands, each given the value of the one before; `names` are declared or, if `assign`, set."""

    at: int
    names: tuple[str, ...]
    assign: bool
    commands: tuple[Command, ...]

    def __str__(self) -> str:
        head = f"{', '.join(self.names)} {'=' if self.assign else ':='} " if self.names else ""
        return head + " | ".join(map(str, self.commands))


Operand = Dot | Nil | Literal | Field | Variable | Function | Chain | Pipe


@dataclass(frozen=True, slots=True)
class Text:
    """Text between actions."""

    at: int
    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """`{{ pipeline }}`"""

    at: int
    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`, `with` and `range`: `kind` says which."""

    at: int
    kind: str
    pipe: Pipe
    body: tuple[Node, ...]
    orelse: tuple[Node, ...] | None


@dataclass(frozen=True, slots=True)
class Invoke:
    """`{{ template "name" pipeline }}`"""

    at: int
    name: str
    pipe: Pipe | None


@dataclass(frozen=True, slots=True)
class Leave:
    """`break` or `continue`."""

    at: int
    kind: str


Node = Text | Action | Branch | Invoke | Leave
Body = tuple[Node, ...]


def empty(body: Body) -> bool:
    """Whether there is nothing but spaces: such a definition gives way to another of its name."""
    return all(isinstance(node, Text) and not node.text.strip(" \t\r\n\v\f\x85\xa0") for node in body)
