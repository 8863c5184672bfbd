"""Prompts by vLLM's renderer, for models whose chats are not written by a Jinja template.

Mistral's tokenizers and DeepSeek's newer models write chats in code of their own, which vLLM has. Everywhere
else this service renders the model's template itself: what a client wrote is then never taken for a control
token, and both engines make the same prompt of the same messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vllm.exceptions import VLLMClientError
from vllm.renderers.params import ChatParams, TokenizeParams

from akashllm.errors import BadRequest
from akashllm.server.chat.variables import (
    Calls,
    check_messages,
    template_messages,
    template_tools,
    thinking_variables,
)
from akashllm.server.domain import ChatPrompt, Message
from akashllm.server.engines.prompts import TAIL, Prompts, Template
from akashllm.server.engines.vllm.options import Options
from akashllm.server.engines.vllm.vocabulary import Vocabulary

_TAIL_TOKENS = 100


class VllmPrompts(Prompts):
    """As `Prompts`, but chats are rendered by vLLM."""

    def __init__(self, renderer: Any, vocabulary: Vocabulary, metadata: Mapping[str, Any]) -> None:
        super().__init__(vocabulary, metadata)
        self._renderer = renderer
        self._spelling = vocabulary

    def _render(
        self, template: Template, prompt: ChatPrompt, messages: Sequence[Message]
    ) -> tuple[list[int], str]:
        if prompt.template:
            return super()._render(template, prompt, messages)
        check_messages(messages, continue_final=prompt.continue_final)
        tools = template_tools(prompt.tools) if prompt.tool_choice.mode != "none" else []
        variables: dict[str, Any] = {
            "add_generation_prompt": not prompt.continue_final,
            "continue_final_message": prompt.continue_final,
            **({"tools": tools} if tools else {}),
            **thinking_variables(think=prompt.think),
        }
        conversation = template_messages(messages, "", calls=Calls("text", ""))
        try:
            _, made = self._renderer.render_chat(
                [conversation],
                ChatParams(chat_template_kwargs=variables),
                TokenizeParams(max_total_tokens=None, add_special_tokens=False),
            )
        except (VLLMClientError, ValueError) as error:
            message = f"the model's chat format refuses these messages: {str(error)[:300]}"
            raise BadRequest(message, param="messages") from error
        tokens = [*prompt.prefix_tokens, *made[0]["prompt_token_ids"]]
        return tokens, self._spelling.detokenize(tokens[-_TAIL_TOKENS:])[-TAIL:]


def prompts_for(engine: Any, vocabulary: Vocabulary, metadata: Mapping[str, Any], options: Options) -> Prompts:
    """What makes the prompts of a running engine's model."""
    own = bool(metadata.get("tokenizer.chat_template")) or type(engine.renderer).__name__ == "HfRenderer"
    if options.chats == "own" or (options.chats == "auto" and own):
        return Prompts(vocabulary, metadata)
    return VllmPrompts(engine.renderer, vocabulary, metadata)
