"""From a lease to a verdict: the steps that wait for the service and judge it."""

from __future__ import annotations

from typing import Any

from akashllm.errors import CheckFailed
from akashllm.market.base import Standing
from akashllm.market.driver import Driver, Work
from akashllm.market.order import Verdicts


def await_address(driver: Driver, work: Work) -> dict[str, Any]:
    """Wait until the provider has started the service."""
    standing = driver.until(work, lambda now: now.url is not None, "the provider has not started the service")
    driver.progress.step("manifest", f"address {standing.url}")
    return {"url": standing.url}


def await_model(driver: Driver, work: Work) -> dict[str, Any]:
    """Wait until the service says that its model is loaded."""
    driver.progress.step("ready", "waiting for the model")
    assert work.row.url is not None
    url, restarts, percent = work.row.url, 0, 0.0

    def ready(standing: Standing) -> bool:
        nonlocal restarts, percent
        if standing.restarts > restarts:
            restarts = standing.restarts
            driver.progress.note(f"the service was started again ({standing.reason})")
        health = driver.ask(url, work.key)
        if health.state == "failed" and health.ordered:
            driver.condemn(work, health.reason)
        if health.state == "failed":
            driver.give_up(work, health.reason or "the service says that it failed")
        percent = health.percent or 0.0
        words = "the port is not open yet" if health.state == "unreachable" else health.reason or health.state
        driver.progress.loading(100.0 if health.state == "ready" else health.percent, words)
        return health.state == "ready"

    driver.until(work, ready, "the model is not ready", percent=lambda: percent)
    return {}


def judge(driver: Driver, work: Work) -> dict[str, Any]:
    """Let every promise be judged."""
    driver.progress.step("smoke", "checking every promise")
    assert work.row.url is not None
    report = driver.verify(work.row.url, api_key=work.key, model=work.row.model, progress=driver.progress)
    work.report = report
    facts = {**work.row.facts, "smoke": report.as_dict()}
    if not report.ok and driver.market.charges and _unreachable(report):
        driver.give_up(work, f"nobody answers at {work.row.url}")
    if not report.ok:
        # It answers, so it is handed over; what is wrong is said, and stays on record.
        driver.store.update(work.row.id, state="active", facts=facts)
        raise CheckFailed(
            f"{work.row.name} runs at {work.row.url}, but the smoke test found a broken promise",
            hint=f"`akashllm logs {work.row.name}` may say why; `akashllm close {work.row.name}` ends it",
        )
    return {"state": "active", "facts": facts}


def _unreachable(report: Verdicts) -> bool:
    """Whether the smoke test found nobody at the URL, which is the provider's fault."""
    return any(
        one.get("name") == "reachable" and one.get("verdict") == "broken"
        for one in report.as_dict().get("results", ())
    )
