"""What the checks found: as text, as JSON, as JUnit XML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree as ET

Verdict = Literal["pass", "broken", "skipped"]


@dataclass(frozen=True, slots=True)
class Result:
    """One promise: its name, the dialect it was asked in, the verdict, why, and how long it took."""

    name: str
    dialect: str
    verdict: Verdict
    reason: str
    seconds: float

    @property
    def title(self) -> str:
        """The name, with the dialect where there is one."""
        return f"{self.name} ({self.dialect})" if self.dialect else self.name


@dataclass(frozen=True, slots=True)
class Report:
    """All promises of one URL."""

    url: str
    model: str | None
    results: tuple[Result, ...]
    seconds: float
    unreachable: bool = False

    @property
    def ok(self) -> bool:
        """Nothing is broken and something held."""
        return not self.broken and any(r.verdict == "pass" for r in self.results)

    @property
    def broken(self) -> tuple[Result, ...]:
        """The promises that do not hold."""
        return tuple(r for r in self.results if r.verdict == "broken")

    def counts(self) -> dict[Verdict, int]:
        """How many of each verdict."""
        tally: dict[Verdict, int] = {"pass": 0, "broken": 0, "skipped": 0}
        for result in self.results:
            tally[result.verdict] += 1
        return tally

    def as_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "url": self.url,
            "model": self.model,
            "ok": self.ok,
            **{str(verdict): count for verdict, count in self.counts().items()},
            "seconds": round(self.seconds, 3),
            "results": [
                {
                    "name": r.name,
                    "dialect": r.dialect,
                    "verdict": r.verdict,
                    "reason": r.reason,
                    "seconds": round(r.seconds, 3),
                }
                for r in self.results
            ],
        }

    def lines(self) -> list[str]:
        """Plain text, a line a promise, and a closing line."""
        width = max((len(r.name) for r in self.results), default=0)
        mark = {"pass": "ok", "broken": "BROKEN", "skipped": "skipped"}
        rows = [
            f"{mark[r.verdict]:<8} {r.name:<{width}}  {r.dialect:<7} {r.seconds:6.2f} s  {r.reason}".rstrip()
            for r in self.results
        ]
        tally = self.counts()
        rows.append(
            f"{tally['pass']} hold, {tally['broken']} broken, {tally['skipped']} skipped"
            f" in {self.seconds:.1f} s"
        )
        return rows

    def junit(self) -> str:
        """JUnit XML, as CI systems read it."""
        tally = self.counts()
        suite = ET.Element(
            "testsuite",
            name=f"akashllm smoke-test {self.url}",
            tests=str(len(self.results)),
            failures=str(tally["broken"]),
            skipped=str(tally["skipped"]),
            errors="0",
            time=f"{self.seconds:.3f}",
        )
        for result in self.results:
            case = ET.SubElement(
                suite,
                "testcase",
                classname=f"smoke.{result.dialect or 'transport'}",
                name=result.name,
                time=f"{result.seconds:.3f}",
            )
            if result.verdict == "broken":
                ET.SubElement(case, "failure", message=result.reason)
            elif result.verdict == "skipped":
                ET.SubElement(case, "skipped", message=result.reason)
            else:
                ET.SubElement(case, "system-out").text = result.reason
        ET.indent(suite)
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"
