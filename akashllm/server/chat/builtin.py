"""Templates for models whose file has none, by architecture: each family's published turn markers, no more."""

from __future__ import annotations

from typing import Final

CHATML: Final = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

GEMMA: Final = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}
{%- for message in messages %}
{%- set role = 'model' if message.role == 'assistant' else message.role %}
{{- '<start_of_turn>' + role + '\\n' + message.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}
"""

PHI3: Final = """\
{%- for message in messages %}
{{- '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}
"""

COMMAND_R: Final = """\
{{- bos_token }}
{%- set roles = {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT', 'tool': 'SYSTEM'} %}
{%- for message in messages %}
{{- '<|START_OF_TURN_TOKEN|><|' + roles[message.role] + '_TOKEN|>' }}
{{- message.content + '<|END_OF_TURN_TOKEN|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{%- endif %}
"""

_BY_ARCHITECTURE: Final = {
    "gemma": GEMMA,
    "gemma2": GEMMA,
    "gemma3": GEMMA,
    "gemma3n": GEMMA,
    "phi3": PHI3,
    "command-r": COMMAND_R,
    "cohere2": COMMAND_R,
}


def builtin_template(architecture: str) -> str:
    """The template for a model without one; ChatML where nothing better is known."""
    return _BY_ARCHITECTURE.get(architecture, CHATML)
