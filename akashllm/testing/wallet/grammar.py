"""Which words each command takes: anything else is refused, as cobra refuses it.

provider-services   flags of go/cli/flags of akash-network/chain-sdk and of cmd/provider-services/cmd/helpers.go
akt                 internal/cli/chain and internal/cli/provider of akash-network/akt
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_SWITCHES = frozenset(
    {
        *("yes", "ledger", "dry-run", "generate-only", "offline", "unordered", "aux", "grpc-insecure"),
        *("count-total", "reverse", "follow", "stdin", "tty", "address", "pubkey", "device", "qrcode", "long"),
    }
)
_SHORT = {"o": "output", "y": "yes", "f": "follow", "a": "address", "p": "pubkey", "d": "device"}

_EVERYWHERE = ("home", "node", "log_level", "trace")
_KEYRING = ("keyring-dir", "keyring-backend")
_TX = (
    *("output", "from", "account-number", "sequence", "note", "fees", "gas-prices", "ledger", "gas-adjustment"),
    *("broadcast-mode", "dry-run", "generate-only", "offline", "yes", "sign-mode", "timeout-height"),
    *("timeout-duration", "unordered", "fee-payer", "fee-granter", "tip", "aux", "chain-id", "gas", *_KEYRING),
)
_QUERY = ("grpc-addr", "grpc-insecure", "height", "output", "chain-id")
_PAGES = ("page", "page-key", "offset", "limit", "count-total", "reverse")
_DEPLOYMENT = ("owner", "dseq")
_LEASE = (*_DEPLOYMENT, "gseq", "oseq", "provider")
_GATEWAY = (*_LEASE, "from", "keyring-backend", "sign-mode", "auth-type")
_NEEDS = ("dseq", "from", "provider")


class Refused(Exception):
    """What cobra says of words that it does not take."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One command: its flags, how many words it takes, which flags it cannot do without."""

    flags: tuple[str, ...]
    words: tuple[int, int] = (0, 0)
    required: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A call as its grammar has it. `call` is the command's path, such as `tx deployment create`."""

    call: str
    words: tuple[str, ...]
    flags: Mapping[str, str] = field(default_factory=dict)

    def flag(self, name: str, usual: str = "") -> str:
        """Its value."""
        return self.flags.get(name, usual)


_BOTH = {
    "version": Spec(("long", "output")),
    "keys show": Spec(
        ("address", "pubkey", "device", "bech", "multisig-threshold", "qrcode", "output", *_KEYRING), (1, 9)
    ),
    "query bank balances": Spec((*_QUERY, *_PAGES, "denom"), (1, 1)),
    "query tx": Spec((*_QUERY, "type"), (1, 1)),
    "tx deployment create": Spec((*_TX, *_DEPLOYMENT, "deposit", "deposit-sources"), (1, 1)),
    "tx market lease create": Spec((*_TX, *_LEASE), (0, 0), ("dseq", "provider")),
}
GRAMMARS: Mapping[str, Mapping[str, Spec]] = {
    "provider-services": {
        **_BOTH,
        "query deployment get": Spec((*_QUERY, *_DEPLOYMENT), (0, 0), ("owner", "dseq")),
        "query deployment list": Spec((*_QUERY, *_PAGES, "owner", "state", "dseq")),
        "query market bid list": Spec((*_QUERY, *_PAGES, *_LEASE, "state")),
        "query market lease list": Spec((*_QUERY, *_PAGES, *_LEASE, "state")),
        "query provider get": Spec(_QUERY, (1, 1)),
        "tx deployment update": Spec((*_TX, *_DEPLOYMENT), (1, 1)),
        "tx deployment close": Spec((*_TX, *_DEPLOYMENT)),
        "send-manifest": Spec((*_GATEWAY, "output"), (1, 1), ("dseq", "from")),
        "lease-status": Spec(_GATEWAY, (0, 0), _NEEDS),
        "lease-logs": Spec((*_GATEWAY, "service", "follow", "tail", "output"), (0, 0), _NEEDS),
        "lease-events": Spec((*_GATEWAY, "service", "follow", "tail"), (0, 0), _NEEDS),
        "lease-shell": Spec((*_GATEWAY, "stdin", "tty", "replica-index"), (2, 99), _NEEDS),
    },
    "akt": {
        **_BOTH,
        "query deployment": Spec((*_QUERY, *_PAGES, "owner", "state", "dseq"), (0, 2)),
        "query market bid": Spec((*_QUERY, *_PAGES, "by"), (0, 2)),
        "query market lease": Spec((*_QUERY, *_PAGES, "by"), (0, 2)),
        "query provider": Spec(_QUERY, (0, 1)),
        "tx deployment update": Spec((*_TX, "owner"), (1, 2)),
        "tx deployment close": Spec((*_TX, "owner"), (0, 1)),
        "provider send-manifest": Spec(("dseq", "provider", "from", "auth-type", "provider-url"), (1, 1)),
        "provider lease-status": Spec(
            ("gseq", "oseq", "provider", "from", "auth-type", "provider-url", "output"), (0, 1)
        ),
        "provider lease-logs": Spec(
            ("gseq", "oseq", "provider", "from", "auth-type", "service", "follow", "tail", "output"), (0, 1)
        ),
        "provider lease-events": Spec(
            ("gseq", "oseq", "provider", "from", "auth-type", "follow", "output"), (0, 1)
        ),
        "provider lease-shell": Spec(
            ("dseq", "gseq", "oseq", "provider", "from", "service", "tty", "stdin", "output"), (0, 99)
        ),
    },
}


def parse(name: str, arguments: Sequence[str], env: Mapping[str, str]) -> Said:
    """The call that these words make; flags that are not given come from `AKASH_*`. Raises `Refused`."""
    specs = GRAMMARS[name]
    path = next((path for path in sorted(specs, key=len, reverse=True) if _begins(arguments, path)), None)
    if path is None:
        raise Refused(f'unknown command "{" ".join(arguments[:2])}" for "{name}"')
    spec = specs[path]
    flags: dict[str, str] = {}
    words: list[str] = []
    rest = list(arguments[len(path.split()) :])
    while rest:
        word = rest.pop(0)
        if word == "--":
            words += rest
            break
        if word.startswith("--"):
            flag, equals, value = word[2:].partition("=")
        elif word.startswith("-") and len(word) > 1:
            flag, equals, value = _SHORT.get(word[1], ""), "", ""
            if not flag or len(word) > 2:
                raise Refused(f"unknown shorthand flag: {word[1]!r} in {word}")
        else:
            words.append(word)
            continue
        if flag not in (*spec.flags, *_EVERYWHERE):
            raise Refused(f"unknown flag: --{flag}")
        if flag in _SWITCHES:
            flags[flag] = value if equals else "true"
        elif equals or rest:
            flags[flag] = value if equals else rest.pop(0)
        else:
            raise Refused(f"flag needs an argument: --{flag}")
    for flag in (*spec.flags, *_EVERYWHERE):
        variable = flag.upper().replace("-", "_")
        given = env.get(f"AKASH_{variable}") or (env.get(f"AP_{variable}") if name != "akt" else None)
        if given and flag not in flags:
            flags[flag] = given
    least, most = spec.words
    if not least <= len(words) <= most:
        raise Refused(f"accepts {least} arg(s), received {len(words)}")
    missing = [flag for flag in spec.required if not flags.get(flag)]
    if missing:
        quoted = ", ".join(f'"{flag}"' for flag in missing)
        raise Refused(f"required flag(s) {quoted} not set")
    return Said(call=path, words=tuple(words), flags=flags)


def _begins(arguments: Sequence[str], path: str) -> bool:
    words = path.split()
    return list(arguments[: len(words)]) == words
