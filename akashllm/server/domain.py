"""The neutral words between the dialects and the engines.

A dialect (`wire`) turns its request into one of these; an engine turns it into `Event`s; the dialect turns
those back. Nothing here knows Ollama, OpenAI or any engine. The types are msgspec structs because the same
objects cross the pipe between the service and an engine's child process.

Units: durations are nanoseconds, token counts are tokens, log probabilities are natural logarithms.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

# --- what is asked -------------------------------------------------------------------------------------


class Image(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One image, decoded from base64. `media_type` is what the magic bytes say."""

    media_type: str
    data: bytes


class ToolCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call the model makes. `arguments` is JSON text of an object."""

    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of a chat. `role` is lower case: system, developer, user, assistant, tool."""

    role: str
    content: str = ""
    thinking: str = ""
    images: tuple[Image, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str | None = None
    tool_call_id: str | None = None


class Tool(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A function the model may call. `parameters` is a JSON Schema of an object."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    strict: bool = False


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`named` has a name; the other modes have none."""

    mode: Literal["auto", "none", "required", "named"] = "auto"
    name: str | None = None


class ChatPrompt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="chat"):
    """Messages to be rendered with the model's chat template.

    think            None leaves it to the template; a string is an effort (low, medium, high, max).
    template         a Go template (Ollama's) to render with instead of the model's own; empty: the model's.
    prefix_tokens    tokens put before the rendered prompt (Ollama's `context`).
    continue_final   the last assistant message is to be continued, not answered.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    think: bool | str | None = None
    template: str = ""
    prefix_tokens: tuple[int, ...] = ()
    continue_final: bool = False
    drop_oldest: bool = False
    """Drop the oldest messages (never system ones, never the last) until the prompt fits."""


class TextPrompt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="text"):
    """Text as it is, special tokens recognised, BOS added if the model wants one."""

    text: str


class TokenPrompt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="tokens"):
    """Token ids as they are."""

    tokens: tuple[int, ...]


class InfillPrompt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="infill"):
    """Fill in the middle, between a prefix and a suffix.

    With `template`, a Go template (Ollama's), if there is one; with that of the model's Modelfile if it has a
    place for a suffix; or else with the model's own FIM tokens.
    """

    prefix: str
    suffix: str
    template: str = ""


Prompt = ChatPrompt | TextPrompt | TokenPrompt | InfillPrompt


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Every sampler setting, with the value that switches it off as default.

    A dialect fills in its own defaults. temperature 0 is greedy. top_k 0 and top_p 1 are off.
    repeat_last_n is the window of the penalties in tokens (0 off, -1 the context).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalize_newline: bool = True
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: dict[int, float] = {}
    seed: int | None = None


class Constraint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The shape the output must have.

    json_object   any JSON object; `value` unused
    json_schema   `value` is a JSON Schema as JSON text
    gbnf          `value` is a grammar in llama.cpp's GBNF
    lark          `value` is a grammar in llguidance's Lark dialect
    regex         `value` is a regular expression
    """

    kind: Literal["json_object", "json_schema", "gbnf", "lark", "regex"]
    value: str = ""


class Generation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request for text.

    n              choices to produce from the same prompt
    max_tokens     per choice; None: until the context ends
    logprobs       None: none; k: each token's log probability and the k most likely alternatives
    prompt_logprobs  as `logprobs`, for the prompt's tokens (echo)
    score          each `Finish` carries the sum of its tokens' log probabilities (best_of)
    want_context   `Done` carries the tokens of prompt and answer (Ollama's `context`)
    num_keep       tokens kept at the start when the context is shifted
    shift          shift the context instead of finishing with "length" when it is full
    stop           strings that end the answer and are not part of it
    context        the largest context this request may use, in tokens; None: the slot's
    """

    id: str
    model: str
    prompt: Prompt
    sampling: Sampling = Sampling()
    constraint: Constraint | None = None
    n: int = 1
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    score: bool = False
    want_context: bool = False
    num_keep: int = 4
    shift: bool = False
    context: int | None = None


class Embedding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Texts or token lists to embed. `truncate` cuts an input at the context instead of refusing it."""

    id: str
    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    truncate: bool = True
    dimensions: int | None = None
    normalize: bool = True


class Transcription(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Speech to be written down.

    path        a file of this machine that the engine may read while the request runs
    format      what its first bytes say it is: wav, mp3, flac, ogg, mp4, webm
    task        "translate" writes English whatever is spoken
    language    ISO 639 code of what is spoken; None: find out
    prompt      text that is taken to come before: names, spelling, style
    temperature 0: rise from 0 while the answer is poor
    words       times of single words as well
    voice       leave out what is no speech before anything is written
    longest     seconds of sound that are too many
    """

    id: str
    model: str
    path: str
    format: str
    task: Literal["transcribe", "translate"] = "transcribe"
    language: str | None = None
    prompt: str = ""
    temperature: float = 0.0
    words: bool = False
    voice: bool = False
    longest: float = 3600.0


# --- what comes back -----------------------------------------------------------------------------------

FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]


class Alternative(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A token that could have been chosen. `data` is its bytes, which need not be whole UTF-8."""

    token: int
    data: bytes
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The token that was chosen, and the most likely ones at that place, best first."""

    token: int
    data: bytes
    logprob: float
    top: tuple[Alternative, ...] = ()


class Started(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="started"):
    """The prompt is known: always the first event. `prompt` is filled when prompt_logprobs was asked.

    The counts are 0 where an engine learns them only with `Done`.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    prompt: tuple[TokenLogprob, ...] = ()


class Delta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="delta"):
    """More of choice `index`. Text is whole UTF-8; tool calls are complete; `tokens` counts new tokens."""

    index: int = 0
    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


class Finish(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="finish"):
    """Choice `index` has ended. `stop` is the stop string that ended it, if one did."""

    index: int = 0
    reason: FinishReason = "stop"
    stop: str | None = None
    score: float | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Token counts. `completion_tokens` is over all choices; the prompt counts once."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class Timings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Nanoseconds. `load` is the wait for the model, `queue` for a slot."""

    load: int = 0
    queue: int = 0
    prompt: int = 0
    decode: int = 0


class Done(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="done"):
    """Always the last event, after a `Finish` for every choice."""

    usage: Usage
    timings: Timings = Timings()
    context: tuple[int, ...] = ()


Event = Started | Delta | Finish | Done


class Embeddings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One vector an input, in order; all of one dimension."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int
    timings: Timings = Timings()


class Word(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One word and when it is said, in seconds from the beginning."""

    word: str
    start: float
    end: float


class Heard(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="heard"):
    """The first event of a transcription: the sound is read. `duration` is in seconds."""

    language: str
    duration: float


class Segment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="segment"):
    """A stretch of speech; the text of all, joined, is the transcript.

    start, end          seconds from the beginning;  seek: hundredths of a second
    average_logprob     of its tokens;  compression: bytes of the text by bytes when compressed
    no_speech           probability that nothing is said
    """

    id: int
    start: float
    end: float
    text: str
    seek: int = 0
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    average_logprob: float = 0.0
    compression: float = 0.0
    no_speech: float = 0.0
    words: tuple[Word, ...] = ()


Speech = Heard | Segment
"""`Heard` once, then `Segment`s in order."""


# --- what a model is -----------------------------------------------------------------------------------

Capability = Literal["completion", "tools", "insert", "vision", "embedding", "thinking", "transcription"]


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an engine knows of the model it has loaded.

    context          tokens one request may use (prompt and answer)
    train_context    tokens the model was trained for
    size             bytes of the weights;  memory / vram: bytes the loaded model takes in all / on GPUs
    metadata         the file's own key-value pairs (GGUF names), arrays left out
    """

    name: str
    format: str = "gguf"
    family: str = ""
    parameters: int = 0
    quantization: str = ""
    context: int = 0
    train_context: int = 0
    embedding_length: int = 0
    vocab_size: int = 0
    slots: int = 1
    size: int = 0
    memory: int = 0
    vram: int = 0
    capabilities: tuple[Capability, ...] = ()
    chat_template: str = ""
    bos: str = ""
    eos: str = ""
    metadata: dict[str, Any] = {}


class EngineStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the engine is doing now. Tokens and hits are totals since it started."""

    running: int = 0
    waiting: int = 0
    slots: int = 0
    kv_used: int = 0
    kv_size: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    restarts: int = 0
