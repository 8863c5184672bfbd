"""What the chain, its command line or a provider refuses, as one sentence and the next step.

Codes are those of Cosmos' own code space (types/errors); the texts are the chain's registered errors and the
command's own. A transaction that was refused is certainly not carried out; anything that is not known to be a
refusal may have been.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from akashllm.errors import AkashllmError, BidGone, KeyRefused, MarketError, MarketUnavailable, NotEnoughMoney
from akashllm.market.console_errors import NotThere, cleaned
from akashllm.market.wallet_cli import Ran

LATER = "nothing is lost: run the same command again in a few minutes"

_CODES = {
    5: "insufficient funds",
    11: "out of gas",
    13: "insufficient fee",
    20: "mempool is full",
    32: "account sequence mismatch",
}


class SequenceMismatch(MarketUnavailable):
    """Another transaction of this key was faster: certainly not carried out, and may be sent again."""


class Exists(MarketError):
    """The owner has a deployment of that number already."""


class AlreadyClosed(MarketError):
    """The deployment is closed."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a text means. `message` and `hint` may name {text}, {call} and {key}."""

    pattern: re.Pattern[str]
    error: type[MarketError]
    message: str
    hint: str

    def make(self, text: str, call: str, key: str) -> MarketError:
        words = {"text": text, "call": call, "key": key}
        return self.error(self.message.format(**words), hint=self.hint.format(**words))


def _words(*texts: str) -> re.Pattern[str]:
    return re.compile("|".join(texts), re.IGNORECASE)


_KINDS = (
    _Kind(
        _words("account sequence mismatch", "incorrect account sequence"),
        SequenceMismatch,
        "another transaction of {key} is under way ({text})",
        "wait for the other command that uses this key, then run this one again",
    ),
    _Kind(
        _words("out of gas"),
        MarketUnavailable,
        "{call} ran out of gas: {text}",
        "set AKASH_GAS_ADJUSTMENT=2 and run the same command again; the fee of this one is spent",
    ),
    _Kind(
        _words("insufficient funds", "insufficient fees?", "spendable balance", "deposit (too low|invalid)"),
        NotEnoughMoney,
        "{key} cannot pay for {call}: {text}",
        "fees are paid in AKT, deployments in ACT: provider-services tx bme mint-act 10000000uakt --from {key}"
        " turns ten AKT into ACT",
    ),
    _Kind(
        _words("no certificate file", "certificate has not been", "certificate.*(expired|revoked)"),
        KeyRefused,
        "the chain has no certificate of {key} for providers: {text}",
        "provider-services tx cert generate client --from {key}"
        " && provider-services tx cert publish client --from {key}",
    ),
    _Kind(
        _words("bid (is )?not (open|found)", "order (is )?not open", "bid (is )?no longer open"),
        BidGone,
        "the bid is no longer open ({text})",
        "deploy again",
    ),
    _Kind(
        _words("groups are different", "cannot update groups"),
        MarketError,
        "resources, prices and placement cannot be changed under a lease",
        "a new lease is needed",
    ),
    _Kind(
        _words("deployment exists"),
        Exists,
        "this account has a deployment of that number already",
        "deploy again",
    ),
    _Kind(
        _words("deployment (is )?closed"), AlreadyClosed, "the deployment is closed ({text})", "deploy again"
    ),
    _Kind(
        _words("deployment not found"),
        NotThere,
        "the chain has no such deployment ({text})",
        "`akashllm list` shows what there is",
    ),
    _Kind(
        _words("unknown (flag|command|shorthand flag)", r"accepts \d+ arg", r"required flag\(s\)"),
        MarketError,
        "Akash's command line does not know this: {text}",
        "another version of it is installed than akashllm knows; AKASHLLM_AKASH_CLI names the one to use",
    ),
    # A bare EOF is what its prompt says when nobody is there to type a passphrase.
    _Kind(
        _words(
            r"^\S+: key not found",
            *("not a valid name or address", "no such key", "keyring", "passphrase", "^EOF$", "secret service"),
            "declined by user",
        ),
        KeyRefused,
        "the keyring did not sign for {key!r}: {text}",
        "`provider-services keys list` shows the keys; AKASH_KEYRING_BACKEND names the keyring. One that asks"
        " for a passphrase in the terminal cannot be used: os and pass ask elsewhere",
    ),
    _Kind(
        _words("unsupported denomination", "invalid: ", "unauthorized", "tx too large"),
        MarketError,
        "the chain refuses {call}: {text}",
        "mend what it names, then run the command again",
    ),
)


def refusal(ran: Ran, call: str, key: str) -> MarketError:
    """The error that stands for a call that failed."""
    if ran.status is None:
        return MarketUnavailable(f"{call} took too long and was ended", hint=LATER, acted=None)
    if ran.status < 0:
        return MarketUnavailable(f"{call} was killed (signal {-ran.status})", hint=LATER, acted=None)
    return told(ran.words, call, key)


def told(words: str, call: str, key: str, code: int = 0) -> MarketError:
    """The error that these words, or this code, stand for."""
    text = cleaned(words) or _CODES.get(code, "")
    for kind in _KINDS:
        if kind.pattern.search(text):
            return kind.make(text, call, key)
    if code:
        return MarketError(f"the chain refuses {call}: {text or f'code {code}'}", hint="see the chain's words")
    return MarketUnavailable(f"{call} failed: {text or 'it says nothing'}", hint=LATER, acted=None)


def certainly_not(error: AkashllmError) -> bool:
    """Whether what failed was certainly not carried out."""
    return not isinstance(error, MarketUnavailable) or error.acted is False
