"""The promises, one small function each. A return is a pass and its note; the exceptions say why not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from akashllm.errors import Unreachable
from akashllm.smoke import speech
from akashllm.smoke.client import Client, clean
from akashllm.smoke.dialects import Answer, Ask, BrokenPromise, Dialect, NotHere

COUNTING = "Count to 20."
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
LARGE = 5 * 1024 * 1024
"""Bytes of the large body: five times the default limit of Akash's ingress."""

SILENCE = 65.0
"""Seconds of silence that an ingress with a 60 s limit does not survive without keep-alive bytes."""


@dataclass(slots=True)
class Target:
    """The URL under test and what was learned about it."""

    client: Client
    model: str = ""
    expected: dict[str, str] = field(default_factory=dict)
    mute: bool = False
    """Whether the model transcribes and does nothing else."""


def _told(answer: Answer, prompt: str) -> str:
    """The answer's text; broken when there is none, or when it is the prompt again."""
    if not answer.text.strip():
        raise BrokenPromise("the answer is empty")
    if answer.text.strip() == prompt.strip():
        raise BrokenPromise("the answer is the prompt, word for word: an echo, not a model")
    return clean(answer.text, 60)


def models(target: Target, dialect: Dialect) -> str:
    """The served models are listed, the one under test among them."""
    names = dialect.models(target.client)
    if not names:
        raise BrokenPromise("the list of models is empty")
    if len(names) >= 1000:
        raise BrokenPromise("the list of models has a thousand entries or more")
    bare = {name.removesuffix(":latest") for name in names}
    if target.model.removesuffix(":latest") not in bare:
        raise BrokenPromise(f"{clean(target.model, 60)} is not among {clean(', '.join(names), 100)}")
    return clean(", ".join(names), 80)


def generate(target: Target, dialect: Dialect) -> str:
    """A bare prompt is completed."""
    prompt = "The capital of France is"
    return _told(dialect.complete(target.client, target.model, Ask(prompt, max_tokens=16)), prompt)


def chat(target: Target, dialect: Dialect) -> str:
    """A question is answered; a model whose answers are known answers right."""
    prompt = "What is the capital of France?"
    answer = dialect.chat(target.client, target.model, Ask(prompt))
    told = _told(answer, prompt)
    wanted = target.expected.get(prompt)
    if wanted and wanted not in answer.text:
        raise BrokenPromise(f"asked {prompt!r}, this model knows {wanted!r} but said {told!r}")
    return told


def stream(target: Target, dialect: Dialect) -> str:
    """A stream arrives piece by piece, not in one lump, and says the same as the whole answer."""
    answer = dialect.chat(target.client, target.model, Ask(COUNTING, stream=True))
    _told(answer, COUNTING)
    if len(answer.events) < 3:
        raise BrokenPromise(f"the answer came in {len(answer.events)} piece(s)")
    moments = len(set(answer.events))
    if moments < max(2, len(answer.events) // 10):
        raise BrokenPromise(
            f"{len(answer.events)} pieces came in {moments} lump(s): something buffers the stream"
        )
    whole = dialect.chat(target.client, target.model, Ask(COUNTING))
    same = "" if whole.text == answer.text else "; the whole answer differs, as it may on some engines"
    return f"{len(answer.events)} pieces, the first after {answer.events[0]:.2f} s{same}"


def json_mode(target: Target, dialect: Dialect) -> str:
    """JSON mode gives a JSON object."""
    prompt = "Li Hua is 33 years old and lives in Paris. Respond using JSON."
    answer = dialect.chat(target.client, target.model, Ask(prompt, max_tokens=256, shape="json"))
    return clean(json.dumps(_object(answer), ensure_ascii=False), 60)


def schema(target: Target, dialect: Dialect) -> str:
    """A JSON Schema is obeyed."""
    prompt = "Li Hua is 33 years old and lives in Paris. Respond using JSON."
    answer = dialect.chat(target.client, target.model, Ask(prompt, max_tokens=256, shape=PERSON))
    value = _object(answer)
    if set(value) != {"name", "age"} or not isinstance(value["name"], str):
        raise BrokenPromise(f"the schema asks for name and age, the answer is {clean(json.dumps(value), 80)}")
    if (
        isinstance(value["age"], bool)
        or not isinstance(value["age"], int | float)
        or value["age"] != int(value["age"])
    ):
        raise BrokenPromise("age is not an integer")
    return clean(json.dumps(value, ensure_ascii=False), 60)


def _object(answer: Answer) -> dict[str, object]:
    if answer.finish == "length":
        raise NotHere("the model was still writing after 256 tokens")
    try:
        value = json.loads(answer.text)
    except ValueError:
        raise BrokenPromise(f"the answer is not JSON: {clean(answer.text, 80)!r}") from None
    if not isinstance(value, dict):
        raise BrokenPromise(f"the answer is no JSON object: {clean(answer.text, 80)!r}")
    return value


def tools(target: Target, dialect: Dialect) -> str:
    """A tool call is well-formed: the tool's name, and arguments that fit its parameters."""
    ask = Ask("What is the weather in Paris?", max_tokens=128, tool=WEATHER)
    try:
        answer = dialect.chat(target.client, target.model, ask)
    except BrokenPromise as error:
        if "tool" in str(error) and ("support" in str(error) or "enable" in str(error)):
            raise NotHere(str(error)) from error
        raise
    if not answer.tool_calls:
        if dialect.name == "openai":
            raise BrokenPromise(
                f"tool_choice is required, but the model answered in words: {clean(answer.text, 60)!r}"
            )
        raise NotHere(f"the model chose to answer in words: {clean(answer.text, 60)!r}")
    name, arguments = answer.tool_calls[0]
    if name != "get_weather":
        raise BrokenPromise(f"it calls {clean(str(name), 40)!r}, a tool it was not given")
    if not isinstance(arguments, dict) or not isinstance(arguments.get("city"), str):
        raise BrokenPromise(f"the arguments do not fit: {clean(json.dumps(arguments), 80)}")
    return clean(f"{name}({json.dumps(arguments, ensure_ascii=False)})", 60)


def embeddings(target: Target, dialect: Dialect) -> str:
    """Embeddings are of one dimension, the same for the same text, and differ for another."""
    vectors = dialect.embed(target.client, target.model, ["a llama", "a distant galaxy", "a llama"])
    if len(vectors) != 3:
        raise BrokenPromise(f"3 texts gave {len(vectors)} vectors")
    if len({len(v) for v in vectors}) != 1:
        raise BrokenPromise(f"the dimensions differ: {[len(v) for v in vectors]}")
    if _cosine(vectors[0], vectors[2]) < 0.999:
        raise BrokenPromise("the same text twice gave two different vectors")
    if _cosine(vectors[0], vectors[1]) > 0.99999:
        raise BrokenPromise("different texts gave the same vector")
    return f"{len(vectors[0])} dimensions"


def _cosine(a: list[float], b: list[float]) -> float:
    scale = math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / scale if scale else 0.0


def seed(target: Target, dialect: Dialect) -> str:
    """The same seed gives the same answer."""
    ask = Ask("Tell me a story.", max_tokens=24, temperature=1.0, seed=101)
    first, second = (dialect.chat(target.client, target.model, ask).text for _ in range(2))
    if first != second:
        raise BrokenPromise(f"seed 101 gave {clean(first, 40)!r} and then {clean(second, 40)!r}")
    return clean(first, 60)


def usage(target: Target, dialect: Dialect) -> str:
    """Token counts are there and add up."""
    answer = dialect.chat(target.client, target.model, Ask(COUNTING, max_tokens=3))
    prompt, completion = answer.prompt_tokens, answer.completion_tokens
    if not prompt or not completion:
        raise BrokenPromise(f"prompt tokens are {prompt}, completion tokens {completion}")
    if completion > 3:
        raise BrokenPromise(f"asked for 3 tokens at most, counted {completion}")
    if answer.total_tokens is not None and answer.total_tokens != prompt + completion:
        raise BrokenPromise(f"the usage says {prompt} + {completion} = {answer.total_tokens} tokens")
    if completion == 3 and answer.finish != "length":
        raise BrokenPromise(f"cut at 3 tokens, but the reason given is {clean(answer.finish, 20)!r}")
    return f"{prompt} + {completion} tokens"


def overlong(target: Target, dialect: Dialect) -> str:
    """A prompt longer than the context is refused with a reason, never silently cut."""
    context = dialect.context(target.client, target.model)
    if not context:
        raise NotHere("the server does not tell its context length")
    words = "cat " * (context + context // 4 + 64)
    if len(words) > LARGE:
        raise NotHere(f"a prompt beyond {context} tokens would be larger than 5 MiB")
    reply = dialect.overlong(target.client, target.model, words)
    if reply.status == 200:
        raise BrokenPromise(f"a prompt of more than {context} tokens was answered as if nothing had been cut")
    if reply.status not in {400, 413, 422}:
        raise BrokenPromise(f"answered {reply.status} instead of 400: {reply.said()}")
    if not any(word in reply.said().lower() for word in ("context", "token", "long", "length")):
        raise BrokenPromise(f"refused, but without a reason: {reply.said()}")
    return f"{reply.status}: {clean(reply.said(), 80)}"


def large_body(target: Target, dialect: Dialect) -> str:
    """A body of 5 MB arrives whole."""
    try:
        answer = dialect.chat(target.client, target.model, Ask("What is 7+8?", max_tokens=8, pad=LARGE))
    except BrokenPromise as error:
        if "413" in str(error):
            raise BrokenPromise(f"a 5 MiB body was refused: {error}") from error
        raise
    except Unreachable as error:
        raise BrokenPromise(f"a 5 MiB body was cut off: {error}") from error
    return _told(answer, "What is 7+8?")


PER_DIALECT: dict[str, Callable[[Target, Dialect], str]] = {
    "models-listed": models,
    "generate": generate,
    "chat": chat,
    "stream": stream,
    "json-mode": json_mode,
    "json-schema": schema,
    "tool-call": tools,
    "embeddings": embeddings,
    "seed": seed,
    "usage": usage,
    "overlong-prompt": overlong,
    "large-body": large_body,
}


GENERAL = frozenset({"models-listed"})
"""Checks of the dialects that do not ask the model anything, so that every service has to pass them."""


# --- of the address, whatever the dialect ------------------------------------------------------------------


def tls(target: Target) -> str:
    """The certificate is good, or the address is this machine."""
    client = target.client
    if client.base.startswith("https:"):
        if client.insecure:
            raise NotHere("--insecure: the certificate was not looked at")
        return "the certificate is trusted and names this host"
    if client.loopback:
        raise NotHere("plain http on this machine")
    raise BrokenPromise("plain http: prompts, answers and the key travel in clear")


def no_key(target: Target, dialect: Dialect) -> str:
    """A request without a key is refused."""
    return _refused(target, dialect, None, "without a key")


def wrong_key(target: Target, dialect: Dialect) -> str:
    """A request with a wrong key is refused."""
    return _refused(target, dialect, "sk-akashllm-smoke-test-wrong-key", "with a wrong key")


def _refused(target: Target, dialect: Dialect, key: str | None, how: str) -> str:
    if target.client.key is None and target.client.loopback:
        raise NotHere("no key was given, and on this machine none is needed")
    reply = dialect.refuses(target.client, target.model, key)
    if reply.status in {401, 403}:
        return f"{reply.status}: {reply.said()}"
    if reply.status == 200:
        raise BrokenPromise(f"a request {how} was answered: anyone can use this endpoint at your cost")
    raise BrokenPromise(f"a request {how} got {reply.status} instead of 401: {reply.said()}")


def transcription(target: Target) -> str:
    """A recording is transcribed from end to end, where the service transcribes."""
    try:
        return speech.transcribe(target.client)
    except NotHere as error:
        if target.mute:
            raise BrokenPromise(f"the model does nothing but transcribe, and yet {error}") from error
        raise


def slow_first_token(target: Target) -> str:
    """An answer whose first token is late survives the ingress, because bytes keep the connection alive.

    Asks akashllm's own `/probe`, which is silent for as long as it is told but for the keep-alive bytes. On
    this machine, where no ingress stands between, three seconds with a byte every second show the same.
    """
    client = target.client
    query = "silence=3&heartbeat=1" if client.loopback else f"silence={SILENCE:g}"
    reply = client.call("GET", f"/probe?{query}", timeout=SILENCE + 30)
    if reply.status in {404, 405} or not reply.headers.get("content-type", "").startswith("application/json"):
        raise NotHere("only a service of akashllm can be told to be slow")
    if reply.status != 200:
        raise BrokenPromise(f"answered {reply.status} after {reply.seconds:.0f} s: {reply.said()}")
    try:
        reply.json()
    except ValueError:
        raise BrokenPromise(f"was cut after {reply.seconds:.0f} s") from None
    times = [0.0, *(when for when, _ in reply.pieces)]
    longest = max(later - earlier for earlier, later in pairwise(times))
    return f"{reply.seconds:.0f} s, never silent for more than {longest:.0f} s"
