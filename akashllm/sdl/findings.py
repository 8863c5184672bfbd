"""What a rule has to say about a line of an SDL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One broken rule: where, which, what is wrong, and how to mend it.

    An error means that the chain, a provider or the Console refuses the file, or that it cannot work; a
    warning is a known way to lose money, a lease or a secret.
    """

    line: int
    rule: str
    severity: Severity
    message: str
    fix: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.severity}: {self.message} [{self.rule}]; {self.fix}"
