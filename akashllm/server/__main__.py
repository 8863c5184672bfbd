"""`python -m akashllm.server`: the service as the environment describes it; what the images run."""

from __future__ import annotations

from akashllm.server.run import main

if __name__ == "__main__":
    raise SystemExit(main())
