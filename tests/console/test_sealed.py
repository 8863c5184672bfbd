"""Where the API key goes on its way to the provider: sealed where Console offers that, and where not."""

from __future__ import annotations

import json

import pytest

from akashllm.errors import MarketUnavailable, UsageError
from akashllm.market.console import ConsoleMarket
from akashllm.market.order import Order
from akashllm.market.seal import Context, context_of, seal
from akashllm.state import Store
from akashllm.testing.market import Shape
from akashllm.testing.market.sealing import BadSeal, context, opened
from tests.market.deploying import deployer
from tests.market.scripted import Notes

from .conftest import CANARY, KEY, MakePlace, Place

NOW = 1_800_000_000.0


def ours() -> Context:
    """The testing market's context, as read."""
    return context_of(context()["data"])


def test_only_the_provider_s_manifest_holds_the_key(make_place: MakePlace, order: Order) -> None:
    """Sealed, the key is in no request, no stored SDL, no note and no file but its own; the manifest has it."""
    place = make_place(shape=Shape.newer())
    console, notes = place.console(), Notes()
    with Store(place.home) as store:
        row = deployer(store, console, progress=notes).deploy(order).deployment
    console.close_connections()

    (deployed,) = place.world.deployments.values()
    assert deployed.dseq == row.dseq
    assert KEY in deployed.manifest
    assert deployed.leases[0].manifest == deployed.manifest
    assert "AKASHLLM_API_KEY=ac-secret://AKASHLLM_API_KEY" in deployed.sdl
    assert not [body for body in place.server.heard if KEY.encode() in body]
    assert KEY not in str(notes.said)
    holders = [
        path for path in place.home.root.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()
    ]
    assert [path.name for path in holders] == ["api-key"]
    assert all(
        CANARY.encode() not in path.read_bytes() for path in place.home.root.rglob("*") if path.is_file()
    )


def test_an_older_console_gets_the_filled_sdl(make_place: MakePlace, order: Order) -> None:
    """Where nothing can be sealed the order carries the key, as the provider's manifest has to."""
    place = make_place(shape=Shape())
    console, notes = place.console(), Notes()
    with Store(place.home) as store:
        deployer(store, console, progress=notes).deploy(order)
    console.close_connections()

    assert any("does not take sealed secrets" in line for line in notes.said)
    assert "GET /v1/sdl-secrets-context" in place.server.asked
    (deployed,) = place.world.deployments.values()
    assert KEY in deployed.sdl
    assert [
        json.loads(body)["data"].keys() & {"sealedSecrets"} for body in place.server.heard if b"sdl" in body
    ] == [set()]


def test_a_lost_reply_to_a_sealed_order_is_found_again(
    place: Place, console: ConsoleMarket, order: Order
) -> None:
    """The same reference again is the same deployment: each seal differs, the manifest does not."""
    first = console.create_sealed(order.sdl, {"AKASHLLM_API_KEY": KEY}, reference="x-1")
    again = console.create_sealed(order.sdl, {"AKASHLLM_API_KEY": KEY}, reference="x-1")

    assert (first.dseq, place.world.created) == (again.dseq, 1)
    assert (first.manifest == "") == place.world.shape.seals_secrets


def test_a_seal_is_for_one_sdl_one_account_and_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sealed comes out whole; beside another SDL, later, or for another account it does not."""
    values = {"AKASHLLM_API_KEY": "k\u00e4\u2028\"'$", "HF_TOKEN": ""}
    monkeypatch.setattr("time.time", lambda: NOW)
    token = seal(ours(), "the sdl", values, now=NOW)

    assert opened(token, "the sdl") == values
    assert seal(ours(), "the sdl", values, now=NOW) != token
    other = Context("somebody else", ours().kid, ours().n, ours().e)
    for bad, sdl, status in (
        (token, "another sdl", 403),
        (seal(other, "the sdl", values, now=NOW), "the sdl", 403),
        (seal(ours(), "the sdl", values, now=NOW - 301), "the sdl", 400),
        (token[:-2] + "AA", "the sdl", 400),
    ):
        with pytest.raises(BadSeal) as failure:
            opened(bad, sdl)
        assert failure.value.status == status


@pytest.mark.parametrize(
    "change",
    [
        {"sub": ""},
        {"kid": 7},
        {"requiredClaims": ["kid", "fingerprint"]},
        {"jwk": {}},
        {"jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}},
        {"jwk": {"kty": "RSA", "n": "not base64!", "e": "AQAB"}},
        {"jwk": {"kty": "EC"}},
        {"jwk": {**context()["data"]["jwk"], "alg": "RSA1_5"}},
        {"jwk": {**context()["data"]["jwk"], "kid": "another"}},
        {"jwk": {**context()["data"]["jwk"], "e": "AQ"}},
    ],
    ids=lambda change: str(change)[:40],
)
def test_nothing_is_sealed_to_a_key_that_is_none(change: dict[str, object]) -> None:
    """A context with a weak key, another algorithm or an unknown demand is refused, not worked around."""
    with pytest.raises(MarketUnavailable):
        context_of({**context()["data"], **change})


def test_what_cannot_be_sealed_is_said_without_its_value() -> None:
    """A value beyond Console's limit is named, never shown."""
    with pytest.raises(UsageError) as failure:
        seal(ours(), "sdl", {"HF_TOKEN": "s3cret" * 4000}, now=NOW)

    assert "HF_TOKEN" in str(failure.value)
    assert "s3cret" not in str(failure.value)
