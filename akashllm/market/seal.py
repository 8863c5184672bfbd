"""Secrets that Console keeps sealed: encrypted here to its key, opened only when a provider gets its manifest.

Console's web client is the reference (console, deploy-web's sealing of SDL secrets, and its API's
`GET /v1/sdl-secrets-context`): a compact JWE (RFC 7516) with RSA-OAEP-256 and A256GCM over a flat JSON map of
names to values, bound by its header to the account, to the key's version, to the text of the SDL, and to five
minutes. An SDL names a sealed secret as `ac-secret://NAME`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from akashllm.errors import UsageError
from akashllm.market.console_errors import NotThere, nonsense
from akashllm.market.console_http import ConsoleHttp
from akashllm.market.console_read import data_of, items, mapping
from akashllm.sdl import fill, placeholders, sealed

CALL = "GET /v1/sdl-secrets-context"
LIFETIME = 300
"""Seconds that a seal is good for; Console takes at most fifteen minutes."""

MAX_VALUE = 16 << 10
MAX_SECRETS = 100
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_CLAIMS = frozenset({"kid", "sub", "exp", "sdlHash"})
_RSA_BITS = range(2048, 8193)


@dataclass(frozen=True, slots=True)
class Context:
    """Whom a seal is for: the account, and the key's number, modulus and exponent."""

    sub: str
    kid: str
    n: int
    e: int


def sealed_order(http: ConsoleHttp, sdl: str, secrets: Mapping[str, str]) -> dict[str, Any] | None:
    """An order's SDL and seal; None where Console knows nothing of seals, or the SDL wants no secret."""
    wanted = placeholders(sdl)
    if not wanted:
        return None
    try:
        context = context_of(data_of(http.get("/v1/sdl-secrets-context"), CALL))
    except NotThere:
        return None
    referring = fill(sdl, {name: sealed(name) for name in wanted})
    values = {name: secrets[name] for name in wanted}
    return {"sdl": referring, "sealedSecrets": seal(context, referring, values, now=time.time())}


def context_of(data: Any) -> Context:
    """Console's answer, judged: a key that is too weak or a claim that is not known is no context."""
    found, key = mapping(data), mapping(mapping(data).get("jwk"))
    sub, kid = found.get("sub"), found.get("kid")
    n, e = _number(key.get("n")), _number(key.get("e"))
    right = (
        isinstance(sub, str)
        and isinstance(kid, str)
        and sub
        and kid
        and key.get("kty") == "RSA"
        and key.get("alg", "RSA-OAEP-256") == "RSA-OAEP-256"
        and key.get("use", "enc") == "enc"
        and key.get("kid", kid) == kid
        and n.bit_length() in _RSA_BITS
        and e >= 3
        and e % 2
        and set(items(found.get("requiredClaims"))) <= _CLAIMS
    )
    if not right:
        raise nonsense(CALL)
    return Context(str(sub), str(kid), n, e)


def seal(context: Context, sdl: str, values: Mapping[str, str], *, now: float) -> str:
    """The JWE. Raises `UsageError` for what cannot be sealed."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    for name, value in values.items():
        if not _NAME.fullmatch(name) or len(json.dumps(value)) > MAX_VALUE:
            raise UsageError(
                f"the secret {name[:64]} cannot be sealed",
                hint="a name has up to 64 letters, digits and _; a value up to 16 KiB",
            )
    if len(values) > MAX_SECRETS:
        raise UsageError(f"at most {MAX_SECRETS} secrets can be sealed")
    header = {
        "alg": "RSA-OAEP-256",
        "enc": "A256GCM",
        "kid": context.kid,
        "sub": context.sub,
        "exp": int(now) + LIFETIME,
        "sdlHash": _text(hashlib.sha256(sdl.encode()).digest()),
    }
    protected = _text(json.dumps(header, separators=(",", ":")).encode())
    key, nonce = os.urandom(32), os.urandom(12)
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    wrapped = rsa.RSAPublicNumbers(context.e, context.n).public_key().encrypt(key, oaep)
    sealed = AESGCM(key).encrypt(nonce, json.dumps(dict(values)).encode(), protected.encode())
    return ".".join((protected, _text(wrapped), _text(nonce), _text(sealed[:-16]), _text(sealed[-16:])))


def _text(data: bytes) -> str:
    """base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value: Any) -> int:
    """A JWK's integer (RFC 7518, section 2); 0 where it is none."""
    try:
        return int.from_bytes(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)), "big")
    except (TypeError, ValueError, binascii.Error):
        return 0
