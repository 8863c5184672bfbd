"""What a decode step costs beside llama.cpp: processor time of our Python, a step and a token.

`python benchmarks/engine_overhead.py [MODEL] [--json]` runs the scheduler in this process, without the service
and without the child's other threads, and subtracts the time inside `llama_decode` from the thread's. The
budget is 100 microseconds a step and 20 a token; a greedy way that exceeds it ends with status 1. Sampling,
log probabilities and grammars cost more, and grow with the vocabulary.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from akashllm.models import TINY
from akashllm.server.domain import Constraint, Generation, Sampling, TextPrompt
from akashllm.server.engines import frames
from akashllm.server.engines.frames import Load, Step
from akashllm.server.engines.llamacpp.child import scheduler_for
from akashllm.server.engines.llamacpp.model import Model
from akashllm.server.engines.llamacpp.prepare import Preparer

STEP_BUDGET = 100.0
TOKEN_BUDGET = 20.0

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"sampling": Sampling(temperature=0.0)},
    "sampled": {"sampling": Sampling(temperature=0.8, top_k=40, top_p=0.9, min_p=0.05, seed=1)},
    "open": {"sampling": Sampling(temperature=1.0, seed=1)},
    "penalised": {"sampling": Sampling(temperature=0.8, top_k=40, top_p=0.9, repeat_penalty=1.1, seed=1)},
    "stops": {"sampling": Sampling(temperature=0.0), "stop": ("\n\nUser:", "###", "<end>")},
    "logprobs": {"sampling": Sampling(temperature=0.0), "logprobs": 5},
    "regex": {
        "sampling": Sampling(temperature=0.8, seed=1),
        "constraint": Constraint(kind="regex", value="[a-z ]{2000}"),
    },
}


@dataclass
class Cost:
    """Microseconds of processor time beside llama.cpp."""

    way: str
    sequences: int
    step_us: float
    token_us: float
    decode_us: float


class Timed:
    """A context whose decode call is measured."""

    def __init__(self, model: Model) -> None:
        self.inside = 0.0
        self._decode = model.context.decode

    def decode(self) -> int:
        """As the context's."""
        began = time.process_time()
        code = self._decode()
        self.inside += time.process_time() - began
        return code


def measure(model: Model, preparer: Preparer, way: str, sequences: int, steps: int) -> Cost:
    """Run `sequences` requests for `steps` tokens each."""
    scheduler = scheduler_for(model)
    model.context.clear()
    timed = Timed(model)
    vars(scheduler.context)["decode"] = timed.decode
    for key in range(sequences):
        request = Generation(
            id=str(key),
            model="",
            prompt=TextPrompt(text=f"Request {key}: once upon a time"),
            max_tokens=steps + 1,
            ignore_eos=True,
            **WAYS[way],
        )
        scheduler.submit(preparer.job(key, request))
    while not scheduler.running or scheduler.waiting or any(not one.produced for one in scheduler.running):
        scheduler.step()
    taken = tokens = 0
    timed.inside = 0.0
    began = time.process_time()
    while scheduler.running:
        answers = scheduler.step()
        frames.encode(Step(answers=answers))
        taken += 1
        tokens += len(answers)
    total = time.process_time() - began
    del vars(scheduler.context)["decode"]
    beside = (total - timed.inside) * 1e6
    return Cost(way, sequences, beside / taken, beside / tokens, timed.inside * 1e6 / taken)


def main() -> int:
    """Measure every way at 1, 4 and 16 sequences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=str(TINY))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    model = Model(Load(model=options.model, name="bench", slots=16, threads=1), lambda _: None)
    preparer = Preparer(model)
    costs = []
    for way in WAYS:
        for sequences in (1, 4, 16):
            runs = [measure(model, preparer, way, sequences, options.steps) for _ in range(3)]
            costs.append(min(runs, key=lambda cost: cost.step_us))
    if options.json:
        print(json.dumps([asdict(cost) for cost in costs]))
    else:
        print(f"{'way':<10} {'sequences':>9} {'us a step':>10} {'us a token':>10} {'decode us':>10}  budget")
        for cost in costs:
            budget = STEP_BUDGET + TOKEN_BUDGET * cost.sequences
            print(
                f"{cost.way:<10} {cost.sequences:>9} {cost.step_us:>10.0f} {cost.token_us:>10.1f} "
                f"{cost.decode_us:>10.0f}  {cost.step_us / budget:>5.0%}"
            )
    judged = [cost for cost in costs if cost.way in {"greedy", "stops"}]
    kept = all(cost.step_us <= STEP_BUDGET + TOKEN_BUDGET * cost.sequences for cost in judged)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
