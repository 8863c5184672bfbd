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
import json, os, pty, signal, socket, subprocess, sys, threading, time
words = sys.argv[1:]
words = words[: words.index("--")] if "--" in words else words
reads = any(word in words for word in ("--stdin", "--stdin=true"))
with socket.create_connection(("127.0.0.1", {port})) as connection:
    said = json.dumps({{"argv": sys.argv, "env": dict(os.environ), "stdin": "" if reads else sys.stdin.read()}})
    connection.sendall(said.encode() + b"\\n")
    with connection.makefile("r") as answer:
        ran = json.loads(answer.readline())
if ran.get("command") and any(word in words for word in ("--tty", "--tty=true")):
    ran["status"] = os.waitstatus_to_exitcode(pty.spawn(ran["command"]))
elif ran.get("command"):
    child = subprocess.Popen(ran["command"], stdin=subprocess.PIPE)
    ends = []
    def forward():
        try:
            while data := os.read(0, 4096):
                os.write(child.stdin.fileno(), data)
            ends.append("EOF")
        except OSError:
            pass
    threading.Thread(target=forward, daemon=True).start()
    ran["status"] = child.wait()
    if ends and not ran["status"]:
        sys.exit("Error: EOF: failed while reading from stdin")
if ran.get("command") and ran["status"]:
    sys.stderr.write(f"Error: lease shell failed: remote process exited with code {{ran['status']}}\\n")
    sys.stderr.flush()
    os._exit(1)
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
            answer = {"status": ran.status, "out": ran.out, "err": ran.err, "command": command.handed()}
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
