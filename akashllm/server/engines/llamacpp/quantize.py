"""A process of its own that quantises one GGUF file: `python -m ... SOURCE TARGET FILE_TYPE PARENT`.

llama.cpp ends the process where a file is too damaged for it, so nothing else runs here. A line `DONE TOTAL` on
stdout for every tensor; llama.cpp's own words go to stderr. Exit status 0 only if the target is whole.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys

import llama_cpp.llama_cpp as api

from akashllm.server.engines.lifeline import die_with_parent

_TENSOR = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")


def main(source: str, target: str, file_type: str, parent: str) -> int:
    """Quantise `source` into `target`; `file_type` is a number of `llama_ftype`, `parent` who started this."""
    die_with_parent(int(parent))

    def log(_level: int, text: bytes, _data: object) -> None:
        line = text.decode("utf-8", "replace")
        sys.stderr.write(line)
        found = _TENSOR.match(line)
        if found:
            sys.stdout.write(f"{found[1]} {found[2]}\n")
            sys.stdout.flush()

    callback = api.llama_log_callback(log)
    api.llama_log_set(callback, ctypes.c_void_p(0))
    api.llama_backend_init()
    params = api.llama_model_quantize_default_params()
    params.ftype = int(file_type)
    params.nthread = max(1, len(os.sched_getaffinity(0)))
    # The source is F16 or F32 (BF16 counts as quantised to llama.cpp), so nothing is lost twice.
    params.allow_requantize = True
    status = int(api.llama_model_quantize(source.encode(), target.encode(), params))
    sys.stderr.flush()
    return 0 if status == 0 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
