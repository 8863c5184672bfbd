"""Small templates with the markers of the families that GGUF files carry, written for these tests."""

from __future__ import annotations

LLAMA3 = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
{%- if message.tool_calls %}
{%- if message.tool_calls | length != 1 %}{{- raise_exception('only one call at once') }}{%- endif %}
{%- set call = message.tool_calls[0].function %}
{{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}' }}
{%- else %}
{{- message.content | trim }}
{%- endif %}
{{- '<|eot_id|>' }}
{%- endfor %}
{%- if tools is not none %}{%- for tool in tools %}{{- tool | tojson(indent=4) }}{%- endfor %}{%- endif %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""

MISTRAL = """\
{{- bos_token }}
{%- for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{%- if message['role'] == 'user' %}
{%- if tools %}{{- '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{%- endif %}
{{- '[INST]' + message['content'] + '[/INST]' }}
{%- elif message['tool_calls'] is defined %}
{{- '[TOOL_CALLS][' }}
{%- for call in message['tool_calls'] %}
{%- if call.id | length != 9 %}{{- raise_exception('Tool call IDs: length 9!') }}{%- endif %}
{{- call.function | tojson }}
{%- endfor %}
{{- ']' + eos_token }}
{%- else %}
{{- message['content'] + eos_token }}
{%- endif %}
{%- endfor %}
"""

QWEN3 = """\
{%- if tools %}{{- '<|im_start|>system\\n# Tools\\n<tool_call>\\n{"name": NAME}\\n</tool_call>' }}
{%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
{%- set content = message.content %}
{%- if message.role == 'assistant' and '</think>' in content %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""

DEEPSEEK = """\
{{ bos_token }}{% for message in messages %}
{%- if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}
{%- elif message['content'] is none %}
{%- for tool in message['tool_calls'] %}
{{- '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>' + tool['function']['name'] }}
{{- '\\n```json\\n' + tool['function']['arguments'] + '\\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>' }}
{%- endfor %}
{%- else %}{{ message['content'] }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}
"""

HARMONY = """\
{%- for message in messages %}
{%- if message.content and message.thinking and message.tool_calls %}
{{- raise_exception('Cannot pass both content and thinking in an assistant message with tool calls!') }}
{%- endif %}
{{- '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' }}
{%- endfor %}
{{- '<|start|>system<|message|>Reasoning: ' + (reasoning_effort or 'medium') + '<|channel|>analysis<|end|>' }}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}
"""

SILENT_SYSTEM = """\
{%- for message in messages %}{%- if message.role != 'system' %}{{- message.role + ': ' + message.content }}
{%- endif %}{%- endfor %}
"""

SIGNS = {
    "harmony": "<|start|><|channel|>analysis<|message|>",
    "minimax": "<minimax:tool_call><invoke name=<parameter name= <think>",
    "seed": "<seed:tool_call><function=<parameter= </seed:think>",
    "glm": "<tool_call><arg_key><arg_value><think></think>",
    "qwen3-coder": "<tool_call><function=<parameter=",
    "deepseek": "<｜tool▁call▁begin｜>```json <think></think>",
    "kimi": "<|tool_calls_section_begin|><|tool_call_begin|>",
    "mistral-args": "[TOOL_CALLS][ARGS][THINK][/THINK]",
    "mistral": "[TOOL_CALLS]",
    "command": "<|START_ACTION|><|END_THINKING|>",
    "gemma4": "<|tool_call><tool_call|><channel|>",
    "nemotron": "<TOOLCALL><think>",
    "phi4": "<|tool_call|><|/tool_call|>",
    "granite3": "<|tool_call|>",
    "hermes": "<tool_call>\n<think>",
    "llama3": "<|start_header_id|>tools",
    "functools": "functools[",
    "generic": "nothing known",
}
"""A text a template of each family contains."""
