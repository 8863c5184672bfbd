"""Several nodes for one model: vLLM spreads layers over a Ray cluster; this starts the cluster's processes.

The head is the node with the service; workers join it and do nothing of their own. Ray's processes belong to
the container, not to the engine's child: when the child starts again, the workers are still there.

Ray's commands and options: ray's `python/ray/scripts/scripts.py`; its shared token: `RAY_AUTH_MODE`.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable

PORT = 6379
"""Where the head listens for workers."""

PATIENCE = 3600.0
"""Seconds the head waits for its workers: each of them fetches the weights first."""

_POLL = 1.0
_RAY = ("-m", "ray.scripts.scripts")
_STORE = 1_000_000_000
"""Bytes Ray may keep of objects in /dev/shm, which NCCL needs; vLLM passes only small ones."""

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0"}


class ClusterError(Exception):
    """The nodes did not come together."""


def token(key: str | None) -> str:
    """What the nodes of one deployment know and nobody else: made of its API key, telling nothing of it."""
    return hashlib.sha256(b"akashllm ray cluster\0" + (key or "").encode()).hexdigest()


def environment(key: str | None) -> dict[str, str]:
    """What every process of the cluster finds in its environment: Ray answers only who has the token."""
    return {**_QUIET, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token(key)}


def own_address() -> str:
    """The address other nodes reach this one at: the one its host name stands for, as in every pod."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET, socket.SOCK_STREAM)
    except socket.gaierror:
        # A machine whose own name nobody has written down can still be the only node.
        return "127.0.0.1"
    outside = [str(entry[4][0]) for entry in found if not str(entry[4][0]).startswith("127.")]
    return outside[0] if outside else "127.0.0.1"


def reachable(host: str, port: int, timeout: float = 2.0) -> bool:
    """Whether something listens there."""
    try:
        with socket.create_connection((host, port), timeout):
            return True
    except OSError:
        return False


def head_command(python: str, address: str, gpus: int, port: int = PORT) -> list[str]:
    """The command that starts Ray's head on this node and returns."""
    return [
        *(python, *_RAY, "start", "--head", f"--port={port}", f"--node-ip-address={address}"),
        *(f"--num-gpus={gpus}", f"--object-store-memory={_STORE}", "--include-dashboard=false"),
        "--disable-usage-stats",
    ]


def worker_command(python: str, head: str, address: str, gpus: int) -> list[str]:
    """The command that joins `head` (`host:port`) and ends when it is gone."""
    return [
        *(python, *_RAY, "start", f"--address={head}", f"--node-ip-address={address}"),
        *(f"--num-gpus={gpus}", f"--object-store-memory={_STORE}", "--disable-usage-stats", "--block"),
    ]


def gather(
    nodes: int, gpus: int, *, port: int = PORT, say: Callable[[str], None], patience: float = PATIENCE
) -> None:
    """Start the head on this node, if it does not run, and wait until all `nodes` are there.

    Leaves `RAY_ADDRESS` and `VLLM_HOST_IP` in the environment, where vLLM looks for them. Raises
    `ClusterError` with the reason.
    """
    import ray  # type: ignore[import-not-found]  # only the interpreter that has vLLM has it

    address = own_address()
    os.environ.update(RAY_ADDRESS=f"{address}:{port}", VLLM_HOST_IP=address)
    if not reachable(address, port):
        # In a session of its own: what belongs to the engine's child is killed when that ends.
        done = subprocess.run(
            head_command(sys.executable, address, gpus, port),
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )
        if done.returncode:
            raise ClusterError(f"Ray's head did not start: {_last(done.stderr or done.stdout)}")
    try:
        ray.init(address=f"{address}:{port}", log_to_driver=False, logging_level="warning")
        _wait(lambda: sum(bool(node["Alive"]) for node in ray.nodes()), nodes, say, patience)
    except ConnectionError as error:
        raise ClusterError(f"Ray's head does not answer: {_last(str(error))}") from error
    finally:
        ray.shutdown()


def _wait(count: Callable[[], int], nodes: int, say: Callable[[str], None], patience: float) -> None:
    until = time.monotonic() + patience
    told = -1
    while (found := count()) < nodes:
        if found != told:
            say(f"{found} of {nodes} nodes are there")
            told = found
        if time.monotonic() > until:
            raise ClusterError(
                f"only {found} of {nodes} nodes came within {patience / 60:.0f} minutes: "
                "the logs of the workers say why"
            )
        time.sleep(_POLL)


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"
