"""Judge any URL that claims to serve a model: one small check a promise, a verdict and a plain reason each."""

from __future__ import annotations

from akashllm.smoke.report import Report, Result, Verdict
from akashllm.smoke.runner import CHECKS, run

__all__ = ["CHECKS", "Report", "Result", "Verdict", "run"]
