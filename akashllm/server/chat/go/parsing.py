"""From tokens to a tree, with Go's complaints about what does not fit."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NoReturn

from akashllm.server.chat.go import literals
from akashllm.server.chat.go.faults import GoTemplateError, parse_fault
from akashllm.server.chat.go.scanning import Token, quoted, scan
from akashllm.server.chat.go.tree import (
    Action,
    Body,
    Branch,
    Chain,
    Command,
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
    empty,
)

SOURCE: Final = 512 * 1024
"""Characters of a template; the longest in Ollama's library have about 10,000."""
NESTING: Final = 100
"""Blocks and parentheses inside each other."""

_OPERANDS: Final = frozenset(
    {"bool", "character", "dot", "field", "identifier", "number", "nil", "raw", "string", "variable", "("}
)


def parse(source: str, functions: Collection[str]) -> dict[str, Body]:
    """The bodies of a template and of what it defines, by name; its own name is empty.

    Raises `GoTemplateError`.
    """
    if len(source) > SOURCE:
        raise GoTemplateError(f"the template has {len(source)} characters, and {SOURCE} are read", 1)
    return _Parser(source, functions).whole()


class _Parser:
    def __init__(self, source: str, functions: Collection[str]) -> None:
        self._tokens = list(scan(source))
        self._functions = functions
        self._at = 0
        self._reach = 0
        self._action_line = 0
        self._variables = ["$"]
        self._ranges = 0
        self._depth = 0
        self._bodies: dict[str, Body] = {}

    # --- tokens --------------------------------------------------------------------------------------------

    def _peek(self) -> Token:
        at = min(self._at, len(self._tokens) - 1)
        self._reach = max(self._reach, at)
        return self._tokens[at]

    def _next(self) -> Token:
        token = self._peek()
        self._at += 1
        return token

    def _peek_word(self) -> Token:
        """The next token that is not a space; spaces before it are stepped over."""
        while self._peek().kind == "space":
            self._at += 1
        return self._peek()

    def _next_word(self) -> Token:
        token = self._peek_word()
        self._at += 1
        return token

    def _fail(self, message: str) -> NoReturn:
        raise parse_fault(self._tokens[self._reach].line, message)

    def _unexpected(self, token: Token, context: str) -> NoReturn:
        if token.kind != "error":
            self._fail(f"unexpected {token} in {context}")
        extra = ""
        if self._action_line not in {0, token.line}:
            extra = f" in action started at :{self._action_line}"
            if token.text.endswith(" action"):
                extra = extra.removeprefix(" in action")
        self._fail(f"{token}{extra}")

    def _expect(self, context: str, *kinds: str) -> Token:
        token = self._next_word()
        if token.kind not in kinds:
            self._unexpected(token, context)
        return token

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > NESTING:
            self._fail(f"more than {NESTING} blocks or parentheses are inside each other")

    # --- blocks --------------------------------------------------------------------------------------------

    def whole(self) -> dict[str, Body]:
        """The template from beginning to end."""
        nodes: list[Node] = []
        while self._peek().kind != "eof":
            if self._peek().kind == "left":
                start = self._at
                self._at += 1
                if self._next_word().kind == "define":
                    self._define()
                    continue
                self._at = start
            node = self._text_or_action()
            if isinstance(node, str):
                self._fail(f"unexpected {{{{{node}}}}}")
            nodes.append(node)
        self._add("", tuple(nodes))
        return self._bodies

    def _add(self, name: str, body: Body) -> None:
        known = self._bodies.get(name)
        if known is None or empty(known):
            self._bodies[name] = body
        elif not empty(body):
            self._fail(f"template: multiple definition of template {quoted(name)}")

    def _define(self) -> None:
        context = "define clause"
        name = self._string(self._expect(context, "string", "raw"))
        self._expect(context, "right")
        self._separate(name, context)

    def _separate(self, name: str, context: str) -> None:
        """A definition's body, which knows none of the variables around it."""
        variables, ranges = self._variables, self._ranges
        self._variables, self._ranges = ["$"], 0
        body, end = self._body()
        if end != "end":
            self._fail(f"unexpected {{{{{end}}}}} in {context}")
        self._add(name, body)
        self._variables, self._ranges = variables, ranges

    def _body(self) -> tuple[Body, str]:
        """Nodes up to an `end` or `else`, and which of them it was."""
        self._deeper()
        nodes: list[Node] = []
        while self._peek_word().kind != "eof":
            node = self._text_or_action()
            if isinstance(node, str):
                self._depth -= 1
                return tuple(nodes), node
            nodes.append(node)
        return self._fail("unexpected EOF")

    def _text_or_action(self) -> Node | str:
        token = self._next_word()
        if token.kind == "text":
            return Text(token.at, token.text)
        if token.kind != "left":
            self._unexpected(token, "input")
        self._action_line = token.line
        node = self._action()
        self._action_line = 0
        return node

    def _action(self) -> Node | str:
        """One action; the words `end` and `else` are their own nodes."""
        token = self._peek_word()
        match token.kind:
            case "if" | "range" | "with":
                self._at += 1
                return self._branch(token.kind)
            case "block":
                self._at += 1
                return self._block()
            case "template":
                self._at += 1
                return self._invoke()
            case "break" | "continue":
                self._at += 1
                return self._leave(token)
            case "end":
                self._at += 1
                self._expect("end", "right")
                return "end"
            case "else":
                self._at += 1
                if self._peek_word().kind not in {"if", "with"}:
                    self._expect("else", "right")
                return "else"
        return Action(token.at, self._pipeline("command", "right"))

    def _leave(self, word: Token) -> Leave:
        token = self._next_word()
        if token.kind != "right":
            self._unexpected(token, f"{{{{{word.kind}}}}}")
        if not self._ranges:
            self._fail(f"{{{{{word.kind}}}}} outside {{{{range}}}}")
        return Leave(word.at, word.kind)

    def _branch(self, kind: str) -> Branch:
        known = len(self._variables)
        pipe = self._pipeline(kind, "right")
        self._ranges += kind == "range"
        body, end = self._body()
        self._ranges -= kind == "range"
        orelse: Body | None = None
        if end == "else":
            # `else if` and `else with` share the end of what they continue.
            if kind in {"if", "with"} and self._peek().kind == kind:
                self._at += 1
                self._deeper()
                orelse = (self._branch(kind),)
                self._depth -= 1
            else:
                orelse, end = self._body()
                if end != "end":
                    self._fail(f"expected end; found {{{{{end}}}}}")
        del self._variables[known:]
        return Branch(pipe.at, kind, pipe, body, orelse)

    def _block(self) -> Invoke:
        context = "block clause"
        token = self._expect(context, "string", "raw")
        name = self._string(token)
        pipe = self._pipeline(context, "right")
        self._separate(name, context)
        return Invoke(token.at, name, pipe)

    def _invoke(self) -> Invoke:
        context = "template clause"
        token = self._expect(context, "string", "raw")
        name = self._string(token)
        if self._peek_word().kind == "right":
            self._at += 1
            return Invoke(token.at, name, None)
        return Invoke(token.at, name, self._pipeline(context, "right"))

    # --- pipelines -----------------------------------------------------------------------------------------

    def _pipeline(self, context: str, end: str) -> Pipe:
        self._deeper()
        start = self._peek_word().at
        names, assign = self._declarations(context)
        commands: list[Command] = []
        while True:
            token = self._next_word()
            if token.kind == end:
                break
            if token.kind not in _OPERANDS:
                self._unexpected(token, context)
            self._at -= 1
            commands.append(self._command())
        if not commands:
            self._fail(f"missing value for {context}")
        for stage, command in enumerate(commands[1:], 2):
            if isinstance(command.args[0], Dot | Nil | Literal):
                self._fail(f"non executable command in pipeline stage {stage}")
        self._depth -= 1
        return Pipe(start, names, assign, tuple(commands))

    def _declarations(self, context: str) -> tuple[tuple[str, ...], bool]:
        """`$x :=`, `$x =`, `$i, $x :=`: the names, and whether they exist already."""
        names: list[str] = []
        while self._peek_word().kind == "variable":
            start = self._at
            name = self._next().text
            following = self._peek_word()
            if following.kind in {"assign", "declare"}:
                self._at += 1
                names.append(name)
                self._variables.append(name)
                return tuple(names), following.kind == "assign"
            if following.text != "," or following.kind != "char":
                self._at = start
                break
            self._at += 1
            names.append(name)
            self._variables.append(name)
            if context != "range" or len(names) > 1:
                self._fail(f"too many declarations in {context}")
            if self._peek_word().kind not in {"variable", "right", ")"}:
                self._fail("range can only initialize variables")
        return tuple(names), False

    def _command(self) -> Command:
        start = self._peek_word().at
        args: list[Operand] = []
        while True:
            self._peek_word()
            operand = self._operand()
            if operand is not None:
                args.append(operand)
            token = self._next()
            if token.kind == "space":
                continue
            if token.kind in {"right", ")"}:
                self._at -= 1
            elif token.kind != "pipe":
                self._unexpected(token, "operand")
            break
        if not args:
            self._fail("empty command")
        return Command(start, tuple(args))

    def _operand(self) -> Operand | None:
        term = self._term()
        if term is None or self._peek().kind != "field":
            return term
        at = self._peek().at
        names: list[str] = []
        while self._peek().kind == "field":
            names.append(self._next().text[1:])
        match term:
            case Field():
                return Field(at, (*term.names, *names))
            case Variable():
                return Variable(at, term.name, (*term.names, *names))
            case Literal() | Nil() | Dot():
                self._fail(f"unexpected . after term {quoted(str(term))}")
        return Chain(at, term, tuple(names))

    def _term(self) -> Operand | None:
        token = self._next_word()
        match token.kind:
            case "identifier":
                if token.text not in self._functions:
                    self._fail(f"function {quoted(token.text)} not defined")
                return Function(token.at, token.text)
            case "dot":
                return Dot(token.at)
            case "nil":
                return Nil(token.at)
            case "variable":
                if token.text not in self._variables:
                    self._fail(f"undefined variable {quoted(token.text)}")
                return Variable(token.at, token.text)
            case "field":
                return Field(token.at, (token.text[1:],))
            case "bool":
                return Literal(token.at, token.text == "true", token.text)
            case "number" | "character":
                return Literal(token.at, self._number(token), token.text)
            case "string" | "raw":
                return Literal(token.at, self._string(token), token.text)
            case "(":
                return self._pipeline("parenthesized pipeline", ")")
        self._at -= 1
        return None

    def _number(self, token: Token) -> int | float:
        try:
            return literals.character(token.text) if token.kind == "character" else literals.number(token.text)
        except ValueError as error:
            self._fail(str(error))

    def _string(self, token: Token) -> str:
        try:
            return literals.unquote(token.text)
        except ValueError as error:
            self._fail(str(error))
