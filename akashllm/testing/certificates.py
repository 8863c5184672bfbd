"""Certificates as providers make them, and ES256K tokens as lease owners sign them. Needs `cryptography`."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.oid import NameOID

_HALF = 32


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, both as PEM."""

    pem: bytes
    key: bytes

    @property
    def published(self) -> str:
        """As the chain's REST interface gives it: base64 of the PEM."""
        return base64.b64encode(self.pem).decode()


def self_signed(name: str, *, days: int = 365, address: str | None = None) -> Certificate:
    """A self-signed certificate with the provider's address as its common name.

    days      how long it is valid; a negative number: it has expired
    address   the IP address it is for, where it is to stand for an authority's certificate
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=days))
    )
    if address is not None:
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
        builder = builder.add_extension(names, critical=False)
    made = builder.sign(key, hashes.SHA256())
    return Certificate(
        made.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )


@dataclass
class Signer:
    """A lease owner's secp256k1 key: makes tokens, and knows its own again."""

    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256K1()))

    def mint(self, asked: Mapping[str, Any]) -> str:
        """`{owner, ttl, leases}` -> a token (chain-sdk specs/jwt-schema.json)."""
        now = int(time.time())
        claims = {
            "iss": asked["owner"],
            "iat": now,
            "nbf": now,
            "exp": now + int(asked["ttl"]),
            "version": "v1",
            "leases": asked["leases"],
        }
        head = (
            f"{_b64(json.dumps({'alg': 'ES256K', 'typ': 'JWT'}).encode())}.{_b64(json.dumps(claims).encode())}"
        )
        r, s = decode_dss_signature(self._key.sign(head.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{head}.{_b64(r.to_bytes(_HALF, 'big') + s.to_bytes(_HALF, 'big'))}"

    def refusal(self, token: str, *, provider: str, scope: str) -> str:
        """Why a token is not good for that; empty where it is."""
        try:
            head, claims, signature = token.split(".")
            if json.loads(_unb64(head)) != {"alg": "ES256K", "typ": "JWT"}:
                return "another algorithm"
            raw = _unb64(signature)
            both = (int.from_bytes(half, "big") for half in (raw[:_HALF], raw[_HALF:]))
            self._key.public_key().verify(
                encode_dss_signature(*both), f"{head}.{claims}".encode(), ec.ECDSA(hashes.SHA256())
            )
            said = json.loads(_unb64(claims))
        except (ValueError, TypeError, InvalidSignature):
            return "malformed token"
        if not said["nbf"] <= time.time() < said["exp"] or said["version"] != "v1":
            return "expired token"
        return "" if scope in _scopes(said["leases"], provider) else "insufficient scope"


def _scopes(leases: Mapping[str, Any], provider: str) -> Sequence[str]:
    if leases.get("access") != "granular":
        return leases.get("scope") or ()
    return [
        scope
        for permission in leases.get("permissions", ())
        if permission.get("provider") == provider
        for scope in permission.get("scope", ())
    ]


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
