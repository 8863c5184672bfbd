"""What can be wrong with a template, in the words Go uses."""

from __future__ import annotations


class GoTemplateError(Exception):
    """The template cannot be parsed or run; the message is Go's, with the line. `line` counts from 1."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


class OperandFault(Exception):
    """A function or an operator was given what it cannot take; the place is added where it was called."""


def parse_fault(line: int, message: str) -> GoTemplateError:
    """A fault found while reading. Templates of Ollama have no name, so none stands before the line."""
    return GoTemplateError(f"template: :{line}: {message}", line)
