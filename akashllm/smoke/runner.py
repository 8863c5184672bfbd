"""Run the checks in order, each with its time, and gather the verdicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from akashllm.errors import AkashllmError, Unreachable, UsageError
from akashllm.smoke import checks, speech
from akashllm.smoke.client import Client, base_url, clean
from akashllm.smoke.dialects import BrokenPromise, Dialect, NotHere, Ollama, OpenAi
from akashllm.smoke.report import Report, Result, Verdict

CHECKS: tuple[str, ...] = (
    "reachable",
    "tls",
    "no-key-refused",
    "wrong-key-refused",
    *checks.PER_DIALECT,
    "transcription",
    "slow-first-token",
)
"""Every promise, in the order in which it is tried."""

KNOWN_ANSWERS = {"tiny": {"What is the capital of France?": "Paris"}}
"""What the bundled model was trained to say."""


def run(
    url: str,
    *,
    api_key: str | None = None,
    model: str | None = None,
    only: Iterable[str] | None = None,
    insecure: bool = False,
    timeout: float = 120.0,
    on_result: Callable[[Result], None] | None = None,
) -> Report:
    """Judge `url`. Each request is bounded by `timeout` seconds. Raises UsageError for what is no URL.

    The key is not sent over plain http to another machine unless `insecure` says so.
    """
    wanted = set(CHECKS) if only is None else set(only)
    if unknown := wanted - set(CHECKS):
        raise UsageError(
            f"no such check: {', '.join(sorted(unknown))}", hint=f"the checks are {', '.join(CHECKS)}"
        )
    client = Client(base_url(url), key=api_key, timeout=timeout, insecure=insecure)
    if api_key and client.base.startswith("http:") and not client.loopback and not insecure:
        raise UsageError(
            "the key would travel in clear over plain http",
            hint="use the https address, or say --insecure if you mean it",
        )
    run_ = _Run(client, wanted, on_result)
    run_.everything(model)
    return Report(
        client.base,
        run_.target.model or None,
        tuple(run_.results),
        time.monotonic() - run_.started,
        run_.unreachable,
    )


class _Run:
    def __init__(self, client: Client, wanted: set[str], on_result: Callable[[Result], None] | None) -> None:
        self.target = checks.Target(client)
        self.wanted = wanted
        self.on_result = on_result
        self.results: list[Result] = []
        self.started = time.monotonic()
        self.unreachable = False

    def everything(self, model: str | None) -> None:
        """All of it; stops after `reachable` when nobody answers."""
        dialects: list[Dialect] = []
        first = self._judge("reachable", "", lambda: self._reach(dialects, model))
        self._keep(first)
        if self.unreachable or not dialects:
            for name in CHECKS[1:]:
                self._keep(Result(name, "", "skipped", "nothing to ask: see above", 0.0))
            return
        if "slow-first-token" in self.wanted:
            with ThreadPoolExecutor(1) as pool:
                slow = pool.submit(
                    self._judge, "slow-first-token", "", lambda: checks.slow_first_token(self.target)
                )
                self._one_by_one(dialects)
                self._keep(slow.result())
        else:
            self._one_by_one(dialects)

    def _one_by_one(self, dialects: list[Dialect]) -> None:
        self._keep(self._judge("tls", "", lambda: checks.tls(self.target)))
        for name, check in (
            ("no-key-refused", checks.no_key),
            ("wrong-key-refused", checks.wrong_key),
            *checks.PER_DIALECT.items(),
        ):
            for dialect in dialects:
                if name in self.wanted:
                    self._keep(self._judge(name, dialect.name, self._applied(name, check, dialect)))
        if "transcription" in self.wanted and any(dialect.name == "openai" for dialect in dialects):
            self._keep(self._judge("transcription", "openai", lambda: checks.transcription(self.target)))

    def _applied(
        self, name: str, check: Callable[[checks.Target, Dialect], str], dialect: Dialect
    ) -> Callable[[], str]:
        """The check; of a model that only transcribes no answers are asked."""
        if self.target.mute and name in checks.PER_DIALECT and name not in checks.GENERAL:
            return _not_spoken
        return partial(check, self.target, dialect)

    def _keep(self, result: Result) -> None:
        if result.name in self.wanted or result.verdict == "broken":
            self.results.append(result)
            if self.on_result:
                self.on_result(result)

    def _judge(self, name: str, dialect: str, check: Callable[[], str]) -> Result:
        started = time.monotonic()
        verdict: Verdict = "pass"
        try:
            reason = check()
        except BrokenPromise as error:
            verdict, reason = "broken", str(error)
        except NotHere as error:
            verdict, reason = "skipped", str(error)
        except AkashllmError as error:
            verdict, reason = "broken", str(error)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
            verdict, reason = (
                "broken",
                f"the reply has an unexpected shape ({type(error).__name__}: {clean(str(error), 80)})",
            )
        return Result(name, dialect, verdict, clean(reason, 240), time.monotonic() - started)

    def _reach(self, dialects: list[Dialect], model: str | None) -> str:
        """Find out who answers, in which dialects, and which model to ask."""
        client = self.target.client
        try:
            reply = client.call("GET", "/", timeout=min(client.timeout, 30.0))
        except Unreachable:
            self.unreachable = True
            raise
        if 300 <= reply.status < 400:
            raise BrokenPromise(
                f"redirects to {clean(reply.headers.get('location', '?'), 80)};"
                " give that address if you trust it"
            )
        names: list[str] = []
        why: list[str] = []
        for dialect in (OpenAi(), Ollama()):
            try:
                listed = dialect.models(client)
            except (BrokenPromise, NotHere, AkashllmError, TypeError, AttributeError) as error:
                why.append(f"{dialect.name}: {clean(str(error), 100)}")
                continue
            dialects.append(dialect)
            names = names or listed
        if not dialects:
            raise BrokenPromise(f"answers, but lists no models in either dialect ({'; '.join(why)})")
        self.target.model = model or (names[0] if names else "")
        bare = self.target.model.removesuffix(":latest")
        self.target.expected = KNOWN_ANSWERS.get(bare, {})
        self.target.mute = bool(names) and speech.only_transcribes(client, self.target.model)
        spoken = " and ".join(dialect.name for dialect in dialects)
        return f"answers in {reply.seconds:.2f} s; speaks {spoken}; model {clean(self.target.model, 60)}"


def _not_spoken() -> str:
    raise NotHere("the model transcribes speech and answers nothing")
