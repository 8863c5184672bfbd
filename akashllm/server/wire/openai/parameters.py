"""Which parameters of the OpenAI dialect do something here, and which are accepted and ignored on purpose.

The documentation's table is made from these, and a test holds them against the official client's own list.
A name in neither table is unknown and ignored, as OpenAI-compatible servers do.
"""

from __future__ import annotations

from collections.abc import Mapping

SAMPLING: Mapping[str, str] = {
    "temperature": "0 to 2, default 1; 0 always takes the most likely token",
    "top_p": "0 to 1, default 1",
    "frequency_penalty": "-2 to 2, default 0",
    "presence_penalty": "-2 to 2, default 0",
    "logit_bias": "token id to a bias of -100 to 100",
    "seed": "any 64-bit integer; the same seed and request give the same answer",
    "stop": "a string or a list of strings",
    "n": "number of choices, 1 to 128",
    "best_of": "choices to generate, of which the `n` most likely are returned; not with `stream`",
}
"""Parameters of both completions and chat."""

EXTRAS: Mapping[str, str] = {
    "top_k": "default 40; 0 switches it off",
    "min_p": "0 to 1, default 0",
    "typical_p": "0 to 1, default 1",
    "repeat_penalty": "default 1 (off); also as `repetition_penalty`",
    "repeat_penalty_num": "tokens the penalties look back at, default 64; also as `repeat_last_n`",
    "mirostat": "0, 1 or 2; also `mirostat_tau` and `mirostat_eta`",
    "grammar": "a GBNF grammar that the answer must follow",
    "ignore_eos": "go on after the end-of-text token until `max_tokens`",
}
"""Parameters that OpenAI does not have. They may stand at the top level or inside an `options` object."""

CHAT: Mapping[str, str] = {
    "messages": "roles system, developer, user, assistant, tool, function; text and image parts",
    "model": "default: the model that is served",
    "stream": "server-sent events",
    "stream_options": "`include_usage`",
    "max_completion_tokens": "wins over `max_tokens`; default: until the context is full",
    "max_tokens": "as `max_completion_tokens`",
    "logprobs": "boolean",
    "top_logprobs": "0 to 20, with `logprobs`",
    "response_format": "text, json_object (with an optional `schema`), json_schema",
    "tools": "functions",
    "tool_choice": "auto, none, required, a named function, allowed_tools",
    "parallel_tool_calls": "false: at most one call",
    "functions": "the older form of `tools`; the answer then has `function_call`",
    "function_call": "the older form of `tool_choice`",
    "reasoning_effort": "none, minimal, low, medium, high, xhigh, max",
    "modalities": "text",
    "continue_final_message": "true: continue the last message, which is the assistant's (not OpenAI's)",
}

COMPLETIONS: Mapping[str, str] = {
    "prompt": "a string, a list of strings, token ids, or lists of token ids; no chat template is applied",
    "model": "default: the model that is served",
    "stream": "server-sent events",
    "stream_options": "`include_usage`",
    "max_tokens": "default 16; 0 with `echo` scores the prompt",
    "logprobs": "0 to 20 alternatives a token",
    "echo": "the text starts with the prompt; with `logprobs`, the prompt's tokens are scored too",
    "suffix": "text after the gap to fill; for models with fill-in-the-middle tokens",
    "response_format": "as in chat (not OpenAI's)",
}

EMBEDDINGS: Mapping[str, str] = {
    "input": "a string, a list of strings, token ids, or lists of token ids",
    "model": "default: the model that is served",
    "encoding_format": "float or base64 (little-endian 32-bit floats)",
    "dimensions": "cut the vectors to this length and normalise them again",
}

IGNORED: Mapping[str, str] = {
    "audio": "only concerns spoken answers, which `modalities` refuses",
    "metadata": "nothing is stored",
    "moderation": "there is no moderation model",
    "prediction": "a hint for speed; it never changes an answer",
    "prompt_cache_key": "common beginnings are always shared",
    "prompt_cache_options": "common beginnings are always shared",
    "prompt_cache_retention": "common beginnings are always shared",
    "safety_identifier": "nothing is reported to anyone",
    "service_tier": "there is one tier",
    "store": "nothing is stored",
    "user": "nothing is reported to anyone",
    "verbosity": "open models have no such setting",
    "web_search_options": "there is no web search",
}
"""Accepted and ignored on purpose: refusing them would break clients and protect nobody."""
