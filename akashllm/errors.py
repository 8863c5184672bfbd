"""Every error a person can meet, in one tree.

::

    AkashllmError                    exit 1
    ├── UsageError                   exit 2   the command line or a file says something impossible
    │   ├── BadName                           a model, deployment or image name is malformed
    │   ├── UnknownModel                      no catalogue entry, file or repository of that name
    │   ├── DoesNotFit                        no GPU on the market holds the request
    │   ├── BadSdl                            an SDL breaks a rule (carries the findings)
    │   ├── BadModelFile                      a model file's header is malformed or hostile
    │   └── MissingExtra                      an optional dependency is not installed
    ├── Unreachable                  exit 3   nobody answers at that address
    ├── DigestMismatch               exit 1   a file is not the file that was promised
    ├── CheckFailed                  exit 1   a smoke test or a drift check found a broken promise
    ├── ImageFailed                  exit 1   an image could not be built or pushed; says at which step
    ├── StateError                   exit 4   the record of deployments is unreadable, newer or locked
    │   └── NoSuchDeployment                  no deployment has that name, dseq or prefix
    ├── MarketError                  exit 5   a market or a provider refused or failed
    │   ├── KeyRefused               exit 6   no key for the market, or one that it does not accept
    │   ├── NotEnoughMoney           exit 7   the account cannot pay for what was asked
    │   ├── MarketUnavailable        exit 8   no answer, too many requests, or maintenance: try later
    │   ├── NoBids                   exit 9   nobody bids, or no bid will do
    │   ├── BidGone                  exit 5   the bid that was to be taken is no longer open
    │   ├── ProviderFailed           exit 10  a provider failed, or is not who it says it is
    │   └── ConnectionLost           exit 11  the connection to a container broke while a command ran in it
    └── ServiceError                 HTTP     what the service answers (see `http_status`)
        ├── BadRequest               400
        │   ├── ContextOverflow      400      prompt and context sizes are both in the message
        │   └── Unsupported          400      this model or engine cannot do that
        ├── Unauthorized             401
        ├── Forbidden                403
        ├── ModelNotFound            404
        ├── NoSuchRoute              404      no such path
        ├── WrongMethod              405
        ├── TooSlow                  408      the body did not arrive in time
        ├── TooLarge                 413
        ├── UnsupportedMedia         415      a compressed body
        ├── Busy                     503      queue full or still loading, with `retry_after`
        ├── DownloadFailed           502      a file cannot be fetched; says from where, and why
        ├── EngineFailed             503      the engine cannot be started; says why
        ├── EngineDied               500      the engine stopped while the request was running
        ├── StoreFailed              500      the model store is full, read-only, damaged or someone else's
        └── RegistryFailed           500      a registry refused, failed, or does not hold what it promises

Each class carries `exit_code` (for the command line), `http_status` (None where it never leaves the
service) and each instance a `hint`: what to do next, in one sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class AkashllmError(Exception):
    """The root. `str(error)` is one sentence for a person; `hint` says what to do next."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int | None] = None

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(AkashllmError):
    """The command line, or a file it names, asks for something impossible."""

    exit_code = 2


class BadName(UsageError):
    """A name is malformed. The message never says whether a file of that name exists."""


class UnknownModel(UsageError):
    """No catalogue entry, file or repository has that name."""


class DoesNotFit(UsageError):
    """The model does not fit the GPUs that were asked for, or any on the market."""


class BadSdl(UsageError):
    """An SDL breaks one or more rules; `findings` lists each as 'line N: what, how to mend it'."""

    def __init__(self, message: str, findings: Sequence[str] = (), *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.findings = tuple(findings)


class BadModelFile(UsageError):
    """A model file's header is malformed, hostile, or of a kind this version does not know."""


class MissingExtra(UsageError):
    """An optional part is not installed; the hint is the pip command that installs it."""


class Unreachable(AkashllmError):
    """Nobody answers at that address."""

    exit_code = 3


class DigestMismatch(AkashllmError):
    """The bytes that came are not the bytes that were promised: wrong digest or wrong length."""


class CheckFailed(AkashllmError):
    """A smoke test or a drift check found a promise that does not hold."""


class ImageFailed(AkashllmError):
    """An image could not be built or pushed. The message holds the step and the engine's own last words."""


class StateError(AkashllmError):
    """The record of deployments is unreadable, from a newer version, or locked."""

    exit_code = 4


class NoSuchDeployment(StateError):
    """No deployment has that name, dseq or unambiguous prefix."""


class MarketError(AkashllmError):
    """A market or a provider refused, failed, or cannot be used from here."""

    exit_code = 5


class KeyRefused(MarketError):
    """There is no key for the market, it is malformed, or the market does not accept it."""

    exit_code = 6


class NotEnoughMoney(MarketError):
    """The account cannot pay: it is empty, or a trial does not cover this."""

    exit_code = 7


class MarketUnavailable(MarketError):
    """The market does not answer, answers nonsense, or asks to be left alone for a while.

    `acted` is None where a call may or may not have been carried out, and False where it was certainly not.
    """

    exit_code = 8

    def __init__(self, message: str, *, hint: str = "", acted: bool | None = False) -> None:
        super().__init__(message, hint=hint)
        self.acted = acted


class NoBids(MarketError):
    """Nobody has bid, or none of the bids is what was asked for."""

    exit_code = 9


class BidGone(MarketError):
    """The bid that was to be taken is no longer open."""


class ProviderFailed(MarketError):
    """A provider ended the lease, never started the service, or cannot prove who it is."""

    exit_code = 10


class ConnectionLost(MarketError):
    """The connection to a container broke while a command ran in it."""

    exit_code = 11


class ServiceError(AkashllmError):
    """What the service answers over HTTP.

    `code` and `param` are OpenAI's machine-readable fields; Ollama's dialect shows the message only.
    """

    http_status: ClassVar[int | None] = 500
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code if code is not None else type(self).code
        self.param = param
        self.retry_after = retry_after


class BadRequest(ServiceError):
    """The request is malformed or outside a named limit."""

    http_status = 400


class ContextOverflow(BadRequest):
    """The prompt does not fit the context window. Both counts are in tokens.

    The first words are OpenAI's: clients that fall back to a larger model look for them (litellm's
    exception_mapping_utils.py).
    """

    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, context: int, *, param: str | None = None) -> None:
        super().__init__(
            f"this model's maximum context length is {context} tokens and the prompt has {prompt_tokens} "
            "input tokens: shorten the prompt, or serve the model with a larger context",
            param=param,
        )
        self.prompt_tokens = prompt_tokens
        self.context = context


class Unsupported(BadRequest):
    """This model or this engine cannot do what was asked."""

    code = "unsupported_parameter"


class Unauthorized(ServiceError):
    """No key, or a wrong one. Both read the same."""

    http_status = 401
    code = "invalid_api_key"


class Forbidden(ServiceError):
    """The key is fine, the operation is not allowed on this service."""

    http_status = 403
    code = "forbidden"


class ModelNotFound(ServiceError):
    """A model was named that this service does not serve."""

    http_status = 404
    code = "model_not_found"


class NoSuchRoute(ServiceError):
    """Nothing is served at that path."""

    http_status = 404
    code = "unknown_url"


class WrongMethod(ServiceError):
    """The path is served, but not with that method."""

    http_status = 405
    code = "method_not_allowed"


class TooSlow(ServiceError):
    """The body did not arrive in time."""

    http_status = 408
    code = "request_timeout"


class TooLarge(ServiceError):
    """The body is larger than the service reads."""

    http_status = 413
    code = "request_too_large"


class UnsupportedMedia(ServiceError):
    """The body is encoded in a way the service does not read."""

    http_status = 415
    code = "unsupported_media_type"


class Busy(ServiceError):
    """Not now: the queue is full or the model is still loading. `retry_after` is in seconds."""

    http_status = 503
    code = "server_busy"


class DownloadFailed(ServiceError):
    """A file cannot be fetched. `status` is what the server answered, None where it was no answer's fault."""

    http_status = 502
    code = "download_failed"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, code=code, retry_after=retry_after)
        self.status = status


class EngineFailed(ServiceError):
    """The engine cannot be started; the message is the reason."""

    http_status = 503
    code = "engine_failed"


class EngineDied(ServiceError):
    """The engine stopped while this request was running; it is being restarted."""

    http_status = 500
    code = "engine_died"


class StoreFailed(ServiceError):
    """The model store cannot do it: full, read-only, damaged, or another user's. The message says which."""

    http_status = 500
    code = "store_failed"


class RegistryFailed(ServiceError):
    """A registry of models refused, failed, or lied. The status is 500, as Ollama answers a failed pull."""

    http_status = 500
    code = "registry_failed"
