"""The `options` of a request: one table says of each its type, its default, its bounds and what it does here.

The names are those of Ollama's `api.Options` of today and of 2024, which the user's endpoint document lists.
Options that set how a model is loaded cannot change with a request here: the service has loaded its model
once, for everybody. They are accepted and do nothing, and so is what no engine knows any more.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import msgspec

from akashllm.errors import BadRequest
from akashllm.server.domain import Sampling

Kind = Literal["integer", "float32", "boolean", "array"]

_INT32 = float(2**31 - 1)
_INT64 = float(2**63)
_TOKENS = 1e12


class Option(NamedTuple):
    """One option. `default` is what holds without it, as documents print it; bounds are inclusive."""

    name: str
    kind: Kind
    default: str
    effect: str
    honoured: bool = True
    low: float = -math.inf
    high: float = math.inf


def _ignored(name: str, kind: Kind, effect: str) -> Option:
    return Option(name, kind, "", effect, honoured=False)


_LOADED = "Ignored: the service sets it when it loads the model."
_REMOVED = "Ignored: no engine has it any more."

OPTIONS: tuple[Option, ...] = (
    Option(
        "num_keep",
        "integer",
        "4",
        "Tokens kept at the start when the context is shifted.",
        low=-1,
        high=_TOKENS,
    ),
    Option(
        "seed",
        "integer",
        "random",
        "The same seed, prompt and options give the same answer; a negative one is random.",
        low=-_INT64,
        high=_INT64,
    ),
    Option(
        "num_predict",
        "integer",
        "-1",
        "The most tokens to answer with; negative: until the model ends. Ten contexts at most.",
        low=-_TOKENS,
        high=_TOKENS,
    ),
    Option(
        "top_k",
        "integer",
        "40",
        "Sample among the k most likely tokens; 0 or less: among all.",
        low=-1,
        high=_INT32,
    ),
    Option(
        "top_p", "float32", "0.9", "Sample among the most likely tokens with this sum; 1: off.", low=0, high=1
    ),
    Option(
        "min_p", "float32", "0.0", "Drop tokens below this part of the best one's probability.", low=0, high=1
    ),
    _ignored("tfs_z", "float32", _REMOVED),
    Option("typical_p", "float32", "1.0", "Locally typical sampling; 1: off.", low=0, high=1),
    Option(
        "repeat_last_n",
        "integer",
        "64",
        "Tokens the penalties look back over; 0: none, -1: the whole context.",
        low=-1,
        high=_INT32,
    ),
    Option(
        "temperature",
        "float32",
        "0.8",
        "Higher is more surprising; 0 takes the most likely token.",
        low=0,
        high=100,
    ),
    Option("repeat_penalty", "float32", "1.0", "Penalty on repeated tokens; 1: off.", low=0.01, high=100),
    Option("presence_penalty", "float32", "0.0", "Penalty on tokens that occurred at all.", low=-100, high=100),
    Option(
        "frequency_penalty", "float32", "0.0", "Penalty that grows with each occurrence.", low=-100, high=100
    ),
    Option("mirostat", "integer", "0", "Mirostat sampling: 0 off, 1 or 2 its versions.", low=0, high=2),
    Option("mirostat_tau", "float32", "5.0", "Mirostat's target surprise.", low=0, high=100),
    Option("mirostat_eta", "float32", "0.1", "Mirostat's learning rate.", low=0, high=100),
    Option("penalize_newline", "boolean", "true", "Whether the penalties apply to line breaks."),
    Option(
        "stop", "array", "none", "Texts that end the answer and are not part of it; one text may stand alone."
    ),
    Option(
        "num_ctx",
        "integer",
        "the service's",
        "The context this request may use, in tokens; more than the service has is cut to that.",
        low=-_TOKENS,
        high=_TOKENS,
    ),
    _ignored("num_batch", "integer", _LOADED),
    _ignored("num_gpu", "integer", _LOADED),
    _ignored("main_gpu", "integer", _LOADED),
    _ignored("use_mmap", "boolean", _LOADED),
    _ignored("num_thread", "integer", _LOADED),
    _ignored("draft_num_predict", "integer", _LOADED),
    _ignored("numa", "boolean", _LOADED),
    _ignored("use_mlock", "boolean", _LOADED),
    _ignored("low_vram", "boolean", _REMOVED),
    _ignored("f16_kv", "boolean", _REMOVED),
    _ignored("logits_all", "boolean", _REMOVED),
    _ignored("vocab_only", "boolean", _REMOVED),
)
"""Every option a request may carry, in the order documents list them. Others are ignored, as in Ollama."""

_BY_NAME = {option.name: option for option in OPTIONS}

DEFAULTS = Sampling(
    temperature=0.8,
    top_k=40,
    top_p=0.9,
    min_p=0.0,
    typical_p=1.0,
    repeat_penalty=1.0,
    repeat_last_n=64,
    mirostat_tau=5.0,
    mirostat_eta=0.1,
)
"""Ollama's native defaults since 0.32.10."""

SAMPLERS = (
    "top_k",
    "seed",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_last_n",
    "temperature",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "penalize_newline",
)
"""The options that are sampler settings, each of the same name in `Sampling`."""

MIN_CONTEXT = 4
"""Tokens; Ollama raises a smaller `num_ctx` to this."""


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """What the options of one request come to."""

    sampling: Sampling = DEFAULTS
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    num_keep: int = 4
    context: int | None = None


def choose(options: dict[str, Any]) -> Chosen:
    """Apply a request's options to the defaults. Null leaves an option as it is; unknown ones are ignored.

    Raises `BadRequest` for a wrong type, with Ollama's text, or for a value outside the table's bounds.
    """
    if not options:
        return Chosen()
    values = {
        name: _checked(_BY_NAME[name], value)
        for name, value in options.items()
        if value is not None and name in _BY_NAME
    }
    changed = {name: values[name] for name in SAMPLERS if name in values}
    if "top_k" in values:
        changed["top_k"] = max(values["top_k"], 0)
    if values.get("seed", 0) < 0:
        changed["seed"] = None
    predict, context = values.get("num_predict", -1), values.get("num_ctx", 0)
    return Chosen(
        sampling=msgspec.structs.replace(DEFAULTS, **changed) if changed else DEFAULTS,
        max_tokens=predict if predict >= 0 else None,
        stop=values.get("stop", ()),
        num_keep=values.get("num_keep", 4),
        context=max(context, MIN_CONTEXT) if context > 0 else None,
    )


def _checked(option: Option, value: Any) -> Any:
    """The value in the option's own type and within its bounds; a fraction for a whole number is cut off."""
    if option.kind == "array":
        return _texts(option, value)
    if option.kind == "boolean":
        return value if isinstance(value, bool) else _refuse(option)
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(option)
    if not option.honoured:
        return value
    if not option.low <= value <= option.high:
        raise BadRequest(
            f'option "{option.name}" must be between {option.low:g} and {option.high:g}',
            param=f"options.{option.name}",
        )
    return int(value) if option.kind == "integer" else float(value)


def _texts(option: Option, value: Any) -> tuple[str, ...]:
    """Stop strings; an empty one would end every answer at once and is dropped, as llama.cpp does."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        _refuse(option)
    if not all(isinstance(item, str) for item in value):
        raise BadRequest(
            f'option "{option.name}" must be of an array of strings', param=f"options.{option.name}"
        )
    return tuple(item for item in value if item)


def _refuse(option: Option) -> Any:
    raise BadRequest(f'option "{option.name}" must be of type {option.kind}', param=f"options.{option.name}")
