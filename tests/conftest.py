"""For every test: no stopwatch in Hypothesis, and no setting of the person who runs them."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("akashllm", deadline=None, print_blob=True)
settings.load_profile("akashllm")

for name in [name for name in os.environ if name.startswith("AKASHLLM_")]:
    if name != "AKASHLLM_CACHE" and "SKIP" not in name:
        del os.environ[name]
