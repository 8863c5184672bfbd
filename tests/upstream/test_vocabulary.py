"""Token ids for an upstream that takes texts only."""

from __future__ import annotations

from typing import Any

import openai
import pytest
import requests

from akashllm.errors import BadRequest, Unsupported
from akashllm.server.domain import Embedding, TokenPrompt
from akashllm.server.engines.upstream.vocabulary import Vocabulary

from .ask import over, run, say
from .conftest import KEY, front
from .scripted import SHOW, lines, ollama_like

BPE = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["<|end|>", "Hi", "\u0120you", "\u00c3", "\u00a9", "<\uff5cx\uff5c>"],
    "tokenizer.ggml.token_type": [3, 1, 1, 1, 1, 4],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 0,
}
SPM = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "\u2581Hi", "\u2581you", "<0xC3>", "<0xA9>"],
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 6, 6],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}
BERT = {
    "tokenizer.ggml.model": "bert",
    "tokenizer.ggml.tokens": ["[CLS]", "[SEP]", "\u2581play", "ing", "\u2581now"],
    "tokenizer.ggml.token_type": [3, 3, 1, 1, 1],
    "tokenizer.ggml.cls_token_id": 0,
    "tokenizer.ggml.seperator_token_id": 1,
}


@pytest.mark.parametrize(
    ("header", "tokens", "whole", "prompt", "content"),
    [
        (BPE, (0, 1, 2, 3, 4, 0), "<|end|>Hi you\u00e9<|end|>", "Hi you\u00e9<|end|>", "Hi you\u00e9"),
        (BPE, (1, 5), "Hi<\uff5cx\uff5c>", "Hi<\uff5cx\uff5c>", "Hi<\uff5cx\uff5c>"),
        (SPM, (1, 3, 4, 5, 6, 2), "<s> Hi you\u00e9</s>", "Hi you\u00e9</s>", "Hi you\u00e9"),
        (BERT, (0, 2, 3, 4, 1), "[CLS] playing now[SEP]", "playing now[SEP]", "playing now"),
    ],
    ids=["bpe", "unusual", "sentencepiece", "wordpiece"],
)
def test_tokens_are_spelled_as_the_file_has_them(
    header: dict[str, Any], tokens: tuple[int, ...], whole: str, prompt: str, content: str
) -> None:
    """Bytes are joined before they are text; what the upstream puts around a text itself is not sent twice."""
    vocabulary = Vocabulary(header, "prompt")
    assert vocabulary.text(tokens) == whole
    assert vocabulary.prompt(tokens) == prompt
    assert vocabulary.content(tokens) == content
    for wrong in (-1, len(header["tokenizer.ggml.tokens"])):
        with pytest.raises(BadRequest):
            vocabulary.text((wrong,))


def shown(header: dict[str, Any]) -> dict[str, Any]:
    """`/api/show` of a model with that vocabulary."""
    return SHOW | {"model_info": SHOW["model_info"] | header}


async def test_ollama_gets_the_text_of_token_ids() -> None:
    """A prompt goes out raw, since it was templated already; inputs go out as texts, in their order."""
    answer = lines({"response": "!", "done": True, "done_reason": "stop"})
    upstream = ollama_like(**{"api/generate": answer, "api/show": shown(BPE)})
    async with over(upstream) as engine:
        await run(engine, say(prompt=TokenPrompt(tokens=(1, 2))))
    (body,) = [one.body for one in upstream.asked if one.path == "/api/generate"]
    assert (body["prompt"], body["raw"]) == ("Hi you", True)

    upstream = ollama_like(**{"api/embed": {"embeddings": [[1.0], [2.0]]}, "api/show": shown(BPE)})
    async with over(upstream) as engine:
        await engine.embed(Embedding(id="e", model="m", inputs=("a", (1, 2))))
    (asked,) = [one.body for one in upstream.asked if one.path == "/api/embed"]
    assert asked["input"] == ["a", "Hi you"]


async def test_a_vocabulary_that_is_not_shown_is_said() -> None:
    """Then nothing is sent."""
    upstream = ollama_like()
    async with over(upstream) as engine:
        with pytest.raises(Unsupported, match="does not show its tokens") as refused:
            await engine.embed(Embedding(id="e", model="m", inputs=((1, 2),)))
        assert refused.value.param == "input"
        with pytest.raises(Unsupported, match="does not show its tokens") as refused:
            await run(engine, say(prompt=TokenPrompt(tokens=(1,))))
        assert refused.value.param == "prompt"
    assert {one.path for one in upstream.asked} == {"/api/show"}


@pytest.mark.engine
def test_token_ids_mean_the_same_as_their_text(ours: str) -> None:
    """The bundled model behind its Ollama dialect: vectors and greedy answers are those of the text."""
    words = "Once upon a time there was a"
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        front(ours, "ollama") as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client,
        openai.OpenAI(base_url=f"{ours}/v1", api_key=KEY, max_retries=0, timeout=60) as direct,
    ):
        echoed = direct.completions.create(model="tiny", prompt=words, max_tokens=0, echo=True, logprobs=0)
        logprobs = echoed.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.tokens
        show = requests.post(
            f"{ours}/api/show", json={"model": "tiny", "verbose": True}, headers=headers, timeout=60
        ).json()["model_info"]
        vocabulary = Vocabulary(show, "prompt")
        pieces = {vocabulary.text((number,)): number for number in range(len(show["tokenizer.ggml.tokens"]))}
        tokens = [pieces[token] for token in logprobs.tokens]
        assert len(tokens) > 3

        by_ids, by_text = (
            client.embeddings.create(model="tiny", input=one).data[0].embedding for one in (tokens, words)
        )
        assert by_ids == by_text
        answers = [
            client.completions.create(model="tiny", prompt=one, max_tokens=8, temperature=0).choices[0].text
            for one in (tokens, words)
        ]
        assert answers[0] == answers[1] != ""
        with pytest.raises(openai.BadRequestError, match="token ids are 0 to"):
            client.embeddings.create(model="tiny", input=[10**6])
