"""What goes wrong, and when: one queue of faults for each operation."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Moment = Literal["before", "after"]
"""Before the market acts, or after it acted and before its reply arrives."""

Kind = Literal[
    "400",
    "401",
    "402",
    "403",
    "404",
    "409",
    "422",
    "429",
    "500",
    "502",
    "503",
    "html",
    "page",
    "truncated",
    "reset",
    "hang",
    "empty",
    "list",
    "ok",
]
"""A status with Console's error body; or `html` a maintenance page with 503, `page` the same with 200,
`truncated` JSON that ends too early, `reset` the connection, `hang` until the client has given up, `empty` no
body, `list` JSON of another shape; `ok` lets one call pass."""

REFUSALS = frozenset({"400", "401", "402", "403", "404", "409", "422", "429"})
"""Statuses that a real market answers only before it acts."""

PAGE = "<!doctype html><html><head><title>Be right back</title></head><body><h1>Maintenance</h1></body></html>"

CODES: dict[str, tuple[str, str, str]] = {
    "400": ("BadRequestError", "bad_request", "Bid is no longer open"),
    "401": ("UnauthorizedError", "unauthorized", "Invalid API key"),
    "402": ("PaymentRequiredError", "unknown_error", "Not enough balance to create the deployment"),
    "403": ("ForbiddenError", "forbidden", "Forbidden"),
    "404": ("NotFoundError", "not_found", "Deployment not found"),
    "409": ("ConflictError", "conflict", "The wallet is not activated yet"),
    "422": ("UnprocessableEntityError", "unprocessable_entity", "Unprocessable"),
    "429": ("TooManyRequestsError", "rate_limited", "Too many requests"),
    "500": ("InternalServerError", "internal_server_error", "Internal server error"),
    "502": ("BadGatewayError", "service_unavailable", "Database connection timeout"),
    "503": ("ServiceUnavailableError", "service_unavailable", "Service unavailable"),
}
"""Status -> error, code, message, as Console's error handler spells them."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong at the next call of `operation`, such as `POST /v1/leases`."""

    operation: str
    kind: Kind
    moment: Moment = "before"
    message: str = ""
    retry_after: str | None = None


class Faults:
    """Faults that wait for their call. Each happens once."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Fault]] = {}
        self.add(*faults)

    def add(self, *faults: Fault) -> None:
        """More of them."""
        with self._lock:
            for fault in faults:
                self._waiting.setdefault(fault.operation, deque()).append(fault)

    def next(self, operation: str) -> Fault | None:
        """What goes wrong now."""
        with self._lock:
            queue = self._waiting.get(operation)
            return queue.popleft() if queue else None

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        with self._lock:
            self._waiting.clear()
