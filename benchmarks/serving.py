"""Our service beside its peers, on one model, in one run: tokens/s, TTFT and inter-token latency as ratios.

    benchmarks/peers      # once: llama-server and llama_cpp.server, from the same sources with the same flags
    python benchmarks/serving.py [--models tiny,mid] [--clients 1,4,16] [--rounds 3] [--markdown FILE]

Processor time a token (of the server and its children) is shown too: it hardly depends on what else the machine
does.

Every server runs alone on one core with one compute thread, the load generator on the other core. The servers
take turns within a round, prompts are salted so that no cache helps, the end-of-sequence tokens are banned so
that every stream is as long as asked, and the median of the rounds is shown. Ratios survive a noisy machine;
absolute figures do not. In the last scenario eight cold clients share a prefix of about 300 words.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from akashllm.bench import Summary, load, summarise
from akashllm.models import TINY

CACHE = Path(__file__).parents[1] / ".cache"
SLOTS = 16
WORDS = ("river", "stone", "moon", "cloud", "bread", "paper", "winter", "green", "copper", "music", "garden")
BANNED = {"1947": -100, "1949": -100}
"""Token ids of <|endoftext|> and <|im_end|> in the bundled tokenizer, which both models share."""


@dataclass(frozen=True)
class Scenario:
    """What the clients send: streams of `output` tokens after a prompt of about `prompt` words."""

    name: str
    clients: int
    streams: int
    prompt: int
    output: int
    shared: bool = False


@dataclass(frozen=True)
class Server:
    """How a peer is started and where it listens."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]


def servers(model: Path, port: int, context: int) -> list[Server]:
    """The three, in the order in which they take turns."""
    peers = CACHE / "peers"
    ours = {
        "AKASHLLM_MODEL": str(model),
        "AKASHLLM_MODEL_NAME": "bench",
        "AKASHLLM_PORT": str(port),
        "AKASHLLM_HOST": "127.0.0.1",
        "AKASHLLM_CONTEXT": str(context),
        "AKASHLLM_CONCURRENCY": str(SLOTS),
        "AKASHLLM_THREADS": "1",
        "AKASHLLM_LOG_LEVEL": "error",
    }
    found = [Server("akashllm", (sys.executable, "-m", "akashllm.server"), ours)]
    native = peers / "llama-server"
    if native.exists():
        slots = f"-c {context * SLOTS} -np {SLOTS}"
        argv = f"{native} -m {model} --port {port} {slots} -t 1 -tb 1 --no-ui --log-disable"
        found.append(Server("llama-server", tuple(argv.split()), {}))
    python = peers / "venv/bin/python"
    if python.exists():
        argv = f"{python} -m llama_cpp.server --model {model} --port {port} --n_ctx {context} --n_threads 1"
        found.append(Server("llama_cpp.server", (*argv.split(), "--interrupt_requests", "false"), {}))
    return found


@contextlib.contextmanager
def running(server: Server, port: int) -> Iterator[psutil.Process]:
    """Start it on the last core and wait until it lists its models; stop its whole process group at the end."""
    core = str((os.cpu_count() or 1) - 1)
    log = CACHE / f"{server.name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["taskset", "-c", core, *server.argv],
            env=os.environ | {"GGML_NO_BACKTRACE": "1"} | server.env,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{server.name} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    break
            except OSError:
                pass
            time.sleep(0.1)
        yield psutil.Process(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def processor_time(process: psutil.Process) -> float:
    """Seconds of processor that a process and its children have used."""
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def bodies(scenario: Scenario, salt: str) -> list[dict[str, Any]]:
    """One request a stream."""
    dice = random.Random(salt)
    common = " ".join(dice.choice(WORDS) for _ in range(scenario.prompt))
    found = []
    for i in range(scenario.streams):
        words = common if scenario.shared else " ".join(dice.choice(WORDS) for _ in range(scenario.prompt))
        prompt = f"{salt} {words} {i}" if scenario.shared else f"{salt} {i} {words}"
        found.append(
            {
                "model": "bench",
                "prompt": prompt,
                "max_tokens": scenario.output,
                "temperature": 0,
                "logit_bias": BANNED,
            }
        )
    return found


def measure(
    model: Path, context: int, scenarios: list[Scenario], rounds: int
) -> dict[tuple[str, str], list[Summary]]:
    """Every scenario on every server, `rounds` times."""
    found: dict[tuple[str, str], list[Summary]] = {}
    for turn in range(rounds):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for server in servers(model, port, context):
            with running(server, port) as process:
                url = f"http://127.0.0.1:{port}/v1/completions"
                asyncio.run(load(url, bodies(Scenario("warm", 1, 2, 8, 8), "warm"), 1))
                for scenario in scenarios:
                    requests = bodies(scenario, f"{turn}-{scenario.name}")
                    before = processor_time(process)
                    samples = asyncio.run(load(url, requests, scenario.clients))
                    spent = processor_time(process) - before
                    summary = dataclasses.replace(
                        summarise(samples), cpu_per_token=spent / sum(sample.tokens for sample in samples)
                    )
                    found.setdefault((scenario.name, server.name), []).append(summary)
                    print(
                        f"  round {turn + 1} {scenario.name:<14} {server.name:<17}"
                        f" {summary.tokens_per_second:8.1f} tok/s"
                        f"  TTFT {summary.ttft_p50 * 1e3:8.1f} ms  ITL {summary.itl_p50 * 1e3:7.2f} ms"
                        f"  cached {summary.cached:4.0%}  {summary.cpu_per_token * 1e3:7.2f} ms of CPU/tok",
                        file=sys.stderr,
                        flush=True,
                    )
    return found


def table(results: dict[tuple[str, str], list[Summary]], scenarios: list[Scenario]) -> list[str]:
    """Markdown: ours in figures, and ours over each peer (tokens/s: more is better; times: less is better)."""
    names = list(dict.fromkeys(server for _, server in results))
    peers = [name for name in names if name != "akashllm"]
    head = "| scenario | tok/s | TTFT p50 ms | ITL p50 ms |" + "".join(
        f" tok/s vs {p} | TTFT vs {p} | ITL vs {p} | CPU/tok vs {p} |" for p in peers
    )
    lines = [head, "|---|" + "---:|" * (3 + 4 * len(peers))]
    for scenario in scenarios:
        mine = results[scenario.name, "akashllm"]

        row = [
            scenario.name,
            f"{statistics.median(s.tokens_per_second for s in mine):.0f}",
            f"{statistics.median(s.ttft_p50 for s in mine) * 1e3:.1f}",
            f"{statistics.median(s.itl_p50 for s in mine) * 1e3:.2f}",
        ]
        for peer in peers:
            pairs = list(zip(mine, results[scenario.name, peer], strict=True))
            row += [
                f"{statistics.median(a.tokens_per_second / b.tokens_per_second for a, b in pairs):.2f}",
                f"{statistics.median(a.ttft_p50 / b.ttft_p50 for a, b in pairs):.2f}",
                f"{statistics.median(a.itl_p50 / b.itl_p50 for a, b in pairs):.2f}",
                f"{statistics.median(a.cpu_per_token / b.cpu_per_token for a, b in pairs):.2f}",
            ]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def main() -> None:
    """Run the scenarios and print a table a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="tiny,mid")
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    os.sched_setaffinity(0, {0})
    machine = f"{os.cpu_count()} cores ({processor()})"
    lines = [f"Measured {time.strftime('%Y-%m-%d')} on {machine}, median of {options.rounds} rounds."]
    for name in options.models.split(","):
        model, output = (TINY, 96) if name == "tiny" else (mid(), 32)
        scenarios = [
            Scenario(f"{c} client{'s' if c > 1 else ''}", c, max(4, 2 * c), 40, output)
            for c in map(int, options.clients.split(","))
        ]
        scenarios.append(Scenario("8, shared 300", 8, 8, 300, 8, shared=True))
        lines += ["", f"**{name}** ({model.stat().st_size / 1e6:.0f} MB)", ""]
        lines += table(measure(model, 1024, scenarios, options.rounds), scenarios)
    text = "\n".join(lines)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")


def mid() -> Path:
    """A model of 100M parameters with random weights, made once."""
    path = CACHE / "mid.gguf"
    if not path.exists():
        subprocess.run([sys.executable, str(Path(__file__).with_name("random_gguf.py")), str(path)], check=True)
    return path


def processor() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
