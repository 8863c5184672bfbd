"""The stand-in as a file that can be run: a few lines of Python that hand their words to the test."""

from __future__ import annotations

import json
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from akashllm.testing.wallet.command import FakeCommand

_SCRIPT = """#!{python} -SE
import json, os, signal, socket, sys, time
with socket.create_connection(("127.0.0.1", {port})) as connection:
    said = json.dumps({{"argv": sys.argv, "env": dict(os.environ), "stdin": sys.stdin.read()}})
    connection.sendall(said.encode() + b"\\n")
    with connection.makefile("r") as answer:
        ran = json.loads(answer.readline())
sys.stderr.write(ran["err"])
sys.stderr.flush()
sys.stdout.write(ran["out"])
sys.stdout.flush()
if ran["status"] is None:
    time.sleep(600)
if ran["status"] < 0:
    os.kill(os.getpid(), -ran["status"])
if "--follow" in sys.argv:
    time.sleep(600)
sys.exit(ran["status"])
"""


@contextmanager
def installed(directory: Path, command: FakeCommand) -> Iterator[Path]:
    """Put it into a directory under its own name; yields the file."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            said = json.loads(self.rfile.readline())
            # Nobody is there to answer a prompt.
            assert said["stdin"] == ""
            ran = command.run(said["argv"], said["env"], 0)
            answer = {"status": ran.status, "out": ran.out, "err": ran.err}
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        path = directory / command.name
        path.write_text(_SCRIPT.format(python=sys.executable, port=server.server_address[1]), encoding="utf-8")
        path.chmod(0o755)
        try:
            yield path
        finally:
            server.shutdown()
            thread.join()
