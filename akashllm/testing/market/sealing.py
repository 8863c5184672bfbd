"""Console's end of sealed secrets: its key, and the opening of what was sealed to it (RFC 7516, compact)."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from functools import cache
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KID = "projects/testing/keys/1"
SUB = "user-of-the-testing-market"
_LONGEST = 900


class BadSeal(Exception):
    """A status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@cache
def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def context() -> dict[str, Any]:
    """`GET /v1/sdl-secrets-context`."""
    numbers = _key().public_key().public_numbers()
    jwk = {"kty": "RSA", "use": "enc", "alg": "RSA-OAEP-256", "kid": KID}
    jwk |= {"n": _text(numbers.n), "e": _text(numbers.e)}
    return {"data": {"kid": KID, "sub": SUB, "jwk": jwk, "requiredClaims": ["kid", "sub", "exp"]}}


def opened(token: str, sdl: str) -> dict[str, str]:
    """What is in a seal. Raises `BadSeal` for another account, key, SDL or time."""
    parts = token.split(".")
    if len(parts) != 5:
        raise BadSeal(400, "sealedSecrets is malformed")
    try:
        header = json.loads(_bytes(parts[0]))
        wrapped, nonce, sealed, tag = map(_bytes, parts[1:])
        oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
        key = _key().decrypt(wrapped, oaep)
        values = json.loads(AESGCM(key).decrypt(nonce, sealed + tag, parts[0].encode()))
    except (ValueError, InvalidTag):
        raise BadSeal(400, "sealedSecrets is malformed") from None
    if header.get("kid") != KID:
        raise BadSeal(409, "the seal used a retired key")
    if header.get("sub") != SUB:
        raise BadSeal(403, "the seal is another user's")
    if not time.time() < header.get("exp", 0) <= time.time() + _LONGEST:
        raise BadSeal(400, "the seal has expired")
    if header.get("sdlHash") != _b64(hashlib.sha256(sdl.encode()).digest()):
        raise BadSeal(403, "the seal was made for another SDL")
    return dict(values)


def _text(number: int) -> str:
    return _b64(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
