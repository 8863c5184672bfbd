"""From Ollama's requests to the neutral ones, given what the loaded model is and can do."""

from __future__ import annotations

from akashllm.errors import BadRequest, Unsupported
from akashllm.server.domain import (
    Capability,
    ChatPrompt,
    Embedding,
    Generation,
    Image,
    InfillPrompt,
    Message,
    ModelInfo,
    Prompt,
    TextPrompt,
)
from akashllm.server.wire.ollama.options import Chosen
from akashllm.server.wire.ollama.requests import ChatRequest, EmbedRequest, GenerateRequest, model_name
from akashllm.server.wire.ollama.values import UNKNOWN

_CONTEXTS = 10


def generation(request: GenerateRequest, info: ModelInfo, *, ident: str, model: str) -> Generation:
    """What `/api/generate` asks of an engine. `ident` is the request's id, `model` the name that is served.

    Raises `Unsupported` for what the model cannot do, in Ollama's words where Ollama has some.
    """
    infill = bool(request.suffix and not request.raw and not request.template)
    missing = _missing(info, completion=True, insert=infill)
    if "completion" in missing:
        raise Unsupported(f'"{request.model}" does not support generate', param="model")
    _refuse_missing(request.model, missing)
    _refuse_images(request.images, request.model, info)
    prompt: Prompt
    if request.raw:
        if request.images:
            raise Unsupported("raw mode does not support images: send them with a chat instead", param="images")
        prompt = TextPrompt(text=request.prompt)
    elif request.suffix:
        prompt = InfillPrompt(prefix=request.prompt, suffix=request.suffix, template=request.template)
    else:
        system = (Message(role="system", content=request.system),) if request.system else ()
        user = Message(role="user", content=request.prompt, images=request.images)
        prompt = ChatPrompt(
            messages=(*system, user),
            think=_thinking(request, info),
            template=request.template,
            prefix_tokens=_context(request.context, info),
        )
    return _generation(request, prompt, info, ident, model, want_context=not request.raw)


def conversation(request: ChatRequest, info: ModelInfo, *, ident: str, model: str) -> Generation:
    """What `/api/chat` asks of an engine; the rest is as `generation`."""
    missing = _missing(info, completion=True, tools=bool(request.tools))
    if "completion" in missing:
        raise Unsupported(f'"{request.model}" does not support chat', param="model")
    _refuse_missing(request.model, missing)
    _refuse_images(
        tuple(image for message in request.messages for image in message.images), request.model, info
    )
    prompt = ChatPrompt(
        messages=request.messages,
        tools=request.tools,
        think=_thinking(request, info),
        drop_oldest=request.truncate,
    )
    return _generation(request, prompt, info, ident, model, want_context=False)


def embedding(request: EmbedRequest, *, ident: str, model: str) -> Embedding:
    """What `/api/embed` and `/api/embeddings` ask of an engine."""
    return Embedding(
        id=ident,
        model=model,
        inputs=request.inputs,
        truncate=request.truncate,
        dimensions=request.dimensions,
    )


def _generation(
    request: GenerateRequest | ChatRequest,
    prompt: Prompt,
    info: ModelInfo,
    ident: str,
    model: str,
    *,
    want_context: bool,
) -> Generation:
    options = request.options
    return Generation(
        id=ident,
        model=model,
        prompt=prompt,
        sampling=options.sampling,
        constraint=request.constraint,
        max_tokens=_most(options, info),
        stop=options.stop,
        logprobs=request.logprobs,
        want_context=want_context,
        num_keep=options.num_keep,
        shift=request.shift,
        context=options.context,
    )


def _most(options: Chosen, info: ModelInfo) -> int | None:
    """The tokens to answer with: ten contexts at most, as Ollama has it, for a context that shifts never ends.

    Ollama: `num_predict` that is negative or greater becomes `10 * num_ctx` (llm/server.go).
    """
    window = min(options.context or info.context, info.context)
    if window <= 0:
        return options.max_tokens
    most = _CONTEXTS * window
    return most if options.max_tokens is None else min(options.max_tokens, most)


def _missing(info: ModelInfo, **needed: bool) -> list[str]:
    return [name for name, wanted in needed.items() if wanted and name not in info.capabilities]


def _refuse_missing(asked: str, missing: list[str]) -> None:
    if missing:
        full, what = model_name(asked).full, "\n".join(missing)
        raise Unsupported(f"{full} does not support {what}")


def _refuse_images(images: tuple[Image, ...], asked: str, info: ModelInfo) -> None:
    vision: Capability = "vision"
    if images and vision not in info.capabilities:
        raise Unsupported(
            f'this model ("{asked}") has no vision: leave out the images, or serve a model that sees',
            param="images",
        )
    if any(image.media_type == UNKNOWN for image in images):
        raise BadRequest("an image is neither PNG, JPEG nor WebP", param="images")


def _thinking(request: GenerateRequest | ChatRequest, info: ModelInfo) -> bool | str | None:
    """What the request says; the template decides where it says nothing.

    Ollama 0.33 makes every model think that can. But whether to think unasked is the choice of the model's
    makers, it stands in their template, and a model made to think only on request answers worse otherwise.
    """
    if "thinking" in info.capabilities:
        return request.think
    if request.think:
        raise Unsupported(f'"{request.model}" does not support thinking', param="think")
    return None


def _context(tokens: tuple[int, ...], info: ModelInfo) -> tuple[int, ...]:
    if tokens and (min(tokens) < 0 or (info.vocab_size and max(tokens) >= info.vocab_size)):
        raise BadRequest(
            "context holds a token this model does not have: send back what an answer of this model carried",
            param="context",
        )
    return tokens
