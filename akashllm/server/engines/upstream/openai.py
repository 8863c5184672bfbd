"""OpenAI's dialect, as llama-server, vLLM, this service and others speak it."""

from __future__ import annotations

from typing import Any

from akashllm.errors import Unsupported
from akashllm.server.chat.formats import OutputParser
from akashllm.server.domain import (
    ChatPrompt,
    Embedding,
    Embeddings,
    Generation,
    InfillPrompt,
)
from akashllm.server.engines.upstream import forced, openai_requests
from akashllm.server.engines.upstream.choices import Choice
from akashllm.server.engines.upstream.dialect import Asked, Known
from akashllm.server.engines.upstream.faults import garbage
from akashllm.server.engines.upstream.openai_answers import InfillReader, OpenAIReader
from akashllm.server.engines.upstream.payload import count, entries, vectors


class OpenAIDialect:
    """Asks `/v1/chat/completions`, `/v1/completions` and `/v1/embeddings`."""

    def __init__(self, known: Known) -> None:
        self._known = known

    takes_tokens = True

    @property
    def choices(self) -> bool:
        """This service and vLLM make several from one prompt; Ollama's /v1 ignores `n`, others limit it."""
        return self._known.flavour in {"vllm", "akashllm"}

    def ask(self, request: Generation) -> Asked:
        """A chat where there are messages, else a completion."""
        prompt = request.prompt
        if isinstance(prompt, ChatPrompt | InfillPrompt) and prompt.template:
            raise Unsupported(
                "the upstream takes no template: leave it out, or send a rendered prompt with raw set to true",
                param="template",
            )
        if isinstance(prompt, InfillPrompt) and self._known.flavour == "llamacpp":
            body = openai_requests.infill(request, prompt, self._known)
            return Asked(
                path="/infill", body=body, reader=InfillReader(request, Choice(request, 0)), events=True
            )
        if not isinstance(prompt, ChatPrompt):
            body = openai_requests.completion(request, self._known)
            reader = OpenAIReader(request, lambda index: Choice(request, index))
            return Asked(path="/v1/completions", body=body, reader=reader, events=True)
        must = forced.wanted(prompt)
        body = openai_requests.chat(request, prompt, self._known, must)
        shaped = must if self._known.flavour == "llamacpp" else ()

        def choice(index: int) -> Choice:
            return Choice(request, index, must=shaped, parser=self._parser(request, prompt))

        return Asked(path="/v1/chat/completions", body=body, reader=OpenAIReader(request, choice), events=True)

    def _parser(self, request: Generation, prompt: ChatPrompt) -> OutputParser | None:
        """What reads the thinking and the calls that the upstream leaves in the text.

        An answer that has a shape has no thinking: it was switched off.
        """
        form, tails = self._known.form, self._known.tails
        if form is None or request.constraint is not None:
            return None
        think = None if prompt.think is None else bool(prompt.think)
        tools = () if prompt.tool_choice.mode == "none" else prompt.tools
        return form.parser(tools=tools, think=prompt.think, prompt_tail=tails.get(think, ""))

    def embedding(self, request: Embedding) -> tuple[str, dict[str, Any]]:
        """Numbers, never base64: what the client wants is its dialect's business."""
        inputs = [text if isinstance(text, str) else list(text) for text in request.inputs]
        return "/v1/embeddings", {"model": self._known.model, "input": inputs, "encoding_format": "float"}

    def embeddings(self, answer: Any) -> Embeddings:
        """In the order of the inputs, whatever the order of the answer."""
        if not isinstance(answer, dict):
            raise garbage("embeddings that are no object")
        data = [entry.get("embedding") for entry in sorted(entries(answer.get("data")), key=_index)]
        usage = answer.get("usage")
        return Embeddings(
            vectors=vectors(data),
            prompt_tokens=count(usage.get("prompt_tokens")) if isinstance(usage, dict) else 0,
        )

    def tokens(self, text: str, *, special: bool, bos: bool) -> tuple[str, dict[str, Any]]:
        """llama-server and vLLM have a route for it."""
        match self._known.flavour:
            case "llamacpp":
                return "/tokenize", {"content": text, "add_special": bos, "parse_special": special}
            case "vllm":
                return "/tokenize", {"model": self._known.model, "prompt": text, "add_special_tokens": bos}
            case _:
                raise Unsupported("the upstream does not show its tokens")

    def text(self, tokens: list[int]) -> tuple[str, dict[str, Any]]:
        """llama-server and vLLM have a route for it; this service repeats a prompt instead."""
        match self._known.flavour:
            case "akashllm":
                body = {"model": self._known.model, "prompt": tokens, "echo": True, "max_tokens": 0}
                return "/v1/completions", body
            case "llamacpp":
                return "/detokenize", {"tokens": tokens}
            case "vllm":
                return "/detokenize", {"model": self._known.model, "tokens": tokens}
            case _:
                raise Unsupported(
                    "the upstream does not turn token ids into text", param="echo", hint="send the text instead"
                )


def _index(entry: dict[str, Any]) -> int:
    return count(entry.get("index"))
