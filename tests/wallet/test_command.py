"""The command as a real process: found, its version checked, ended in time; what it sees and what not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from akashllm.errors import KeyRefused, MarketError, ProviderFailed, UsageError
from akashllm.market.order import Order
from akashllm.market.wallet import WalletMarket
from akashllm.market.wallet_cli import Cli, Ran, environment, find_cli, run
from akashllm.market.wallet_read import documents, flowing
from akashllm.state import Store
from akashllm.testing.wallet import Trouble, installed
from tests.market.deploying import deployer
from tests.market.scripted import Ticking

from .conftest import ENVIRON, KEY, MakePlace, Place


@pytest.fixture
def command(make_place: MakePlace, tmp_path: Path) -> Iterator[tuple[Place, Path]]:
    """A file that can be run, and what stands behind it."""
    place = make_place()
    directory = tmp_path / "bin"
    directory.mkdir()
    with installed(directory, place.command) as path:
        yield place, path


def wallet(place: Place, path: Path, **changes: Any) -> WalletMarket:
    """The market with the command as a process."""
    cli = find_cli({**os.environ, **ENVIRON, "PATH": f"{path.parent}:{os.environ['PATH']}", **changes})
    return WalletMarket(cli=cli, orders=place.orders, key="mine", clock=Ticking())


def test_a_deployment_through_a_real_process(command: tuple[Place, Path], order: Order) -> None:
    """The whole way with processes: nothing is read from stdin, everything is understood."""
    place, path = command
    market = wallet(place, path)
    with Store(place.home) as store:
        row = deployer(store, market).deploy(order).deployment
        assert place.world.open() == {row.dseq}
        assert [line.text for line in market.logs(row.dseq or "")] == [f"deployment {row.dseq} runs on paper"]
        market.close(row.dseq or "")
    assert place.world.open() == set()


def test_a_call_that_hangs_is_ended_with_all_its_children(command: tuple[Place, Path]) -> None:
    """After its time the process is gone, and its outcome counts as unknown."""
    place, path = command
    place.command.trouble(Trouble("version", "hang"))
    before = time.monotonic()
    ran = run([str(path), "version"], {**os.environ, **ENVIRON}, 1.0)

    assert ran.status is None
    assert time.monotonic() - before < 20


def test_a_call_that_is_killed_says_so(command: tuple[Place, Path], order: Order) -> None:
    """A signal is an unknown outcome: the order is looked for, found and used."""
    place, path = command
    place.command.trouble(Trouble("tx deployment create", "killed", "after"))
    created = wallet(place, path).create(order.sdl.replace("${AKASHLLM_API_KEY}", KEY), reference="a")

    assert place.world.open() == {created.dseq}


@pytest.mark.parametrize(
    ("version", "words"),
    [("v0.6.9", "too old"), ("0.9.12-rc1", "too old"), ("(devel)", "does not tell"), ("", "does not tell")],
)
def test_a_version_that_will_not_do_is_refused_before_anything_is_signed(
    make_place: MakePlace, order: Order, version: str, words: str
) -> None:
    """Too old, or unknown: one sentence with where to get another."""
    place = make_place()
    place.command.version = version
    with pytest.raises(MarketError, match=words) as caught:
        place.wallet().create(order.sdl, reference="a")

    assert "releases" in caught.value.hint
    assert not [call for call in place.command.asked if call.startswith("tx")]


def test_without_a_command_there_is_a_sentence() -> None:
    """Neither is installed: what to install is said, when something is asked of it."""
    cli = find_cli({"PATH": "/nonexistent"})
    with pytest.raises(MarketError, match="neither provider-services nor akt"):
        cli(["version"])
    with pytest.raises(MarketError, match="/nowhere/akt is not there"):
        find_cli({"PATH": "/bin", "AKASHLLM_AKASH_CLI": "/nowhere/akt"})(["version"])


def test_the_newer_command_is_known_by_its_name(tmp_path: Path) -> None:
    """`AKASHLLM_AKASH_CLI` names the one that is meant, and its name tells its grammar."""
    path = tmp_path / "akt"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)

    assert find_cli({"PATH": "/bin", "AKASHLLM_AKASH_CLI": str(path)}).name == "akt"


def test_variables_that_would_change_one_call_are_kept_from_the_command() -> None:
    """Guides tell people to export AKASH_DSEQ and AKASH_PROVIDER: they would narrow every question."""
    given = {
        "AKASH_DSEQ": "7",
        "AKASH_PROVIDER": "akash1x",
        "AKASH_OWNER": "akash1y",
        "AP_DSEQ": "8",
        "AKASH_GENERATE_ONLY": "true",
        "AKASH_STATE": "closed",
        "AKASHLLM_API_KEY": KEY,
        "HF_TOKEN": KEY,
        "AKASH_NODE": "https://mine:443",
        "AKASH_KEYRING_BACKEND": "os",
        "HOME": "/home/a",
    }
    seen = environment(given, {})

    assert seen["AKASH_NODE"] == "https://mine:443"
    assert (seen["AKASH_CHAIN_ID"], seen["AKASH_GAS"]) == ("akashnet-2", "auto")
    assert (seen["AKASH_KEYRING_BACKEND"], seen["HOME"]) == ("os", "/home/a")
    assert not {"AKASH_DSEQ", "AKASH_PROVIDER", "AKASH_OWNER", "AP_DSEQ", "AKASH_GENERATE_ONLY"} & seen.keys()
    assert KEY not in seen.values()


def test_fees_and_gas_prices_exclude_each_other() -> None:
    """Whoever sets a fee gets no gas price from us."""
    assert "AKASH_GAS_PRICES" not in environment({"AKASH_FEES": "5000uakt"}, {})
    assert environment({}, {})["AKASH_GAS_PRICES"] == "0.025uakt"


def test_exported_numbers_do_not_hide_a_deployment(make_place: MakePlace, order: Order) -> None:
    """With AKASH_DSEQ of another deployment in the environment the list is still complete."""
    place = make_place()
    market = place.wallet(environ={"AKASH_DSEQ": "12345", "AKASH_STATE": "closed"})
    created = market.create(order.sdl.replace("${AKASHLLM_API_KEY}", KEY), reference="a")

    assert [held.dseq for held in market.holdings()] == [created.dseq]


def test_every_page_of_the_list_is_read(make_place: MakePlace, order: Order) -> None:
    """More deployments than one answer holds are all listed."""
    place = make_place()
    place.command.page = 2
    market = place.wallet()
    sdl = order.sdl.replace("${AKASHLLM_API_KEY}", KEY)
    made = {market.create(sdl, reference=f"r{number}").dseq for number in range(5)}

    assert {held.dseq for held in market.holdings()} == made
    assert {held.reference for held in market.holdings()} == {f"r{number}" for number in range(5)}


def test_another_chain_is_not_mistaken_for_an_empty_one(make_place: MakePlace, order: Order) -> None:
    """A deployment of one chain is neither lost nor closed while the settings name another."""
    place = make_place()
    created = place.wallet().create(order.sdl.replace("${AKASHLLM_API_KEY}", KEY), reference="a")
    elsewhere = place.wallet(environ={"AKASH_CHAIN_ID": "sandbox-2"})
    for ask in (elsewhere.status, elsewhere.close):
        with pytest.raises(MarketError, match="is on the chain akash-test-1"):
            ask(created.dseq)
    assert place.orders.numbered(created.dseq)


def test_an_unknown_key_is_refused_and_a_key_itself_is_not_taken(make_place: MakePlace, order: Order) -> None:
    """`--from` takes a name of the keyring; what looks like anything else never reaches the command."""
    place = make_place()
    with pytest.raises(KeyRefused, match="not a valid name"):
        place.wallet("nobody").account()
    for word in ("--generate-only", "a;b", "x" * 200, "abandon\nabandon"):
        with pytest.raises(UsageError):
            place.wallet(word).account()
    with pytest.raises(KeyRefused, match="no key was named"):
        place.wallet("").account()


def test_a_deployment_of_an_earlier_key_is_still_ours(make_place: MakePlace, order: Order) -> None:
    """Closing and listing use the key that signed the order, whatever was used since."""
    place = make_place()
    place.command.keys = {**place.command.keys, "other": "akash1" + "q" * 38}
    created = place.wallet().create(order.sdl.replace("${AKASHLLM_API_KEY}", KEY), reference="a")
    other = place.wallet("other")
    place.orders.use(other.account())

    assert [held.dseq for held in other.holdings()] == [created.dseq]
    other.close(created.dseq)
    assert place.world.open() == set()


def test_noise_around_json_is_passed_over() -> None:
    """Log lines, a prompt, two documents and one that ends too early."""
    text = 'I[2026] {not json} [1]\n{"a": [1, {"b": 2}]}\nwarning\n  {"c"\n[3]\n{"d": '
    assert list(documents(text)) == [{"a": [1, {"b": 2}]}, [3]]
    assert list(flowing(["I[x]\n{", '"a": ', '1}\n{"b"', ": 2}", '{"c": 3}'])) == [{"a": 1}, {"b": 2}, {"c": 3}]


def test_its_last_error_is_what_is_said() -> None:
    """Usage that follows an error, or logs before it, is not repeated."""
    ran = Ran(1, "", "I[2026] hello\nError: first\nUsage:\n  x [flags]\nError: deployment \x1b[31mclosed\n")
    assert ran.words == "deployment  [31mclosed"


def test_logs_events_and_shell_go_through_the_command(place: Place, store: Store, order: Order) -> None:
    """Lines with their pods, events in words, a command's own status; a failure is a sentence."""
    market = place.wallet()
    place.command.told = (("Warning", "BackOff", "Back-off pulling image"),)
    dseq = deployer(store, market).deploy(order).deployment.dseq or ""

    assert [(line.service, line.text) for line in market.logs(dseq, tail=1)] == [
        (f"llm-{dseq}-0", f"deployment {dseq} runs on paper")
    ]
    gateway, lease = market.gateway(dseq)
    assert len(list(gateway.logs(lease, service="llm"))) == 1
    assert list(gateway.logs(lease, service="worker")) == []
    assert [line.text for line in gateway.events(lease)] == ["Warning BackOff: Back-off pulling image"]
    told: list[tuple[bytes, bool]] = []
    assert gateway.run(lease, "llm", ["printf", "%s", "-a"], lambda *piece: told.append(piece)) == 0
    bad = ["sh", "-c", "echo out; echo err >&2; exit 7"]
    assert gateway.run(lease, "llm", bad, lambda *piece: told.append(piece)) == 7
    assert [piece for piece in told if piece[0]] == [(b"-a", False), (b"out\n", False), (b"err\n", True)]
    market.close(dseq)
    with pytest.raises(ProviderFailed, match="could not be run"):
        gateway.run(lease, "llm", ["true"], lambda *_: None)
    with pytest.raises(MarketError, match="no provider runs"):
        market.gateway(dseq)


def test_an_update_changes_the_chain_and_then_the_provider(place: Place, store: Store, order: Order) -> None:
    """The new version's hash is on the chain, its manifest at the provider, and no file with it is left."""
    market = place.wallet()
    dseq = deployer(store, market).deploy(order).deployment.dseq or ""
    sdl = order.sdl.replace("${AKASHLLM_API_KEY}", KEY).replace("env:\n", "env:\n      - A_NEW=one\n")
    place.command.trouble(Trouble("tx deployment update", "killed", "after"))

    market.update(dseq, sdl, "")

    deployed = place.world.get(dseq)
    assert '"A_NEW=one"' in (deployed.leases[0].manifest or "")
    assert list((place.home.root / "wallet" / "orders").glob("*.yaml")) == []
    with pytest.raises(MarketError, match="cannot be changed under a lease"):
        market.update(dseq, sdl.replace("count: 1", "count: 2"), "")
    assert place.world.get(dseq) is deployed


def test_a_half_done_update_is_completed(make_place: MakePlace, order: Order) -> None:
    """Where the chain has the new version and the provider does not, only the provider is asked again."""
    place = make_place()
    market = place.wallet()
    with Store(place.home) as store:
        dseq = deployer(store, market).deploy(order).deployment.dseq or ""
    sdl = order.sdl.replace("${AKASHLLM_API_KEY}", KEY).replace("env:\n", "env:\n      - A_NEW=one\n")
    place.command.trouble(*(Trouble("send-manifest", "unreachable") for _ in range(3)))
    with pytest.raises(ProviderFailed):
        market.update(dseq, sdl, "")
    market.update(dseq, sdl, "")

    assert place.command.asked.count("tx deployment update") == 1
    assert '"A_NEW=one"' in (place.world.get(dseq).leases[0].manifest or "")


def test_the_home_of_the_journal_is_private(place: Place, store: Store, order: Order) -> None:
    """Directories of mode 0700, files of mode 0600."""
    deployer(store, place.wallet()).deploy(order)
    for path in (place.home.root / "wallet").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0


def test_settings_given_as_options_go_before_those_of_the_environment() -> None:
    """What a person types counts."""
    cli = Cli(path="x", changes={"AKASH_NODE": "https://b"}, environ={"AKASH_NODE": "https://a"})
    assert cli.env["AKASH_NODE"] == "https://b"
