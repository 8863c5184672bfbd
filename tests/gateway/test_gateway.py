"""A provider's gateway over TLS 1.3 and WebSockets: who it is, and what it tells."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from akashllm.cli.app import run
from akashllm.errors import MarketError, MarketUnavailable, ProviderFailed
from akashllm.market.base import Bid, Lease
from akashllm.market.console import ConsoleMarket
from akashllm.market.console_http import ConsoleHttp
from akashllm.market.console_journal import Journal
from akashllm.market.console_key import ApiKey
from akashllm.market.gateway_tls import CHAIN_VARIABLE, on_chain, trust
from akashllm.market.order import bid_to_record
from akashllm.market.watching import IDLE
from akashllm.state import Home, Store
from akashllm.testing.certificates import Certificate, Signer, self_signed
from akashllm.testing.gateway import GatewayServer
from akashllm.testing.market.world import OWNER

from .conftest import PROVIDER, MakePlace, Place


def test_a_self_signed_certificate_counts_if_the_chain_publishes_it(make_place: MakePlace) -> None:
    """Published byte for byte, with the provider's address as its name: it is trusted, and nothing else is."""
    place = make_place()

    assert trust(place.gateway.host_uri, PROVIDER, on_chain).pinned
    assert place.client().status(place.lease)["services"]["llm"]["available"] == 1


@pytest.mark.parametrize(
    ("presented", "published", "why"),
    [
        (self_signed(PROVIDER), [self_signed(PROVIDER)], "publishes another"),
        (self_signed(PROVIDER), [], "publishes another"),
        (self_signed("akash1other"), None, "another name"),
        (self_signed(PROVIDER, days=-1), None, "expired"),
    ],
)
def test_an_imposter_gets_no_token(
    make_place: MakePlace, presented: Certificate, published: list[Certificate] | None, why: str
) -> None:
    """A certificate that is not the chain's, in another name, or out of date: no token is even made."""
    place = make_place(presented, published)
    made: list[Sequence[str]] = []

    def token(scopes: Sequence[str]) -> str:
        made.append(scopes)
        return "x"

    with pytest.raises(ProviderFailed, match=why) as caught:
        list(place.client(token=token).logs(place.lease))

    assert (made, place.gateway.asked) == ([], [])
    assert ("set its clock" in caught.value.hint) is (why == "expired")


def test_a_certificate_of_an_authority_needs_no_chain(
    make_place: MakePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the system's authorities vouch for, for this address, is enough: the chain is not asked."""
    certificate = self_signed("gateway", address="127.0.0.1")
    place = make_place(certificate, [])
    authority = tmp_path / "authority.pem"
    authority.write_bytes(certificate.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))

    trusted = trust(place.gateway.host_uri, PROVIDER, lambda _provider: pytest.fail("the chain was asked"))

    assert not trusted.pinned


def test_an_authoritys_certificate_for_another_name_is_no_proof(
    make_place: MakePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host name counts: a good certificate of somebody else is an imposter's."""
    certificate = self_signed("gateway", address="127.0.0.2")
    place = make_place(certificate, [])
    authority = tmp_path / "authority.pem"
    authority.write_bytes(certificate.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))

    with pytest.raises(ProviderFailed, match="publishes another"):
        trust(place.gateway.host_uri, PROVIDER, on_chain)


def test_older_tls_is_refused(make_place: MakePlace) -> None:
    """Less than TLS 1.3 is not spoken."""
    place = make_place(newest_tls=ssl.TLSVersion.TLSv1_2)

    with pytest.raises(ProviderFailed, match="does not answer"):
        trust(place.gateway.host_uri, PROVIDER, on_chain)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "https://u:p@h:1", "https://h:1/path", "", "https://[x"])
def test_an_address_that_is_no_gateways_is_refused(uri: str) -> None:
    """Only https, a host and a port."""
    with pytest.raises(ProviderFailed, match="no https address"):
        trust(uri, PROVIDER, on_chain)


def test_a_chain_that_does_not_answer_is_no_proof(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the chain a self-signed certificate is not trusted, and the reason is said."""
    place = make_place()
    monkeypatch.setenv(CHAIN_VARIABLE, "http://127.0.0.1:9")

    with pytest.raises(MarketUnavailable, match="chain cannot be asked"):
        place.client().status(place.lease)


def test_logs_come_whole_or_from_the_end(make_place: MakePlace) -> None:
    """All lines, or the last ones."""
    place = make_place()

    lines = list(place.client().logs(place.lease))
    assert [line.text for line in lines] == ["one", "two", "three"]
    assert lines[0].service == f"llm-{place.dseq}-0"
    assert [line.text for line in place.client().logs(place.lease, tail=1)] == ["three"]


def test_followed_logs_end_with_the_lease(make_place: MakePlace) -> None:
    """New lines come as they are written, until the lease has ended."""
    place = make_place()
    place.runner.then = ["four", "five"]
    place.runner.at_the_end = lambda: place.market.world.close(place.dseq)

    assert [line.text for line in place.client().logs(place.lease, follow=True)][-2:] == ["four", "five"]


def test_events_say_why_an_image_is_not_pulled(make_place: MakePlace) -> None:
    """The cluster's events, a line each."""
    place = make_place(events=[("Warning", "Failed", "image not found")])

    (event,) = place.client().events(place.lease)
    assert (event.service, event.text) == ("llm-0", "Warning Failed: image not found")


@pytest.mark.parametrize("what", ["logs", "status"])
def test_a_lease_that_is_gone_is_said_in_words(make_place: MakePlace, what: str) -> None:
    """The gateway's close codes and statuses become sentences."""
    place = make_place()
    lease = Lease(dseq="1", provider=PROVIDER)

    with pytest.raises(MarketError, match=r"does not know this lease|no lease for deployment"):
        list(place.client().logs(lease)) if what == "logs" else place.client().status(lease)


def test_a_gateway_that_falls_silent_holds_nobody(
    make_place: MakePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not followed ends, whether or not the other side says so: `status` asks for events too."""
    place = make_place(events=[("Normal", "Pulling", "the image")])
    monkeypatch.setattr(GatewayServer, "_kubeevents", lambda self, *_: self._ending.wait())
    monkeypatch.setattr("akashllm.market.gateway._SECONDS", 2.0)

    with pytest.raises(ProviderFailed, match="said nothing for 2 seconds"):
        list(place.client().events(place.lease))


def test_nothing_running_is_said_in_words(make_place: MakePlace) -> None:
    """Close code 4000."""
    place = make_place()
    place.runner.running.clear()

    with pytest.raises(MarketError, match="no container"):
        list(place.client().logs(place.lease))


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"ttl": -1}, "expired"),
        ({"provider": "akash1other"}, "scope"),
        ({"scope": ["status"]}, "scope"),
        ({"signer": Signer()}, "malformed"),
    ],
)
def test_a_token_is_good_for_one_thing_at_one_provider_for_a_while(
    make_place: MakePlace, asked: dict[str, Any], why: str
) -> None:
    """The testing gateway refuses what a real one would, and the refusal is passed on."""
    place = make_place()
    permission = {"provider": PROVIDER, "access": "scoped", "scope": ["logs"]} | {
        name: asked[name] for name in ("provider", "scope") if name in asked
    }
    leases = {"access": "granular", "permissions": [permission]}
    token = asked.get("signer", place.signer).mint(
        {"owner": OWNER, "ttl": asked.get("ttl", 60), "leases": leases}
    )

    with pytest.raises(ProviderFailed, match=why) as caught:
        list(place.client(token=lambda _scopes: token).logs(place.lease))

    assert token not in str(caught.value) + repr(place.client(token=lambda _scopes: token))


def test_the_market_finds_the_way_to_its_providers_logs(make_place: MakePlace, tmp_path: Path) -> None:
    """From the deployment's number: its lease, the provider's address, a token, the lines."""
    place = make_place()
    http = ConsoleHttp(ApiKey(place.market.key), base=place.market.url)
    market = ConsoleMarket(http=http, journal=Journal(tmp_path / "orders"))

    assert [line.text for line in market.logs(place.dseq, tail=2)] == ["two", "three"]
    place.market.world.close(place.dseq)
    with pytest.raises(MarketError, match="no provider runs"):
        market.logs(place.dseq)
    market.close_connections()
    assert place.market.broken == []


def test_the_command_line_shows_logs_and_events(
    make_place: MakePlace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """`logs` and `events` take the deployment's number."""
    place = make_place(events=[("Normal", "Pulled", "image \x1b[31mpulled")])
    _recorded(place, tmp_path, monkeypatch)

    assert run(["logs", place.dseq]) == 0
    assert capfd.readouterr().out == "one\ntwo\nthree\n"
    assert run(["events", place.dseq]) == 0
    shown = capfd.readouterr().out
    assert "Pulled" in shown
    assert "\x1b" not in shown


def test_status_says_what_runs_where_on_what_and_for_how_much(
    make_place: MakePlace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Replicas, GPU, price, funds and the cluster's last events; a provider that is silent costs only those."""
    noted = [("Normal", "Pulled", f"image {number}") for number in range(9)]
    place = make_place(events=[*noted, ("Warning", "BackOff", "again")])
    _recorded(place, tmp_path, monkeypatch)

    assert run(["status", "there"]) == 0
    shown = capfd.readouterr().out
    assert "replicas  llm 1 of 1\n" in shown
    assert "gpu       2 x h100\n" in shown
    assert "price     $0.006 an hour, $4.38 a month\n" in shown
    assert "money     lasts 83.3 hours\n" in shown
    assert "ends      `akashllm watch` closes it after 2 idle hours\n" in shown
    assert shown.count("event  ") == 5
    assert shown.endswith("Warning BackOff: again\n")

    assert run(["status", "there", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["replicas"] == [{"service": "llm", "ready": 1, "wanted": 1}]
    assert (document["gpu"], document["dollars_per_hour"]) == ("2 x h100", 0.006)
    assert len(document["provider_events"]) == 5
    assert "provider_silent" not in document

    place.market.world.certificates.clear()
    assert run(["status", "there", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["provider_events"] == []
    assert "publishes another" in document["provider_silent"]

    place.market.world.advance(1000)
    assert run(["status", "there", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["state"], document["reason"]) == ("closed", "the money in escrow was used up")
    assert (document["replicas"], document["ends"]) == ([], None)


def _recorded(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record knows the deployment as `there`, with the bid that was taken."""
    for name in list(os.environ):
        if name.startswith("AKASH_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AKASHLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AKASH_CONSOLE_API_URL", place.market.url)
    monkeypatch.setenv("AKASH_CONSOLE_API_KEY", place.market.key)
    plan = {"engine": "vllm", "gpus": [{"model": "h100", "count": 2}, {"model": "a100", "count": 2}]}
    bid = Bid(provider=PROVIDER, amount=Decimal(10), denom="uact", gpu="h100")
    with Store(Home.find()) as store:
        row = store.add("there", "console", plan, "done")
        facts = {"bid": bid_to_record(bid), IDLE: 2.0}
        store.update(row.id, state="active", dseq=place.dseq, provider=PROVIDER, facts=facts)
