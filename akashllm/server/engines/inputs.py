"""What is to be embedded, as tokens that fit: the same for every engine whose child tokenises."""

from __future__ import annotations

from akashllm.errors import BadRequest, ContextOverflow
from akashllm.server.domain import Embedding
from akashllm.server.engines.prompts import Vocabulary

MAX_INPUTS = 2048


def token_lists(request: Embedding, vocabulary: Vocabulary, *, limit: int, width: int) -> list[list[int]]:
    """The inputs, each of `limit` tokens at most. `width`: numbers of a whole vector. Raises `BadRequest`."""
    if not 1 <= len(request.inputs) <= MAX_INPUTS:
        message = f"{len(request.inputs)} inputs: it has to be from 1 to {MAX_INPUTS}"
        raise BadRequest(message, param="input")
    if request.dimensions is not None and not 1 <= request.dimensions <= width:
        message = f"dimensions is {request.dimensions}: it has to be from 1 to {width}"
        raise BadRequest(message, param="dimensions")
    return [_tokens(item, vocabulary, limit, truncate=request.truncate) for item in request.inputs]


def _tokens(item: str | tuple[int, ...], vocabulary: Vocabulary, limit: int, *, truncate: bool) -> list[int]:
    if isinstance(item, str):
        tokens = vocabulary.tokenize(item, special=False, bos=True)
    else:
        vocabulary.check(item)
        tokens = list(item)
    if not tokens:
        tokens = [max(vocabulary.bos, vocabulary.eos, 0)]
    if len(tokens) > limit:
        if not truncate:
            raise ContextOverflow(len(tokens), limit, param="input")
        # What the model puts at the end of every text (a separator) stays at the end.
        tokens = [*tokens[: limit - 1], tokens[-1]]
    return tokens
