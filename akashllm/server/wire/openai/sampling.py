"""The parameters that chat and completions share: sampling, stops, number of choices, shape of the output."""

from __future__ import annotations

import msgspec

from akashllm.errors import BadRequest
from akashllm.server.domain import Constraint, Sampling
from akashllm.server.wire.openai.reading import Fields, invalid, kind, missing, wrong_type

DEFAULT_TOP_K = 40
"""As in Ollama's own /v1: quantised small models ramble without it, and it makes sampling cheap."""

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
_INT32 = 2**31 - 1
_INT64 = 2**63
_SEEDS = 2**32 - 1
"""Engines take 32 bits, and the highest value means 'random' to llama.cpp."""


def _place(body: Fields, options: Fields | None, *names: str) -> tuple[Fields, str]:
    """Where an extra stands: at the top level, else inside `options`, under any of its names."""
    for fields in (body, options):
        for name in names:
            if fields is not None and fields.get(name) is not None:
                return fields, name
    return body, names[0]


def read_sampling(body: Fields, vocab_size: int) -> Sampling:
    """Every sampler setting, OpenAI's and the extras."""
    options = body.object("options")

    def number(low: float, high: float, default: float, *names: str) -> float:
        fields, name = _place(body, options, *names)
        value = fields.number(name, low, high)
        return default if value is None else value

    def integer(low: int, high: int, default: int, *names: str) -> int:
        fields, name = _place(body, options, *names)
        value = fields.integer(name, low, high)
        return default if value is None else value

    seed = body.integer("seed", -_INT64, _INT64 - 1)
    temperature = body.number("temperature", 0, 2)
    top_p = body.number("top_p", 0, 1)
    return Sampling(
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else top_p,
        top_k=max(0, integer(-1, _INT32, DEFAULT_TOP_K, "top_k")),
        min_p=number(0, 1, 0.0, "min_p"),
        typical_p=number(0, 1, 1.0, "typical_p"),
        repeat_penalty=number(0.01, 10, 1.0, "repeat_penalty", "repetition_penalty"),
        repeat_last_n=integer(-1, _INT32, 64, "repeat_penalty_num", "repeat_last_n"),
        presence_penalty=body.number("presence_penalty", -2, 2) or 0.0,
        frequency_penalty=body.number("frequency_penalty", -2, 2) or 0.0,
        mirostat=integer(0, 2, 0, "mirostat"),
        mirostat_tau=number(0, 100, 5.0, "mirostat_tau"),
        mirostat_eta=number(0, 1, 0.1, "mirostat_eta"),
        logit_bias=_logit_bias(body, vocab_size),
        seed=None if seed is None else seed % _SEEDS,
    )


def _logit_bias(body: Fields, vocab_size: int) -> dict[int, float]:
    """Biases by token id.

    A key that is no token id is refused, because the client believes that it does something, unless its bias
    is 0 and it truly does nothing (the official client's own tests send `{"foo": 0}`).
    """
    biases = body.object("logit_bias")
    if biases is None:
        return {}
    result: dict[int, float] = {}
    for key in biases.values:
        bias = biases.number(key, -100, 100)
        if not bias:
            continue
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise invalid("logit_bias", f"has the key {key[:40]!r}, which is not a token id")
        token = int(key)
        if vocab_size and token >= vocab_size:
            raise invalid("logit_bias", f"has the token id {token}; this model's ids end at {vocab_size - 1}")
        result[token] = bias
    return result


def read_max_tokens(body: Fields, *names: str) -> int | None:
    """Tokens an answer may have: the first of `names` that is there. More than any context has is no error."""
    for name in names:
        value = body.integer(name, 0)
        if value is not None:
            return min(value, _INT32)
    return None


def read_ignore_eos(body: Fields) -> bool:
    """Whether the end-of-text token is skipped over."""
    fields, name = _place(body, body.object("options"), "ignore_eos")
    return fields.boolean(name)


def read_stop(body: Fields) -> tuple[str, ...]:
    """The stop strings: one, a list, or none."""
    value = body.get("stop")
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list):
        raise wrong_type("stop", "a string or an array of strings", value)
    for position, stop in enumerate(stops):
        if not isinstance(stop, str):
            raise wrong_type(f"stop[{position}]", "a string", stop)
        if not stop:
            raise invalid("stop", "must not contain an empty string")
    return tuple(stops)


def read_choices(body: Fields, *, stream: bool) -> tuple[int, int]:
    """`n`, and how many to generate to choose them from. `best_of` 0 reads as absent."""
    n = body.integer("n", 1, MAX_CHOICES) or 1
    best_of = body.integer("best_of", 0, MAX_CHOICES) or n
    if best_of < n:
        raise invalid("best_of", f"must be at least n, and {best_of} is less than {n}")
    if best_of > n and stream:
        message = "cannot be greater than n while streaming: the best are known only at the end"
        raise invalid("best_of", message, code="unsupported_value")
    return n, best_of


def read_include_usage(body: Fields) -> bool:
    """`stream_options.include_usage`; without `stream` it has no meaning and no effect."""
    options = body.object("stream_options")
    return options is not None and options.boolean("include_usage")


def read_constraint(body: Fields) -> Constraint | None:
    """The shape of the output, from `response_format` or the extra `grammar`."""
    fields, name = _place(body, body.object("options"), "grammar")
    grammar = fields.string(name)
    shape = _response_format(body)
    if not grammar:
        return shape
    if shape is not None:
        raise invalid(fields.at(name), "and 'response_format' exclude each other: send one of them")
    return Constraint(kind="gbnf", value=grammar)


def _response_format(body: Fields) -> Constraint | None:
    wanted = body.object("response_format")
    if wanted is None:
        return None
    form = wanted.required_string("type")
    if form == "text":
        return None
    if form == "json_object":
        return _schema(wanted)
    if form == "json_schema":
        return _schema(wanted.required_object("json_schema"))
    raise invalid(wanted.at("type"), "must be text, json_object or json_schema", code="unsupported_value")


def _schema(holder: Fields) -> Constraint:
    schema = holder.get("schema")
    if schema is None:
        return Constraint(kind="json_object")
    if not isinstance(schema, dict | bool):
        raise wrong_type(holder.at("schema"), "an object", schema)
    return Constraint(kind="json_schema", value=msgspec.json.encode(schema).decode())


def read_tokens(value: object, param: str, vocab_size: int) -> tuple[int, ...]:
    """A list of token ids, each inside the vocabulary (`vocab_size` 0: not known yet)."""
    if not isinstance(value, list):
        raise wrong_type(param, "an array of token ids", value)
    ceiling = vocab_size or _INT32
    for position, token in enumerate(value):
        if isinstance(token, bool) or not isinstance(token, int):
            raise wrong_type(f"{param}[{position}]", "a token id", token)
        if not 0 <= token < ceiling:
            raise invalid(f"{param}[{position}]", f"is {token}; this model's token ids are 0 to {ceiling - 1}")
    return tuple(value)


def read_inputs(
    body: Fields, param: str, vocab_size: int, *, limit: int
) -> tuple[list[str | tuple[int, ...]], bool]:
    """What `prompt` and `input` may be: a string, token ids, or a list of either.

    Returns the inputs, and whether they were strings.
    """
    value = body.get(param)
    if value is None:
        raise missing(param)
    if isinstance(value, str):
        return [value], True
    wanted = "a string, an array of strings, an array of token ids, or an array of arrays of token ids"
    if not isinstance(value, list):
        raise wrong_type(param, wanted, value)
    if not value:
        raise invalid(param, "must not be an empty array", code="empty_array")
    first = value[0]
    if isinstance(first, int) and not isinstance(first, bool):
        return [read_tokens(value, param, vocab_size)], False
    if len(value) > limit:
        raise invalid(param, f"may have at most {limit} entries, not {len(value)}", code="array_too_long")
    if isinstance(first, str):
        for position, text in enumerate(value):
            if not isinstance(text, str):
                raise wrong_type(f"{param}[{position}]", "a string like the others", text)
        return list(value), True
    if not isinstance(first, list):
        raise BadRequest(
            f"'{param}' must be {wanted}, not an array of {kind(first)}", param=param, code="invalid_type"
        )
    lists: list[str | tuple[int, ...]] = []
    for position, tokens in enumerate(value):
        path = f"{param}[{position}]"
        if not tokens:
            raise invalid(path, "must not be empty", code="empty_array")
        lists.append(read_tokens(tokens, path, vocab_size))
    return lists, False
