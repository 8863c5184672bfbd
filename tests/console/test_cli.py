"""The command line on a market over HTTP, down to a real smoke test of the bundled model."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from akashllm.market import console, console_http, console_order
from akashllm.models import TINY
from akashllm.state import Home, Store
from akashllm.testing.images import pretend_pushed
from akashllm.testing.market import Fault, LocalRunner, MarketServer, Shape, World
from tests.cli.conftest import Run, Said, caller
from tests.market.conftest import QUICK

from .conftest import CANARY, provider

DEPLOY = ("deploy", "--market", "console", "--bid-wait", "0", "--yes")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MarketServer]:
    """Two providers, of which the cheaper loses its leases; the other runs manifests on this machine."""
    good = provider("akash1good", price="6", runner=LocalRunner(tmp_path / "provider", policy=QUICK))
    bad = provider("akash1bad", price="4", behaviour="unstable")
    with MarketServer(World(providers=[bad, good], shape=Shape.newer()), key=CANARY) as server:
        yield server
    assert server.broken == []


@pytest.fixture
def home(tmp_path: Path, server: MarketServer, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A machine whose user has an account at the market."""
    for name in list(os.environ):
        if name.startswith(("AKASHLLM_", "AKASH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AKASHLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AKASH_CONSOLE_API_URL", server.url)
    monkeypatch.setenv("AKASH_CONSOLE_API_KEY", CANARY)
    for module in (console, console_order):
        monkeypatch.setattr(module, "BETWEEN", 0.01)
    monkeypatch.setattr(console_http, "_BACKOFF", 0.01)
    pretend_pushed(Home.find())
    return Home.find()


@pytest.fixture
def here(home: Home, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; Console's key is never in what it says."""
    ran = caller(capsys)

    def call(*arguments: str) -> Said:
        said = ran(*arguments)
        assert CANARY not in said.out + said.err
        return said

    return call


def spawn(*arguments: str) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "akashllm", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.engine
def test_one_command_ends_in_a_verified_url(here: Run, home: Home, server: MarketServer) -> None:
    """One provider fails, the other runs the model, the smoke test is green, `close` leaves nothing."""
    said = here(*DEPLOY, "--why", "--json")

    assert said.code == 0, said.err
    assert said.document["smoke"]["ok"], said.document["smoke"]
    assert (said.document["provider"], said.document["market"]) == ("akash1good", "console")
    assert said.document["url"].startswith("http://127.0.0.1:")
    assert "$/MONTH" in said.err
    assert "nothing speaks against it" in said.err
    assert "akash1bad failed" in said.err
    assert server.world.open() == {said.document["dseq"]}

    (listed,) = here("list", "--json").document["deployments"]
    assert (listed["state"], listed["dseq"]) == ("ready", said.document["dseq"])
    assert "lasts" in here("status", said.document["name"]).out
    again = here(*DEPLOY, "--json")
    assert (again.code, again.document["already_running"]) == (0, True)

    assert here("close", said.document["name"], "--yes").code == 0
    assert server.world.open() == set()
    assert server.world.balance == 100
    assert not [
        path for path in home.root.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()
    ]


def test_a_dry_run_changes_nothing(here: Run, home: Home, server: MarketServer) -> None:
    """--dry-run makes no call but GETs, and no record."""
    said = here(*DEPLOY, "--dry-run", "--json")

    assert (said.code, server.changes()) == (0, [])
    assert server.asked == ["GET /v1/gpu-prices"]
    assert not home.database.exists()


def test_prices_of_the_day_are_asked_for_by_name(
    here: Run, home: Home, server: MarketServer, tmp_path: Path
) -> None:
    """`plan` and `render` are the same everywhere; with --live-prices Console is asked, and nothing else."""
    wanted = ("--model", "llama3", "--engine", "vllm")
    assert here("plan", *wanted, "--json").document["price_source"].startswith("table of ")
    assert server.asked == []
    dear = provider("akash1gpu", price="700", gpu="rtx4090/24Gi")
    server.world.providers = [*server.world.providers, dear]
    live = here("plan", *wanted, "--live-prices", "--json").document
    assert live["price_source"] == "Console gpu-prices"
    said = here("render", *wanted, "--live-prices", "--output", str(tmp_path / "out"))
    assert said.code == 0, said.err
    assert (
        f'amount: "{live["max_uact_block"]:g}"' in (tmp_path / "out" / "sdl" / "vllm-llama3.yaml").read_text()
    )
    assert server.asked == ["GET /v1/gpu-prices"] * 2
    assert not home.database.exists()


def test_without_an_answer_the_table_counts(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Console that is not there is a remark, not an end."""
    monkeypatch.setenv("AKASH_CONSOLE_API_URL", "http://127.0.0.1:9")
    said = here("plan", "--model", "llama3", "--live-prices")
    assert said.code == 0
    assert "the table that comes with akashllm is used" in said.err
    assert "table of " in said.out


@pytest.mark.parametrize(
    ("kind", "code", "name"),
    [
        ("401", 6, "KeyRefused"),
        ("402", 7, "NotEnoughMoney"),
        ("409", 5, "MarketError"),
        ("429", 8, "MarketUnavailable"),
        ("html", 8, "MarketUnavailable"),
        ("truncated", 8, "MarketUnavailable"),
        ("reset", 8, "MarketUnavailable"),
    ],
)
def test_each_refusal_is_one_line_a_hint_and_its_exit_code(
    here: Run, server: MarketServer, kind: str, code: int, name: str
) -> None:
    """What the market answers to the order decides the exit code; stdout is one document."""
    server.faults.add(Fault("POST /v1/deployments", kind))  # type: ignore[arg-type]
    said = here(*DEPLOY, "--json")

    assert (said.code, said.error["type"]) == (code, name)
    assert said.error["hint"]
    assert said.err.count("error: ") == 1
    assert "Traceback" not in said.err
    assert ("may have been placed" in said.err) is (code == 8)
    assert server.world.open() == set()


def test_an_order_that_a_failure_leaves_open_is_named(here: Run, server: MarketServer) -> None:
    """Money in escrow is never left without a word: what is open, what goes on with it, what ends it."""
    server.faults.add(Fault("GET /v1/bids", "401"))
    said = here(*DEPLOY, "--json")

    (dseq,) = server.world.open()
    assert (said.code, said.document["state"], said.document["step"]) == (6, "deploying", "bids")
    assert f"still open: {said.document['name']}, number {dseq}; the same command goes on with it" in said.err
    assert here("close", said.document["name"], "--yes").code == 0


def test_nobody_to_ask_is_said_before_anything_is_ordered(here: Run, server: MarketServer) -> None:
    """Without --yes and without a terminal nothing that costs money is begun."""
    said = here("deploy", "--market", "console", "--json")

    assert (said.code, said.error["type"], server.changes()) == (2, "UsageError", [])
    assert "at most $" in said.error["message"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--bid", "dearest"), "--bid takes"),
        (("--bid", "ask"), "needs a terminal"),
        (("--bid", "akash1nobody"), "another provider"),
        (("--max-price", "0.001"), "cap"),
    ],
)
def test_a_demand_that_nobody_meets_is_named(
    here: Run, server: MarketServer, arguments: tuple[str, ...], words: str
) -> None:
    """A provider that did not bid, a way that is none, a cap too low: each is said, nothing stays."""
    said = here(*DEPLOY, *arguments, "--json")

    assert said.code in {2, 9}
    assert words in said.error["message"]
    assert server.world.open() == set()


def test_a_way_to_choose_that_is_none_is_refused_before_anything_is_planned(here: Run) -> None:
    """Also where nothing would be ordered."""
    for command in (("deploy", "--market", "local"), ("update", "tiny-llamacpp")):
        said = here(*command, "--dry-run", "--bid", "dearest", "--json")
        assert (said.code, said.error["type"]) == (2, "UsageError")
        assert "--bid takes" in said.error["message"]


def test_a_list_without_its_market_says_so(
    here: Run, server: MarketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`list` still shows the record where Console refuses, and warns that there may be more."""
    monkeypatch.setenv("AKASH_CONSOLE_API_KEY", "ac.sk.test.wrong-key-0000")
    said = here("list", "--json")

    assert (said.code, said.document["deployments"]) == (0, [])
    assert "was not asked" in said.document["not_asked"][0]
    assert "warning" in said.err


def test_what_the_record_does_not_know_is_shown_and_closed(here: Run, server: MarketServer) -> None:
    """A deployment made elsewhere is in the list, and `close` takes its number."""
    sdl = here(*DEPLOY, "--dry-run", "--json").document["sdl"].replace("${AKASHLLM_API_KEY}", "x" * 20)
    dseq = server.world.create({"sdl": sdl}).dseq

    (listed,) = here("list", "--json").document["deployments"]
    assert (listed["state"], listed["dseq"]) == ("unrecorded", dseq)
    assert here("close", dseq, "--yes").code == 0
    assert server.world.open() == set()


def test_login_tries_the_key_and_keeps_it_privately(
    here: Run, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that Console accepts is kept with mode 0600 and used; another one is not kept."""
    monkeypatch.delenv("AKASH_CONSOLE_API_KEY")
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_text("ac.sk.test.not-the-key-00\n")
    kept = home.root / "console" / "account" / "api-key"
    assert here("deploy", "--market", "console", "--json").code == 6
    assert (here("login", "--api-key-file", str(file), "--json").code, kept.exists()) == (6, False)

    file.write_text(CANARY + "\n")
    said = here("login", "--api-key-file", str(file), "--json")

    assert (said.code, said.document["balance"]) == (0, "100.0")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert "not_asked" not in here("list", "--json").document
    assert here("login", "--forget", "--json").document == {"kept": False, "was_kept": True}
    assert not kept.exists()


@pytest.mark.slow
def test_what_a_killed_command_ordered_is_found_by_the_next(
    here: Run, home: Home, server: MarketServer
) -> None:
    """After kill -9 in the middle of an order the list shows it as interrupted, and `close` ends it."""
    server.faults.add(Fault("POST /v1/deployments", "hang", "after"))
    process = spawn(*DEPLOY)
    assert server.hung.acquire(timeout=60)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    (dseq,) = server.world.open()
    assert [one["dseq"] or one["state"] for one in here("list", "--json").document["deployments"]] == [
        "interrupted"
    ]

    with Store(home) as store:
        (row,) = store.all()
    assert here("close", row.name, "--yes").code == 0
    assert (server.world.open(), server.world.created) == (set(), 1)
    assert server.world.get(dseq).state == "closed"


@pytest.mark.engine
@pytest.mark.slow
def test_two_terminals_make_one_deployment(here: Run, server: MarketServer) -> None:
    """Two commands for one name at once: one orders and deploys, the other waits and finds it running."""
    server.world.providers = [one for one in server.world.providers if one.behaviour == "runs"]
    processes = [spawn(*DEPLOY, "--json") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(lambda one: one.communicate(timeout=90)[0], processes))

    documents = sorted((json.loads(text) for text in said), key=lambda one: bool(one["already_running"]))
    assert [one["already_running"] for one in documents] == [False, True]
    assert {one["dseq"] for one in documents} == server.world.open()
    assert (server.world.created, documents[0]["url"]) == (1, documents[1]["url"])


def test_no_money_is_spent_on_what_cannot_serve(here: Run) -> None:
    """A model that no image holds is refused before anything is ordered."""
    said = here(*DEPLOY, "--engine", "llamacpp", "--model", str(TINY), "--max-price", "2")

    assert said.code == 2
    assert "paid in vain" in said.err
    assert json.loads(here("list", "--json").out)["deployments"] == []


def test_an_image_that_nobody_can_pull_is_never_ordered(here: Run, home: Home, server: MarketServer) -> None:
    """Without a push from here, and without --image, a lease would be paid in vain: nothing is ordered."""
    (home.root / "images.json").unlink()
    said = here(*DEPLOY, "--json")

    assert (said.code, said.error["type"], server.changes()) == (2, "UsageError", [])
    assert "build --push" in said.error["hint"]


def test_the_image_goes_into_the_order_by_digest(here: Run, home: Home, server: MarketServer) -> None:
    """What was pushed from here is ordered by its digest; its silent registry is a warning."""
    server.world.providers = [provider("akash1bad", behaviour="unstable")]
    first = here(*DEPLOY)

    assert "is not known: 127.0.0.1:9 cannot be reached" in first.err
    (order,) = {one.sdl for one in server.world.deployments.values()}
    assert "127.0.0.1:9/me/akashllm:llamacpp-" in order
    assert "@sha256:" in order


def test_a_file_is_deployed_as_it_stands_or_not_at_all(here: Run, server: MarketServer, tmp_path: Path) -> None:
    """Options beside --sdl, a stranger's file, and one that breaks a rule are refused; nothing is ordered."""
    rendered = here("render", "--model", "tiny", "--output", str(tmp_path), "--json").document["written"][0]
    text = Path(rendered).read_text()
    shown = here("deploy", "--sdl", rendered, "--dry-run", "--json").document
    assert (shown["sdl"], shown["name"]) == (text, "llamacpp-tiny")
    assert shown["plan"]["secrets"] == ["AKASHLLM_API_KEY"]
    stranger = tmp_path / "stranger.yaml"
    stranger.write_text(text.replace("AKASHLLM_ENGINE=llamacpp", "OTHER=1"))
    broken = tmp_path / "broken.yaml"
    broken.write_text(text.replace("denom: uact", "denom: uakt"))

    for arguments, words in (
        ((rendered, "--model", "llama3"), "says all"),
        ((str(stranger),), "which engine"),
        ((str(broken),), "uakt"),
        ((str(tmp_path / "none.yaml"),), "cannot be read"),
    ):
        said = here(*DEPLOY, "--sdl", *arguments, "--json")
        assert (said.code, words in said.error["message"]) == (2, True), said.err
    assert server.changes() == []
