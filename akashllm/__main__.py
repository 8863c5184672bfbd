"""`python -m akashllm`: the command line."""

from __future__ import annotations

from akashllm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main())
