"""Templates written as those of Ollama's library are, one for each way a family of models writes a chat."""

from __future__ import annotations

from typing import Final, NamedTuple


class Family(NamedTuple):
    """A TEMPLATE, and the prompt it makes of the conversation in `test_families`."""

    template: str
    prompt: str


SYSTEM: Final = "You are a helpful assistant."
HELLO: Final = "Hello, how are you?"
FINE: Final = "I'm doing great. How can I help you today?"
SHOW: Final = "I'd like to show off how chat templating works!"

CHATML: Final = Family(
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{HELLO}<|im_end|>\n"
    f"<|im_start|>assistant\n{FINE}<|im_end|>\n<|im_start|>user\n{SHOW}<|im_end|>\n<|im_start|>assistant\n",
)
OLD_CHATML: Final = Family(
    "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    "{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}"
    "<|im_start|>assistant\n{{ .Response }}<|im_end|>\n",
    CHATML.prompt,
)
LLAMA2: Final = Family(
    "[INST] {{ if .System }}<<SYS>>\n{{ .System }}\n<</SYS>>\n\n{{ end }}"
    "{{ .Prompt }} [/INST] {{ .Response }}</s>",
    f"[INST] <<SYS>>\n{SYSTEM}\n<</SYS>>\n\n{HELLO} [/INST] {FINE}</s>[INST] {SHOW} [/INST] ",
)
LLAMA2_MESSAGES: Final = Family(
    """\
{{- range $at, $_ := .Messages }}
{{- if eq .Role "system" }}{{ continue }}{{ end }}
{{- if eq .Role "user" }}[INST] {{ if and $.System (le $at 1) }}<<SYS>>
{{ $.System }}
<</SYS>>

{{ end }}{{ .Content }}
{{- else }} [/INST] {{ .Content }}</s><s>
{{- end }}
{{- end }} [/INST]""",
    f"[INST] <<SYS>>\n{SYSTEM}\n<</SYS>>\n\n{HELLO} [/INST] {FINE}</s><s>[INST] {SHOW} [/INST]",
)
GEMMA: Final = Family(
    """\
{{- $system := "" }}
{{- range .Messages }}
{{- if eq .Role "system" }}
{{- $system = .Content }}
{{- continue }}
{{- end }}
{{- if eq .Role "user" }}<start_of_turn>user
{{- if $system }}
{{ $system }}
{{- $system = "" }}
{{- end }}
{{ .Content }}<end_of_turn>
{{ else }}<start_of_turn>model
{{ .Content }}<end_of_turn>
{{ end }}
{{- end }}<start_of_turn>model
""",
    f"<start_of_turn>user\n{SYSTEM}\n{HELLO}<end_of_turn>\n<start_of_turn>model\n{FINE}<end_of_turn>\n"
    f"<start_of_turn>user\n{SHOW}<end_of_turn>\n<start_of_turn>model\n",
)
PHI3: Final = Family(
    "{{ if .System }}<|system|>\n{{ .System }}<|end|>\n{{ end }}"
    "{{ if .Prompt }}<|user|>\n{{ .Prompt }}<|end|>\n{{ end }}<|assistant|>\n{{ .Response }}<|end|>\n",
    f"<|system|>\n{SYSTEM}<|end|>\n<|user|>\n{HELLO}<|end|>\n<|assistant|>\n{FINE}<|end|>\n"
    f"<|user|>\n{SHOW}<|end|>\n<|assistant|>\n",
)
ZEPHYR: Final = Family(
    "{{- if .System }}<|system|>\n{{ .System }}</s>\n{{ end }}<|user|>\n{{ .Prompt }}</s>\n<|assistant|>\n"
    "{{ .Response }}</s>\n",
    f"<|system|>\n{SYSTEM}</s>\n<|user|>\n{HELLO}</s>\n<|assistant|>\n{FINE}</s>\n"
    f"<|user|>\n{SHOW}</s>\n<|assistant|>\n",
)
ALPACA: Final = Family(
    """\
{{- range .Messages }}
{{- if eq .Role "system" }}{{ .Content }}

{{ else if eq .Role "user" }}### Instruction:
{{ .Content }}

{{ else }}### Response:
{{ .Content }}

{{ end }}
{{- end }}### Response:
""",
    f"{SYSTEM}\n\n### Instruction:\n{HELLO}\n\n### Response:\n{FINE}\n\n"
    f"### Instruction:\n{SHOW}\n\n### Response:\n",
)
VICUNA: Final = Family(
    "{{ .System }}\nUSER: {{ .Prompt }}\nASSISTANT: ",
    f"{SYSTEM}\nUSER: {HELLO}\nASSISTANT: {FINE}\nUSER: {SHOW}\nASSISTANT: ",
)
COMMAND: Final = Family(
    """\
{{- range .Messages }}<|START_OF_TURN_TOKEN|>
{{- if eq .Role "system" }}<|SYSTEM_TOKEN|>
{{- else if eq .Role "user" }}<|USER_TOKEN|>
{{- else }}<|CHATBOT_TOKEN|>
{{- end }}{{ .Content }}<|END_OF_TURN_TOKEN|>
{{- end }}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>""",
    f"<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{SYSTEM}<|END_OF_TURN_TOKEN|>"
    f"<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{HELLO}<|END_OF_TURN_TOKEN|>"
    f"<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{FINE}<|END_OF_TURN_TOKEN|>"
    f"<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{SHOW}<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
)

FAMILIES: Final = {
    "chatml": CHATML,
    "old chatml": OLD_CHATML,
    "llama2": LLAMA2,
    "llama2 of messages": LLAMA2_MESSAGES,
    "gemma": GEMMA,
    "phi3": PHI3,
    "zephyr": ZEPHYR,
    "alpaca": ALPACA,
    "vicuna": VICUNA,
    "command": COMMAND,
}

SCHEMA: Final = (
    '{"name":"get_weather","description":"Weather \\u003cnow\\u003e","parameters":{"type":"object",'
    '"required":["city"],"properties":{"city":{"type":"string","description":"The city"},'
    '"unit":{"type":"string","enum":["C","F"]}}}}'
)

LLAMA3_TOOLS: Final = Family(
    """\
{{- if or .System .Tools }}<|start_header_id|>system<|end_header_id|>
{{- if .System }}

{{ .System }}
{{- end }}
{{- if .Tools }}

Answer with a call when you need one.
{{- end }}<|eot_id|>
{{- end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "user" }}<|start_header_id|>user<|end_header_id|>
{{- if and $.Tools (le (len (slice $.Messages $i)) 3) }}

Functions:
{{ range $.Tools }}
{{- . }}
{{ end }}
{{ .Content }}<|eot_id|>
{{- else }}

{{ .Content }}<|eot_id|>
{{- end }}{{ if $last }}<|start_header_id|>assistant<|end_header_id|>

{{ end }}
{{- else if eq .Role "assistant" }}<|start_header_id|>assistant<|end_header_id|>
{{- if .ToolCalls }}
{{ range .ToolCalls }}
{"name": "{{ .Function.Name }}", "parameters": {{ .Function.Arguments }}}{{ end }}
{{- else }}

{{ .Content }}
{{- end }}{{ if not $last }}<|eot_id|>{{ end }}
{{- else if eq .Role "tool" }}<|start_header_id|>ipython<|end_header_id|>

{{ .Content }}<|eot_id|>{{ if $last }}<|start_header_id|>assistant<|end_header_id|>

{{ end }}
{{- end }}
{{- end }}""",
    f"<|start_header_id|>system<|end_header_id|>\n\n{SYSTEM}\n\nAnswer with a call when you need one.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nFunctions:\n"
    f'{{"type":"function","function":{SCHEMA}}}\n\nWeather?<|eot_id|>'
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
    '{"name": "get_weather", "parameters": {"city":"K\\u0026ln","days":3}}<|eot_id|>'
    "<|start_header_id|>ipython<|end_header_id|>\n\n22<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
)
MISTRAL_TOOLS: Final = Family(
    """\
{{- range $index, $_ := .Messages }}
{{- if eq .Role "user" }}
{{- if and (le (len (slice $.Messages $index)) 3) $.Tools -}}
[AVAILABLE_TOOLS] {{ json $.Tools }}[/AVAILABLE_TOOLS]
{{- end }}[INST] {{ if $.System }}{{ $.System }}

{{ end }}{{ .Content }}[/INST]
{{- else if eq .Role "assistant" }}
{{- if .Content }} {{ .Content }}</s>
{{- else if .ToolCalls }}[TOOL_CALLS] [
{{- range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ json .Function.Arguments }}}
{{- end }}]</s>
{{- end }}
{{- else if eq .Role "tool" }}[TOOL_RESULTS] {"content": {{ .Content }}}[/TOOL_RESULTS]
{{- end }}
{{- end }}""",
    f'[AVAILABLE_TOOLS] [{{"type":"function","function":{SCHEMA}}}][/AVAILABLE_TOOLS]'
    f"[INST] {SYSTEM}\n\nWeather?[/INST]"
    '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city":"K\\u0026ln","days":3}}]</s>'
    '[TOOL_RESULTS] {"content": 22}[/TOOL_RESULTS]',
)
QWEN_TOOLS: Final = Family(
    """\
{{- if .Messages }}
{{- if or .System .Tools }}<|im_start|>system
{{- if .System }}
{{ .System }}
{{- end }}
{{- if .Tools }}

<tools>
{{- range .Tools }}
{"type": "function", "function": {{ .Function }}}
{{- end }}
</tools>
{{- end }}<|im_end|>
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if .Content }}{{ .Content }}
{{- else if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- else if eq .Role "tool" }}<|im_start|>user
<tool_response>
{{ .Content }}
</tool_response><|im_end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ end }}
{{- end }}
{{- else }}
{{- if .Suffix }}<|fim_prefix|>{{ .Prompt }}<|fim_suffix|>{{ .Suffix }}<|fim_middle|>
{{- else }}{{ .Prompt }}{{ end }}
{{- end }}""",
    f"<|im_start|>system\n{SYSTEM}\n\n<tools>\n"
    f'{{"type": "function", "function": {SCHEMA}}}\n</tools><|im_end|>\n<|im_start|>user\nWeather?<|im_end|>\n'
    '<|im_start|>assistant\n<tool_call>\n{"name": "get_weather", "arguments": {"city":"K\\u0026ln","days":3}}\n'
    "</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\n22\n</tool_response><|im_end|>\n"
    "<|im_start|>assistant\n",
)
COMMAND_TOOLS: Final = Family(
    """\
{{- range .Tools }}
```python
def {{ .Function.Name }}(
{{- range $name, $property := .Function.Parameters.Properties }}{{ $name }}: {{ $property.Type }}, {{ end }}):
    '''{{ .Function.Description }}
{{- if .Function.Parameters.Properties }}

    Args:
{{- range $name, $property := .Function.Parameters.Properties }}
        {{ $name }} ({{ $property.Type }}): {{ $property.Description }}
{{- end }}
{{- end }}
    '''
```
{{- end }}
{{- range .Messages }}{{ if eq .Role "tool" }}<results>{{ .Content }}</results>{{ end }}{{ end }}""",
    "\n```python\ndef get_weather(city: string, unit: string, ):\n    '''Weather <now>\n\n    Args:\n"
    "        city (string): The city\n        unit (string): \n    '''\n```<results>22</results>",
)

TOOL_FAMILIES: Final = {
    "llama3": LLAMA3_TOOLS,
    "mistral": MISTRAL_TOOLS,
    "qwen2.5": QWEN_TOOLS,
    "command": COMMAND_TOOLS,
}

DEEPSEEK: Final = """\
{{- if .System }}{{ .System }}{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1}}
{{- if eq .Role "user" }}<|User|>{{ .Content }}
{{- else if eq .Role "assistant" }}<|Assistant|>
  {{- if and $.IsThinkSet (and $last .Thinking) -}}
<think>
{{ .Thinking }}
</think>
{{- end }}{{ .Content }}{{- if not $last }}<|end|>{{- end }}
{{- end }}
{{- if and $last (ne .Role "assistant") }}<|Assistant|>
{{- if and $.IsThinkSet (not $.Think) -}}
<think>

</think>

{{ end }}
{{- end -}}
{{- end }}"""
