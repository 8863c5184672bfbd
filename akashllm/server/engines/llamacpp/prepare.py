"""From a neutral request to a job: template, tokens, constraint; all checks that need the model.

This runs on threads beside the decode loop, so that a slow template or grammar holds up nobody else.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

import msgspec

from akashllm.errors import Unsupported
from akashllm.server.chat.formats import ChatFormat
from akashllm.server.domain import ChatPrompt, Generation
from akashllm.server.engines.llamacpp.constraint import Constraints
from akashllm.server.engines.llamacpp.job import Choice, Job
from akashllm.server.engines.llamacpp.memory import MIN_CONTEXT
from akashllm.server.engines.llamacpp.model import Model
from akashllm.server.engines.llamacpp.pictures import Picture, spans
from akashllm.server.engines.llamacpp.sampling import Sampler
from akashllm.server.engines.llamacpp.seeing import Seeing
from akashllm.server.engines.prompts import Prompts, check, shape


class Preparer:
    """Makes jobs for one model. Every method may be called from any thread."""

    def __init__(self, model: Model, template: str = "") -> None:
        """`template`, a Modelfile's in Go's syntax, takes the place of the model's own."""
        self._model = model
        self._vocabulary = model.vocabulary
        self._seeing = Seeing(model.vocabulary, model.sight) if model.sight is not None else None
        self._prompts = Prompts(self._seeing or model.vocabulary, model.metadata, template)
        self.constraints = Constraints(model.vocabulary)
        self._pieces: dict[frozenset[str], list[bytes]] = {}

    def job(self, key: int, request: Generation, wanted: Callable[[], bool] = lambda: True) -> Job:
        """A job ready to be scheduled. Raises `BadRequest`. Looking at images stops once it is not `wanted`."""
        if not self._model.generates:
            raise Unsupported("this model makes embeddings and does not generate text")
        check(request, self._vocabulary.size)
        limit = self._model.context_length
        if request.context is not None:
            limit = max(MIN_CONTEXT, min(limit, request.context))
        vocabulary = self._vocabulary
        pieces, stops = vocabulary.shown, request.stop
        constraint = self.constraints.checked(request.constraint) if request.constraint is not None else None
        request = self._shown(request, wanted)
        tokens, tail, form = self._prompts.prompt(request, limit)
        if tokens[-1] < 0:
            # The last token's logits are wanted, and those of an image are not.
            tokens += vocabulary.tokenize("\n", special=False, bos=False)
        text = [token for token in tokens if token >= 0]
        if form is not None and isinstance(request.prompt, ChatPrompt):
            pieces = self._seen(form)
            stops = (*stops, *form.stops)
            constraint = shape(form, request.prompt, constraint, tail or "")
        job = Job(
            key=key,
            request=request,
            prompt=array("i", tokens),
            limit=limit,
            pieces=pieces,
            spelled=vocabulary.spelled,
            ends=vocabulary.ends,
            stops=stops,
            tail=tail,
            pictures=spans(tokens, self._pictures()) if len(text) < len(tokens) else (),
        )
        matcher = self.constraints.compile(constraint) if constraint is not None else None
        for index in range(request.n):
            sampler = Sampler(request.sampling, text, index=index, context=limit, newline=vocabulary.newline)
            guide = self.constraints.guide(matcher) if matcher is not None else None
            job.choices.append(Choice(job, index, sampler, guide))
        return job

    def _shown(self, request: Generation, wanted: Callable[[], bool]) -> Generation:
        """The request with its images looked at; what they became is in `_seeing`, for this thread."""
        prompt = request.prompt
        if self._seeing is not None:
            self._seeing.found = {}
        if not isinstance(prompt, ChatPrompt) or not any(message.images for message in prompt.messages):
            return request
        if self._seeing is None or self._model.sight is None:
            raise Unsupported("this model has no vision: leave out the images", param="images")
        shown, self._seeing.found = self._model.sight.shown(prompt, wanted)
        # An image cannot be forgotten in part, so a full context ends the answer.
        return msgspec.structs.replace(request, prompt=shown, shift=False)

    def _pictures(self) -> dict[int, Picture]:
        """The pictures of this thread's request, by their first id."""
        found = self._seeing.found.values() if self._seeing is not None else ()
        return {piece.ids[0]: piece for pieces in found for piece in pieces if isinstance(piece, Picture)}

    def _seen(self, form: ChatFormat) -> list[bytes]:
        """The bytes of tokens a format's parser sees: its markers too, which others do not."""
        found = self._pieces.get(form.markers)
        if found is None:
            vocabulary = self._vocabulary
            found = list(vocabulary.shown)
            for marker in form.markers & vocabulary.special.keys():
                token = vocabulary.special[marker]
                found[token] = vocabulary.spelled[token]
            self._pieces[form.markers] = found
        return found
