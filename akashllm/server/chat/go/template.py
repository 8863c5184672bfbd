"""When and with what a Modelfile's TEMPLATE is run: the rules of Ollama's `template/template.go`.

A template that speaks of `.Messages` is run once and sees everything. An older one, of `.System`, `.Prompt` and
`.Response`, is run for each exchange, and for the last one only up to its `.Response`, where the model goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from akashllm.server.chat.go.functions import FUNCTIONS
from akashllm.server.chat.go.parsing import parse
from akashllm.server.chat.go.running import run
from akashllm.server.chat.go.tree import Action, Body, Branch, Command, Field, Invoke, Operand, Pipe, Variable
from akashllm.server.chat.go.values import JsonList, JsonMap, JsonRecord, Part, Record, Words

Think = bool | str | None
"""Whether to think, or how hard; None where nobody says."""

_RESPONSE: Final = Action(
    0, Pipe(0, names=(), assign=False, commands=(Command(0, (Field(0, ("Response",)),)),))
)
"""What is added to a template that speaks of neither messages nor response."""

_PLAIN: Final = frozenset({"type", "description", "anyOf", "items", "enum", "properties", "required"})


class GoTemplate:
    """A parsed TEMPLATE. Raises `GoTemplateError` with Go's words and the line if it cannot be read."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._bodies = parse(source, FUNCTIONS)
        found = (name for body in self._bodies.values() for name in _names(body))
        self.names = frozenset(name.lower() for name in found)
        """Every field and variable the template names, in lower case."""
        body = self._bodies[""]
        self._body = body if self.names & {"messages", "response"} else (*body, _RESPONSE)
        self._opening = _Cut().body(self._body)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        think: Think = None,
    ) -> str:
        """The prompt of a conversation. Messages and tools are plain data, as `plain` makes them.

        Raises `GoTemplateError` where the template cannot be run on them.
        """
        collated = _collate(messages)
        if "messages" in self.names:
            system = "\n\n".join(one["content"] for one in messages if one["role"] == "system")
            return self._run(
                self._body,
                think,
                System=system,
                Messages=[_message(message) for message in collated],
                Tools=JsonList(map(_tool, tools)),
                Response="",
            )
        out: list[str] = []
        turn = {"System": "", "Prompt": "", "Response": ""}
        for message in collated:
            place = {"system": "System", "user": "Prompt", "assistant": "Response"}.get(message["role"])
            if place is None:
                continue
            over = turn["Response"] or (place == "System" and turn["Prompt"])
            if over and place != "Response":
                out.append(self._run(self._body, think, **turn))
                turn = {"System": "", "Prompt": "", "Response": ""}
            turn[place] = message["content"]
        return "".join([*out, self._run(self._opening, think, **turn)])

    def infill(self, prefix: str, suffix: str, *, think: Think = None) -> str:
        """The prompt to fill in between two texts, for a template that speaks of `.Suffix`."""
        return self._run(self._body, think, Prompt=prefix, Suffix=suffix, Response="")

    def _run(self, body: Body, think: Think, **values: Any) -> str:
        data = {
            **values,
            "Think": bool(think),
            "ThinkLevel": think if isinstance(think, str) else "",
            "IsThinkSet": think is not None,
        }
        return run(self._bodies, body, data, self.source)


def _collate(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours of one role made one, but for answers of tools.

    Ollama drops the calls of a message that is joined to the one before; here they are kept.
    """
    out: list[dict[str, Any]] = []
    for message in messages:
        if not out or out[-1]["role"] != message["role"] or message["role"] == "tool":
            out.append(dict(message))
            continue
        last = out[-1]
        last["content"] = f"{last['content']}\n\n{message['content']}"
        for several in ("tool_calls", "images"):
            last[several] = [*last[several], *message[several]]
    return out


def _message(message: Mapping[str, Any]) -> Record:
    return Record(
        "*template.templateMessage",
        *(
            Part(name, name, value)
            for name, value in (
                ("Role", message["role"]),
                ("Content", message["content"]),
                ("Thinking", message["thinking"]),
                ("Images", JsonList(message["images"])),
                ("ToolCalls", JsonList(map(_call, message["tool_calls"]))),
                ("ToolName", message["tool_name"]),
                ("ToolCallID", message["tool_call_id"]),
            )
        ),
    )


def _call(call: Mapping[str, Any]) -> Record:
    function = Record(
        "template.templateToolCallFunction",
        Part("Index", "Index", call["index"]),
        Part("Name", "Name", call["name"]),
        Part("Arguments", "Arguments", JsonMap(call["arguments"])),
    )
    return Record(
        "template.templateToolCall", Part("ID", "ID", call["id"]), Part("Function", "Function", function)
    )


def _tool(tool: Mapping[str, Any]) -> Record:
    """A tool in the order of Ollama's struct; what else its schema says follows, where Ollama drops it."""
    schema = tool["parameters"]
    given = schema.get("properties")
    properties = given if isinstance(given, Mapping) else {}
    parameters = Record(
        "template.templateToolFunctionParameters",
        Part("Type", "type", str(schema.get("type") or "object")),
        Part("Defs", "$defs", schema.get("$defs"), omitted=True),
        Part("Items", "items", schema.get("items"), omitted=True),
        Part("Required", "required", schema.get("required"), omitted=True),
        Part("Properties", "properties", JsonMap({key: _property(one) for key, one in properties.items()})),
        *(
            Part("", key, schema[key])
            for key in sorted(schema.keys() - {"type", "$defs", "items", "required", "properties"})
        ),
    )
    function = JsonRecord(
        "template.templateToolFunction",
        Part("Name", "name", tool["name"]),
        Part("Description", "description", tool["description"]),
        Part("Parameters", "parameters", parameters),
    )
    return JsonRecord(
        "template.templateTool", Part("Type", "type", "function"), Part("Function", "function", function)
    )


def _property(schema: Any) -> Any:
    """A property of a tool's parameters (`api.ToolProperty`); one that is no object stays what it is."""
    if not isinstance(schema, Mapping):
        return schema
    kind, several, nested = schema.get("type"), schema.get("anyOf"), schema.get("properties")
    words = Words([kind] if isinstance(kind, str) else map(str, kind) if isinstance(kind, list) else [])
    inner = (
        JsonMap({key: _property(one) for key, one in nested.items()}) if isinstance(nested, Mapping) else None
    )
    return Record(
        "api.ToolProperty",
        Part(
            "AnyOf",
            "anyOf",
            [_property(one) for one in several] if isinstance(several, list) else None,
            omitted=True,
        ),
        Part("Type", "type", words, omitted=True),
        Part("Items", "items", schema.get("items"), omitted=True),
        Part("Description", "description", str(schema.get("description") or ""), omitted=True),
        Part("Enum", "enum", schema.get("enum"), omitted=True),
        Part("Properties", "properties", inner, omitted=True),
        Part("Required", "required", schema.get("required"), omitted=True),
        *(Part("", key, schema[key]) for key in sorted(schema.keys() - _PLAIN)),
    )


def _names(body: Body) -> Iterator[str]:
    """The fields and variables a body names (`Identifiers` in Ollama)."""
    for node in body:
        match node:
            case Action() | Invoke():
                if node.pipe is not None:
                    yield from _piped(node.pipe)
            case Branch():
                yield from _piped(node.pipe)
                yield from _names(node.body)
                yield from _names(node.orelse or ())


def _piped(pipe: Pipe) -> Iterator[str]:
    for command in pipe.commands:
        for arg in command.args:
            match arg:
                case Field():
                    yield from arg.names
                case Variable():
                    yield from (arg.name, *arg.names)
                case Pipe():
                    yield from _piped(arg)


class _Cut:
    """Takes away all that comes after the first `.Response` (`deleteNode` in Ollama)."""

    def __init__(self) -> None:
        self._over = False

    def body(self, body: Body) -> Body:
        """The body up to there."""
        out: list[Any] = []
        for node in body:
            if self._over:
                break
            match node:
                case Action():
                    pipe = self._pipe(node.pipe)
                    if pipe is not None:
                        out.append(replace(node, pipe=pipe))
                case Branch():
                    inner = self.body(node.body)
                    orelse = None if node.orelse is None or self._over else self.body(node.orelse)
                    out.append(replace(node, body=inner, orelse=orelse))
                case _:
                    out.append(node)
        return tuple(out)

    def _pipe(self, pipe: Pipe) -> Pipe | None:
        commands: list[Command] = []
        for command in pipe.commands:
            if self._over:
                break
            args = [kept for arg in command.args if (kept := self._arg(arg)) is not None]
            if not args:
                return None
            commands.append(replace(command, args=tuple(args)))
        return replace(pipe, commands=tuple(commands)) if commands else None

    def _arg(self, arg: Operand) -> Operand | None:
        if self._over:
            return None
        if isinstance(arg, Pipe):
            return self._pipe(arg)
        if isinstance(arg, Field | Variable) and "Response" in arg.names:
            self._over = True
        return arg
