"""Who is at the other end of a provider's gateway: certain, before anything secret is said.

Rule (chain-sdk's provider client): a certificate that the system's authorities vouch for, for that host name;
else a self-signed one that the provider has published on the chain, byte for byte, with its address as the
common name.
"""

from __future__ import annotations

import base64
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from akashllm.errors import MarketUnavailable, ProviderFailed
from akashllm.market.clock import wrong_clock

CHAIN_URL = "https://api.akashnet.net"
CHAIN_VARIABLE = "AKASHLLM_CHAIN_API"
_PATH = "/akash/cert/v1/certificates/list"
_PAGES = 20
_SECONDS = 15.0
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"

Published = Callable[[str], Sequence[bytes]]
"""A provider's address -> its valid certificates on the chain, as DER."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """How to speak to one gateway. `pinned` says that the chain vouches for it, not an authority."""

    host: str
    port: int
    context: ssl.SSLContext
    pinned: bool

    def connect(self) -> ssl.SSLSocket:
        """A connection. Raises `OSError`."""
        return _connect(self.host, self.port, self.context)


def trust(host_uri: str, provider: str, published: Published, *, seconds: float = _SECONDS) -> Trusted:
    """Find out who answers. Raises `ProviderFailed`; sends nothing but the handshake."""
    host, port = _where(host_uri)
    context = _context()
    context.load_default_certs()
    try:
        _connect(host, port, context, seconds).close()
    except ssl.SSLCertVerificationError:
        return _pinned(host, port, provider, published, seconds)
    except (ssl.SSLError, OSError) as error:
        raise _silent(host, error) from None
    return Trusted(host, port, context, pinned=False)


def on_chain(provider: str) -> Sequence[bytes]:
    """What the chain publishes for a provider (`/akash/cert/v1/certificates/list` of its REST interface)."""
    base = (os.environ.get(CHAIN_VARIABLE) or CHAIN_URL).rstrip("/")
    found: list[bytes] = []
    key = ""
    for _ in range(_PAGES):
        url = f"{base}{_PATH}?filter.owner={quote(provider)}&filter.state=valid"
        try:
            reply = requests.get(
                url + (f"&pagination.key={quote(key)}" if key else ""), timeout=_SECONDS, allow_redirects=False
            )
            data: Any = reply.json() if reply.status_code == 200 else None
        except (requests.RequestException, ValueError):
            data = None
        if not isinstance(data, dict):
            raise MarketUnavailable(
                "the chain cannot be asked whose certificate this is",
                hint=f"try again later; {CHAIN_VARIABLE} names another of its REST interfaces",
            )
        found += _certificates(data.get("certificates"))
        pagination = data.get("pagination")
        key = str(pagination.get("next_key") or "") if isinstance(pagination, dict) else ""
        if not key:
            break
    return found


def _pinned(host: str, port: int, provider: str, published: Published, seconds: float) -> Trusted:
    blind = _context()
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE
    try:
        with _connect(host, port, blind, seconds) as connection:
            presented = connection.getpeercert(binary_form=True) or b""
    except OSError as error:
        raise _silent(host, error) from None
    if presented not in published(provider):
        raise _imposter(host, provider, "the chain publishes another one")
    context = _context()
    # The one certificate of the chain is all this context trusts, so the host name proves nothing more.
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=presented)
    try:
        with _connect(host, port, context, seconds) as connection:
            shown = connection.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        raise _imposter(host, provider, error.verify_message) from None
    except OSError as error:
        raise _silent(host, error) from None
    if _names(shown.get("subject")) != [provider] or shown.get("issuer") != shown.get("subject"):
        raise _imposter(host, provider, "it is in another name")
    return Trusted(host, port, context, pinned=True)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _connect(host: str, port: int, context: ssl.SSLContext, seconds: float = _SECONDS) -> ssl.SSLSocket:
    plain = socket.create_connection((host, port), timeout=seconds)
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def _where(host_uri: str) -> tuple[str, int]:
    try:
        parts = urlsplit(host_uri)
        port = parts.port or 443
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme != "https" or not parts.hostname or parts.username or parts.path not in {"", "/"}:
        raise ProviderFailed(
            "the provider's address is no https address", hint="this provider cannot be asked for logs"
        )
    return parts.hostname, port


def _names(subject: Any) -> list[str]:
    """The common names of a decoded subject."""
    return [value for group in subject or () for name, value in group if name == "commonName"]


def _certificates(rows: Any) -> Iterator[bytes]:
    for row in rows if isinstance(rows, list) else ():
        certificate = row.get("certificate") if isinstance(row, dict) else None
        if not isinstance(certificate, dict) or certificate.get("state") != "valid":
            continue
        try:
            pem = base64.b64decode(str(certificate.get("cert")), validate=True).decode("ascii")
            yield ssl.PEM_cert_to_DER_cert(_BEGIN + pem.split(_BEGIN, 1)[1].split(_END, 1)[0] + _END)
        except (ValueError, IndexError):
            continue


def _imposter(host: str, provider: str, why: str) -> ProviderFailed:
    next_step = wrong_clock(why) or "try again later, and choose another provider if it stays so"
    return ProviderFailed(
        f"{host} cannot prove that it is {provider}: its certificate is not valid, and {why}",
        hint=f"nothing was sent; {next_step}",
    )


def _silent(host: str, error: Exception) -> ProviderFailed:
    return ProviderFailed(
        f"the provider's gateway at {host} does not answer ({type(error).__name__})",
        hint="the service itself may be well: `akashllm status` asks it",
    )
