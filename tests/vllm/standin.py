"""A child that speaks the frames and has no vLLM: what it does stands in the order's options (`extra`)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from akashllm.server.domain import Delta, Done, EngineStats, Finish, ModelInfo, Started, ToolCall, Usage
from akashllm.server.engines import frames
from akashllm.server.engines.frames import Answer, Beat, Load, Ready, Refused, Report, Step, Submit
from akashllm.server.engines.vllm.options import Options


def main() -> None:
    """`python -m tests.vllm.standin FD PARENT_PID`."""
    with socket.socket(fileno=int(sys.argv[1])) as connection:

        def send(report: Report) -> None:
            connection.sendall(frames.encode(report))

        body = frames.receive(connection)
        order = frames.decode_order(body or b"")
        assert isinstance(order, Load)
        does = Options.unpack(order.options).extra
        if "refuse" in does:
            send(Refused(reason=does["refuse"], fault=does.get("whose", "")))
            return
        known: dict[str, Any] = {"environment": dict(os.environ), "path": sys.path, "python": sys.executable}
        known["options"] = order.options
        send(Ready(info=ModelInfo(name=order.name, context=order.context, slots=order.slots, metadata=known)))
        while (body := frames.receive(connection)) is not None:
            request = frames.decode_order(body)
            if isinstance(request, Submit):
                _answer(send, request.key, does)


def _answer(send: Any, key: int, does: dict[str, Any]) -> None:
    send(Step(answers=[Answer(key, Started(prompt_tokens=3))]))
    mark = Path(does["mark"]) if "mark" in does else None
    first = mark is not None and not mark.exists()
    if mark is not None:
        mark.touch()
    if first and does["fault"] == "die":
        send(Step(answers=[Answer(key, Delta(text="half an", tokens=2))]))
        sys.stdout.write("vLLM's engine core died\n")
        sys.stdout.flush()
        os._exit(1)
    if first and does["fault"] == "heir":
        # What it started still holds its output.
        heir = subprocess.Popen(["sleep", "60"])
        Path(does["mark"]).write_text(str(heir.pid))
        os._exit(1)
    if first and does["fault"] == "hang":
        send(Beat(stats=EngineStats(), age=1e6, tokens=3))
        time.sleep(60)
    call = ToolCall(id="call_1", name="get_weather", arguments="{}")
    send(
        Step(
            answers=[
                Answer(key, Delta(thinking="<think> stays", tokens=1)),
                Answer(key, Delta(text="<tool_call> stays", tool_calls=(call,), tokens=1)),
                Answer(key, Finish(reason="tool_calls")),
                Answer(key, Done(usage=Usage(prompt_tokens=3, completion_tokens=2))),
            ]
        )
    )


if __name__ == "__main__":
    main()
