"""Images through the real engine: what is seen decides the answer, and nothing else does."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from akashllm.errors import BadRequest, ContextOverflow, EngineFailed, Unsupported
from akashllm.models import TINY
from akashllm.server.domain import Delta, Done, Generation, Message, TokenPrompt
from akashllm.server.engines.llamacpp.engine import LlamaCppEngine
from tests.vision.conftest import answer, question, seeing, shown
from tests.vision.drawing import jpeg, noise, png
from tests.vision.projector import TOKENS, write_projector

LONG = "Tell me what is in this image, and what its colours are. " * 8


async def test_an_image_counts_and_decides(engine: LlamaCppEngine) -> None:
    """Prompt tokens have the image's; other images give other answers, the same one the same."""
    _, plain = await answer(engine, question(Message(role="user", content="x")))
    seen = [await answer(engine, question(shown(png(noise(seed)), "x"), tokens=24)) for seed in (1, 2, 3, 4, 1)]
    assert {usage.prompt_tokens for _, usage in seen} == {plain.prompt_tokens + TOKENS + 1}
    texts = [text for text, _ in seen]
    assert len(set(texts)) > 1
    assert texts[0] == texts[-1]


async def test_png_and_jpeg_are_read(engine: LlamaCppEngine) -> None:
    """Both formats give embeddings; JPEG loses a little, so only that it is answered is asked."""
    _, usage = await answer(engine, question(shown(jpeg(noise(6)), media_type="image/jpeg")))
    assert usage.completion_tokens


async def test_a_follow_up_finds_the_image_in_the_cache(engine: LlamaCppEngine) -> None:
    """The next question of the same chat evaluates only what is new, image and all, and says the same."""
    first = shown(png(noise(7)), LONG)
    text, usage = await answer(engine, question(first))
    assert usage.cached_tokens == 0
    chat = (first, Message(role="assistant", content="Noise."), Message(role="user", content="Are you sure?"))
    again, more = await answer(engine, question(*chat))
    assert more.cached_tokens >= usage.prompt_tokens - 4
    await answer(engine, question(shown(png(noise(8)), LONG)))
    repeated, third = await answer(engine, question(*chat))
    assert repeated == again
    assert third.cached_tokens > TOKENS
    assert text


async def test_another_image_under_the_same_text_shares_nothing(
    engine: LlamaCppEngine, projector: Path
) -> None:
    """Only what is before the image is taken from the cache; the answer is the one a fresh engine gives."""
    system = Message(role="system", content="You look at images and say what they show. " * 8)
    asked = [question(system, shown(png(noise(seed)), "x"), tokens=24) for seed in (1, 2, 4)]
    first, *others = [await answer(engine, request) for request in asked]
    for _, usage in others:
        assert TOKENS < usage.cached_tokens < usage.prompt_tokens - TOKENS
    async with seeing(projector, slots=4) as fresh:
        alone = [await answer(fresh, request) for request in reversed(asked)]
    assert [text for text, _ in (first, *others)] == [text for text, _ in reversed(alone)]


async def test_company_changes_nothing(engine: LlamaCppEngine) -> None:
    """Four streams at once, with and without images, say what each says alone."""
    asked = [
        question(shown(png(noise(1)), "x"), tokens=32),
        question(Message(role="user", content="What is the capital of Japan?"), tokens=32),
        question(shown(png(noise(2)), "x"), tokens=32),
        question(shown(png(noise(4)), "hello"), tokens=32),
    ]
    alone = [await answer(engine, request) for request in asked]
    together = await asyncio.gather(*(answer(engine, request) for request in asked))
    texts = [text for text, _ in alone]
    assert [text for text, _ in together] == texts
    assert texts[0] != texts[2]


async def test_choices_share_an_image(engine: LlamaCppEngine) -> None:
    """Several choices of one request look once; greedily they are all the same."""
    texts: dict[int, str] = {}
    async for event in engine.generate(question(shown(png(noise(13))), n=3)):
        if isinstance(event, Delta):
            texts[event.index] = texts.get(event.index, "") + event.thinking + event.text
    assert len(texts) == 3
    assert len(set(texts.values())) == 1


async def test_several_images_have_an_order(engine: LlamaCppEngine) -> None:
    """Two images count twice, and their order matters to the cache."""
    first, second = shown(png(noise(14)), "One."), shown(png(noise(15)), "Two.")
    _, usage = await answer(engine, question(first, second, tokens=4))
    _, swapped = await answer(
        engine, question(shown(png(noise(15)), "One."), shown(png(noise(14)), "Two."), tokens=4)
    )
    assert usage.prompt_tokens == swapped.prompt_tokens > 2 * TOKENS
    assert swapped.cached_tokens < TOKENS


async def test_the_context_counts_images(engine: LlamaCppEngine) -> None:
    """A prompt that fits only without its images does not fit; a full context ends an answer with an image."""
    images = tuple(shown(png(noise(seed)), "x") for seed in range(20, 26))
    with pytest.raises(ContextOverflow):
        await answer(engine, question(*images, context=64))
    request = question(shown(png(noise(16))), tokens=200, context=48, shift=True, ignore_eos=True)
    _, usage = await answer(engine, request)
    assert usage.prompt_tokens + usage.completion_tokens <= 49


async def test_a_client_cannot_name_an_image(engine: LlamaCppEngine) -> None:
    """Ids of images are outside the vocabulary, and the context that is given back has none of them."""
    with pytest.raises(BadRequest, match="outside the vocabulary"):
        await answer(engine, Generation(id="2", model="x", prompt=TokenPrompt(tokens=(-5,))))
    context: tuple[int, ...] = ()
    async for event in engine.generate(question(shown(png(noise(17))), want_context=True)):
        if isinstance(event, Done):
            context = event.context
    assert context
    assert min(context) >= 0


async def test_placeholders_in_a_text_are_text(engine: LlamaCppEngine) -> None:
    """What libmtmd and templates use for images is nothing but words in a client's text."""
    for text in (
        "<__media__>",
        "<image>",
        "[img-0]",
        "<|vision_start|><|image_pad|><|vision_end|>",
        "<__media__>" * 50,
    ):
        said, _ = await answer(engine, question(Message(role="user", content=text), tokens=2))
        assert isinstance(said, str)
        await answer(engine, question(shown(png(noise(18)), text), tokens=2))


async def test_leaving_frees_the_slot(engine: LlamaCppEngine) -> None:
    """Requests given up while their images are looked at, or later, leave nothing running."""
    for _ in range(3):
        request = question(shown(png(noise(19, 512, 512))), tokens=500, ignore_eos=True)
        task = asyncio.ensure_future(answer(engine, request))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    text, _ = await answer(engine, question(Message(role="user", content="What is 1+1?")))
    assert text
    assert engine.stats().running == 0


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n",
        png(noise(1))[:200],
        png(noise(1))[:-30] + bytes(30),
        jpeg(noise(1))[:300],
        b"\xff\xd8\xff" + bytes(500),
    ],
    ids=["only magic", "cut", "broken sum", "cut jpeg", "no jpeg"],
)
async def test_damaged_images_are_answered(engine: LlamaCppEngine, data: bytes) -> None:
    """A damaged image is a bad request or is read as far as it goes; the engine's process lives on."""
    before = engine.pid
    with contextlib.suppress(BadRequest):
        await answer(engine, question(shown(data)))
    assert engine.pid == before


async def test_webp_is_refused_in_words(engine: LlamaCppEngine) -> None:
    """What libmtmd was built without is a bad request that says what to send."""
    with pytest.raises(BadRequest, match="image/webp"):
        await answer(engine, question(shown(b"RIFF\0\0\0\0WEBPVP8 " + bytes(30), media_type="image/webp")))


async def test_what_is_told_has_vision(engine: LlamaCppEngine) -> None:
    """The model says that it sees."""
    assert "vision" in engine.info.capabilities


async def test_without_a_projector_images_are_refused() -> None:
    """The same model without the file says that it has no vision, also to who asks the engine itself."""
    engine = LlamaCppEngine(TINY, name="tiny:latest", slots=1)
    try:
        with pytest.raises(Unsupported, match="no vision"):
            await answer(engine, question(shown(png(noise(1)))))
        assert "vision" not in engine.info.capabilities
    finally:
        await engine.close()


@pytest.mark.parametrize("kind", ["missing", "no gguf", "another width"])
async def test_a_projector_that_does_not_fit_is_a_reason(tmp_path: Path, kind: str) -> None:
    """An engine that cannot use its projector fails with a sentence that names it."""
    path = tmp_path / "mmproj.gguf"
    if kind == "no gguf":
        path.write_bytes(b"GGUF" + bytes(100))
    elif kind == "another width":
        write_projector(path, width=128)
    with pytest.raises(EngineFailed, match=r"projector mmproj\.gguf"):
        async with seeing(path, slots=1):
            pass
