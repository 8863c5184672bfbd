"""The Jinja environment chat templates run in.

Set up as Hugging Face transformers sets up its own (`utils/chat_template_utils.py`): an immutable sandbox with
trimmed blocks, loop controls, a `generation` block, `tojson` without HTML escapes, `raise_exception` and
`strftime_now`. On top of that everything a template does is charged and bounded (`bounds`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from types import BuiltinMethodType, MethodType
from typing import Any, Final, NoReturn

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from akashllm.server.chat import bounds

SOURCE: Final = 512 * 1024
"""Characters of a template's source; the longest in use have about 30,000."""


class TemplateRaised(TemplateError):
    """The template called `raise_exception`: the messages are not what it accepts."""


class Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks what to train on: here only its body counts."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares the attribute so

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """The body, as it stands."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Charging(NodeTransformer):
    """Charges each turn of a loop and each call of a macro, and bounds the expressions that build values."""

    def _charged(self, node: nodes.For | nodes.Macro | nodes.CallBlock | nodes.Block) -> nodes.Node:
        self.generic_visit(node)
        charge = nodes.ExprStmt(_call("charge", [], node.lineno), lineno=node.lineno)
        node.body.insert(0, charge)
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - the visitor's naming, here and below
        """Charge each turn."""
        return self._charged(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        """Charge each call."""
        return self._charged(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        """Charge each call."""
        return self._charged(node)

    def visit_Block(self, node: nodes.Block) -> nodes.Node:  # noqa: N802
        """Charge each use."""
        return self._charged(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """`a ~ b` through a bounded join."""
        self.generic_visit(node)
        return _call("bounded_concat", node.nodes, node.lineno)

    def _weighed(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        stores = isinstance(node, nodes.Tuple) and node.ctx != "load"
        if stores or all(isinstance(_value(item), nodes.Const) for item in node.items):
            return node
        return _call("bounded_value", [node], node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        """Bound what is written down."""
        return self._weighed(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        """Bound what is written down."""
        return self._weighed(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        """Bound what is written down."""
        return self._weighed(node)


def _value(item: nodes.Node) -> nodes.Node:
    return item.value if isinstance(item, nodes.Pair) else item


def _call(name: str, args: list[nodes.Expr], line: int) -> nodes.Call:
    target = nodes.EnvironmentAttribute(name, lineno=line)
    return nodes.Call(target, args, [], None, None, lineno=line)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """One environment serves every template of a process. Renderings in several threads do not meet."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Generation, LoopControlExtension],
            optimized=False,
            finalize=self._printed,
            cache_size=0,
        )
        self.meter = bounds.Meter()
        self.binop_table.update(
            {"+": bounds.add, "*": bounds.multiply, "**": bounds.power, "%": bounds.remainder}
        )
        for name in ("lipsum", "cycler", "joiner"):
            self.globals.pop(name, None)
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
        self.filters.update(
            tojson=_tojson, join=_join(self.filters["join"]), replace=_replace, string=bounds.bounded_str
        )
        for name in ("xmlattr", "urlize", "pprint", "random", "lipsum"):
            self.filters.pop(name, None)
        for name in ("center", "indent", "wordwrap", "batch", "slice", "round", "truncate"):
            self.filters[name] = _numbers_checked(self.filters[name])
        self.filters["format"] = _format
        for table in (self.filters, self.tests):
            for name, function in list(table.items()):
                table[name] = self._metered(function)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > SOURCE:
            raise TemplateSyntaxError(f"the template has more than {SOURCE} characters", 1, name, filename)
        tree = super()._parse(source, name, filename)
        Charging().visit(tree)
        tree.set_environment(self)
        return tree

    def _metered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def charged(*args: Any, **kwargs: Any) -> Any:
            self.meter.charge()
            return function(*args, **kwargs)

        return charged

    def charge(self) -> str:
        """Charge one turn of a loop or one call."""
        return self.meter.charge()

    def bounded_concat(self, *parts: object) -> str:
        """`a ~ b ~ c`, if that is not too long."""
        texts = [bounds.bounded_str(part) for part in parts]
        bounds.check_text(sum(map(len, texts)))
        return "".join(texts)

    def bounded_value(self, value: Any) -> Any:
        """A list or object the template writes down, if it is not too large."""
        bounds.check_items(bounds.weigh(value))
        return value

    def _printed(self, value: object) -> object:
        self.meter.charge()
        return bounds.bounded_str(value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator, charged and bounded."""
        self.meter.charge()
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call, charged and bounded."""
        self.meter.charge()
        if isinstance(obj, MethodType | BuiltinMethodType):
            args = tuple(bounds.check_method(obj.__self__, obj.__name__, args, kwargs))
        return super().call(context, obj, *args, **kwargs)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """As in the immutable sandbox, but lists may grow and shrink: each rendering has its own."""
        appending = isinstance(obj, list) and attr in {"append", "pop"}
        return appending or super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` as the sandbox allows it, with bounded widths. `format_map` is not there."""
        inner = super().wrap_str_format(value)
        if inner is None:
            return None
        pattern = str(value.__self__)

        @functools.wraps(inner)
        def bounded(*args: Any, **kwargs: Any) -> str:
            if value.__name__ == "format_map":
                raise SecurityError("templates may not use str.format_map")
            bounds.check_format(pattern, (*args, *kwargs.values()))
            return inner(*args, **kwargs)

        return bounded


def _raise_exception(message: object = "") -> NoReturn:
    raise TemplateRaised(bounds.bounded_str(message)[:2000])


def _strftime_now(pattern: str) -> str:
    return datetime.now(UTC).astimezone().strftime(str(pattern)[:200])


def _tojson(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - the order of arguments is transformers'
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    bounds.check_items(bounds.weigh(value))
    if (isinstance(indent, int) and indent > 16) or (isinstance(indent, str) and len(indent) > 16):
        raise bounds.OverBudget("the template indents JSON by more than 16")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_listed,
    )


def _listed(value: object) -> list[Any]:
    """What a filter gives out one by one is a list in JSON."""
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _join(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def join(eval_ctx: Any, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> Any:
        items = list(value)
        bounds.check_items(len(items))
        if attribute is None:
            items = [bounds.bounded_str(item) for item in items]
            bounds.check_text(sum(map(len, items)) + len(str(d)) * len(items))
        return original(eval_ctx, items, d, attribute)

    return join


def _replace(text: object, old: object, new: object, count: int | None = None) -> str:
    whole, before, after = bounds.bounded_str(text), str(old), str(new)
    bounds.check_replace(whole, before, after)
    return whole.replace(before, after, -1 if count is None else count)


def _format(pattern: object, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise TypeError("format takes positional or named values, not both")
    return str(bounds.remainder(str(pattern), kwargs or args))


def _numbers_checked(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for value in (*args[1:], *kwargs.values()):
            bounds.check_number(value)
        return function(*args, **kwargs)

    return checked
