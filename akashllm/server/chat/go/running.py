"""Runs a parsed template over plain values, within limits.

A run costs a step for every node and one more for every so much that a function makes, and it may take so much
processor time; so it ends whatever the template and the values are. What it may print is bounded, and how deep
it may go.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

from akashllm.server.chat.go.faults import GoTemplateError, OperandFault
from akashllm.server.chat.go.functions import FUNCTIONS
from akashllm.server.chat.go.printing import TEXT, shown
from akashllm.server.chat.go.scanning import quoted
from akashllm.server.chat.go.tree import (
    Action,
    Body,
    Branch,
    Chain,
    Dot,
    Field,
    Function,
    Invoke,
    Leave,
    Literal,
    Nil,
    Node,
    Operand,
    Pipe,
    Text,
    Variable,
)
from akashllm.server.chat.go.values import NIL, Record, element, held, truth, type_name

STEPS: Final = 2_000_000
"""Nodes one run may visit. A long chat takes some hundred thousand."""
SECONDS: Final = 4.0
"""Processor time of one run."""
DEPTH: Final = 120
"""Nodes inside each other, definitions that call each other included."""

_CHARACTERS_A_STEP: Final = 256
_STEPS_UNWATCHED: Final = 64
_NOTHING: Final = object()
"""No value came down the pipeline."""


class _Break(Exception):
    """`{{ break }}`"""


class _Continue(Exception):
    """`{{ continue }}`"""


def run(bodies: Mapping[str, Body], body: Body, data: Any, source: str) -> str:
    """What `body` prints of `data`; `bodies` are the definitions it may call.

    Raises `GoTemplateError` with Go's words where an operation does not fit its operands or a limit is reached.
    """
    state = _Run(bodies, source)
    try:
        state.body(body, data, [("$", data)])
    except RecursionError as error:
        raise GoTemplateError("template: the template or its values are nested too deeply") from error
    return "".join(state.out)


class _Run:
    def __init__(self, bodies: Mapping[str, Body], source: str) -> None:
        self.out: list[str] = []
        self._bodies = bodies
        self._source = source
        self._name = ""
        self._printed = 0
        self._steps = 0
        self._watch = 0
        self._deadline = time.thread_time() + SECONDS
        self._depth = 0

    # --- limits and faults ---------------------------------------------------------------------------------

    def _fail(self, node: Node | Operand, message: str) -> NoReturn:
        before = self._source[: node.at]
        line, column = before.count("\n") + 1, node.at - (before.rfind("\n") + 1)
        where = quoted(self._name)
        context = (
            node.name if isinstance(node, Invoke) else "" if isinstance(node, Text | Leave) else _text(node)
        )
        raise GoTemplateError(
            f"template: :{line}:{column}: executing {where} at <{context[:40]}>: {message}", line
        )

    def _charge(self, node: Node | Operand, characters: int = 0) -> None:
        self._steps += 1 + characters // _CHARACTERS_A_STEP
        if self._steps >= self._watch:
            self._watch = self._steps + _STEPS_UNWATCHED
            if self._steps > STEPS or time.thread_time() > self._deadline:
                self._fail(node, "the template takes too long")

    def _made(self, node: Operand, value: Any) -> Any:
        """A value a function made, if it is not too large."""
        if isinstance(value, str) and len(value) > TEXT:
            self._fail(node, f"a text of more than {TEXT} characters")
        if isinstance(value, str | list):
            self._charge(node, len(value))
        return value

    def _print(self, node: Node, text: str) -> None:
        self._printed += len(text)
        if self._printed > TEXT:
            self._fail(node, f"the template prints more than {TEXT} characters")
        self._charge(node, len(text))
        self.out.append(text)

    # --- nodes ---------------------------------------------------------------------------------------------

    def body(self, nodes: Body, dot: Any, names: list[tuple[str, Any]]) -> None:
        """Run nodes one after the other; `names` is the stack of variables."""
        self._depth += 1
        if self._depth > DEPTH and nodes:
            self._fail(nodes[0], f"more than {DEPTH} blocks are inside each other")
        for node in nodes:
            self._node(node, dot, names)
        self._depth -= 1

    def _node(self, node: Node, dot: Any, names: list[tuple[str, Any]]) -> None:
        self._charge(node)
        match node:
            case Text():
                self._print(node, node.text)
            case Action():
                value = self._pipe(node.pipe, dot, names)
                if not node.pipe.names:
                    try:
                        self._print(node, shown(value, nothing="<no value>"))
                    except OperandFault as fault:
                        self._fail(node, str(fault))
            case Branch(kind="range"):
                self._range(node, dot, names)
            case Branch():
                known = len(names)
                value = self._pipe(node.pipe, dot, names)
                if truth(value):
                    self.body(node.body, value if node.kind == "with" else dot, names)
                elif node.orelse is not None:
                    self.body(node.orelse, dot, names)
                del names[known:]
            case Invoke():
                self._invoke(node, dot, names)
            case Leave():
                raise _Break if node.kind == "break" else _Continue

    def _range(self, node: Branch, dot: Any, names: list[tuple[str, Any]]) -> None:
        known, depth = len(names), self._depth
        value = held(self._pipe(node.pipe, dot, names))
        inside = len(names)
        empty = True
        for key, item in self._items(node, value):
            empty = False
            self._charge(node)
            declared = node.pipe.names
            if declared:
                self._bind(names, inside, declared, key, item)
            try:
                self.body(node.body, item, names)
            except _Continue:
                self._depth = depth
            except _Break:
                self._depth = depth
                break
            del names[inside:]
        if empty and node.orelse is not None:
            self.body(node.orelse, dot, names)
        del names[known:]

    @staticmethod
    def _bind(names: list[tuple[str, Any]], top: int, declared: Sequence[str], key: Any, item: Any) -> None:
        """Set the variables of a range: the last one on the stack is the element, the one below its key."""
        del names[top:]
        names[top - 1] = (names[top - 1][0], item)
        if len(declared) > 1:
            names[top - 2] = (names[top - 2][0], key)

    def _items(self, node: Branch, value: Any) -> Iterator[tuple[Any, Any]]:
        if value is None:
            return iter(())
        if isinstance(value, dict):
            return ((key, element(value[key])) for key in sorted(value, key=str.encode))
        if isinstance(value, list):
            return ((at, element(item)) for at, item in enumerate(value))
        if isinstance(value, int) and not isinstance(value, bool):
            return ((at, at) for at in range(value))
        return self._fail(node.pipe, f"range can't iterate over {shown(value)[:100]}")

    def _invoke(self, node: Invoke, dot: Any, names: list[tuple[str, Any]]) -> None:
        body = self._bodies.get(node.name)
        if body is None:
            self._fail(node, f"template {quoted(node.name)} not defined")
        value = None if node.pipe is None else self._pipe(node.pipe, dot, names)
        outer, self._name = self._name, node.name
        self.body(body, value, [("$", value)])
        self._name = outer

    # --- pipelines -----------------------------------------------------------------------------------------

    def _pipe(self, pipe: Pipe, dot: Any, names: list[tuple[str, Any]]) -> Any:
        value: Any = _NOTHING
        self._depth += 1
        if self._depth > DEPTH:
            self._fail(pipe, f"more than {DEPTH} blocks are inside each other")
        for command in pipe.commands:
            value = held(self._command(command.args, dot, names, value))
        self._depth -= 1
        for name in pipe.names:
            if not pipe.assign:
                names.append((name, value))
                continue
            place = next((at for at in range(len(names) - 1, -1, -1) if names[at][0] == name), None)
            if place is None:
                self._fail(pipe, f"undefined variable: {name}")
            names[place] = (name, value)
        return value

    def _command(self, args: Sequence[Operand], dot: Any, names: list[tuple[str, Any]], final: Any) -> Any:
        first = args[0]
        self._charge(first)
        if isinstance(first, Function):
            return self._call(first, args[1:], dot, names, final)
        if len(args) > 1 or final is not _NOTHING:
            if isinstance(first, Field | Chain) or (isinstance(first, Variable) and first.names):
                value = self._value(first, dot, names)
                name = first.names[-1]
                what = "has arguments but cannot be invoked as function"
                del value
                self._fail(first, f"{name} {what}")
            self._fail(first, f"can't give argument to non-function {first}")
        if isinstance(first, Nil):
            self._fail(first, "nil is not a command")
        return self._value(first, dot, names)

    def _value(self, operand: Operand, dot: Any, names: list[tuple[str, Any]]) -> Any:
        """What an operand stands for, without arguments."""
        match operand:
            case Dot():
                return dot
            case Nil():
                return None
            case Literal():
                return operand.value
            case Field():
                return self._fields(operand, dot, operand.names)
            case Variable():
                found = next((value for name, value in reversed(names) if name == operand.name), _NOTHING)
                if found is _NOTHING:
                    self._fail(operand, f"undefined variable: {operand.name}")
                return self._fields(operand, found, operand.names)
            case Function():
                return self._call(operand, (), dot, names, _NOTHING)
            case Chain():
                if isinstance(operand.of, Nil):
                    self._fail(operand, f"indirection through explicit nil in {operand}")
                self._charge(operand)
                return self._fields(operand, self._value(operand.of, dot, names), operand.names)
            case Pipe():
                return self._pipe(operand, dot, names)

    def _fields(self, operand: Operand, value: Any, fields: Sequence[str]) -> Any:
        for name in fields:
            if value is None:
                continue
            if value is NIL:
                self._fail(operand, f"nil pointer evaluating interface {{}}.{name}")
            if isinstance(value, Record) and name in value:
                value = value[name]
            elif isinstance(value, dict):
                value = element(value.get(name))
            else:
                self._fail(operand, f"can't evaluate field {name} in type {type_name(value)}")
        return value

    def _call(
        self, function: Function, args: Sequence[Operand], dot: Any, names: list[tuple[str, Any]], final: Any
    ) -> Any:
        name = function.name
        known = FUNCTIONS[name]
        count = len(args) + (final is not _NOTHING)
        if count < known.least or (known.most is not None and count > known.most):
            least = f"at least {known.least}" if known.most is None else str(known.least)
            given = len(args) if known.most is None else count
            self._fail(function, f"wrong number of args for {name}: want {least} got {given}")
        if name in {"and", "or"}:
            value: Any = None
            for arg in args:
                value = self._value(arg, dot, names)
                if truth(value) is (name == "or"):
                    return value
            return value if final is _NOTHING else final
        values = [self._value(arg, dot, names) for arg in args]
        if final is not _NOTHING:
            values.append(final)
        try:
            return self._made(function, known.run(*values))
        except OperandFault as fault:
            self._fail(function, f"error calling {name}: {fault}")


def _text(node: Action | Branch | Operand) -> str:
    return str(node.pipe) if isinstance(node, Action | Branch) else str(node)
