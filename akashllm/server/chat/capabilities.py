"""What a chat template can do, told from its text and from trying it."""

from __future__ import annotations

from akashllm.errors import EngineFailed
from akashllm.server.chat.formats import looks_like_thinking, looks_like_tools
from akashllm.server.chat.template import ChatTemplate
from akashllm.server.domain import Message, Tool

_NAME = "lookup7381"


def capabilities(template: str) -> frozenset[str]:
    """`tools` and `thinking`, as far as the template has them.

    Thinking is told by its marks. Tools by the words `tools` or `tool_call` in the source (Ollama does so), and
    by rendering: a template that renders without showing the tool it was given has none.
    """
    found = {"thinking"} if looks_like_thinking(template) else set()
    if looks_like_tools(template) and _shows_tools(template):
        found.add("tools")
    return frozenset(found)


def _shows_tools(template: str) -> bool:
    try:
        compiled = ChatTemplate(template)
    except EngineFailed:
        return False
    messages = (Message(role="user", content="Hi"),)
    shown = compiled.probe(messages, tools=(Tool(name=_NAME),))
    return shown is None or _NAME in shown
