"""What is looked at before vLLM starts on GPUs, each with a reason of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace

import pytest

from akashllm.server.engines.vllm.facts import GIB, Machine, Unfit, check, read
from akashllm.server.engines.vllm.options import Options

H100 = "0, NVIDIA H100 80GB HBM3, 81559, 81079, 580.95.05, 9.0\n"
TWO = H100 + H100.replace("0,", "1,", 1)
T4 = "0, Tesla T4, 15360, 15109, 580.65.06, 7.5\n"


def machine(*tables: str, cuda: str | None = "13.0", shared: int = 10 * GIB) -> Machine:
    """A machine whose `nvidia-smi` says these things one after the other, the last for ever."""
    left = list(tables)

    def smi(arguments: Sequence[str]) -> str:
        assert any(word.startswith("--query-gpu=") for word in arguments)
        return left.pop(0) if len(left) > 1 else left[0]

    return Machine(smi=smi, cuda=lambda: cuda, shared=lambda: shared, sleep=lambda _: None)


def test_a_fitting_machine_passes() -> None:
    """Enough of everything is no reason to complain; what vLLM will take of it is told."""
    assert check(Options(gpus=2), 130 * GIB, machine(TWO)) == round(2 * 81559 * 0.92 * (1 << 20))


def test_a_build_for_processors_needs_no_gpu() -> None:
    """Without CUDA in torch nothing is asked of a driver."""

    def smi(_: Sequence[str]) -> str:
        raise AssertionError("asked")

    check(Options(), GIB, Machine(smi=smi, cuda=lambda: None, shared=lambda: 0))


@pytest.mark.parametrize(
    ("made", "options", "weights", "reason"),
    [
        (machine(""), Options(), 0, "sees no GPU"),
        (machine(H100), Options(gpus=2), 0, "there is 1 GPU and AKASHLLM_GPUS asks for 2"),
        (machine(H100.replace("580.95.05", "570.133.20")), Options(), 0, "CUDA 13.0, which needs 580 or newer"),
        (machine(H100.replace("9.0", "6.1")), Options(), 0, "compute capability 6.1"),
        (machine(T4), Options(dtype="bfloat16"), 0, "AKASHLLM_DTYPE=float16"),
        (machine(H100), Options(), 80 * GIB, "weights take 80.0 GiB"),
        (machine(H100.replace("81079", "40000")), Options(), GIB, "has 39.1 of 79.6 GiB free"),
        (machine(TWO, shared=64 << 20), Options(gpus=2), GIB, "64 MiB in /dev/shm"),
        (machine("No devices were found\n"), Options(), 0, "unexpected: No devices were found"),
    ],
)
def test_what_is_missing_is_named(made: Machine, options: Options, weights: int, reason: str) -> None:
    """Each fact has its own sentence, with the figures."""
    with pytest.raises(Unfit, match=reason) as caught:
        check(options, weights, made)
    # Shared memory is what the SDL gives; all else is of the machine, and another may have it.
    assert caught.value.fault == ("order" if "/dev/shm" in reason else "")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError("nvidia-smi"), "no NVIDIA driver"),
        (subprocess.TimeoutExpired("nvidia-smi", 30), "does not answer"),
        (
            subprocess.CalledProcessError(9, "nvidia-smi", "couldn't communicate\nwith"),
            "not work: could",
        ),
    ],
)
def test_a_driver_that_fails_is_told_from_a_missing_one(error: Exception, reason: str) -> None:
    """No program, no answer and an error are three things."""

    def smi(_: Sequence[str]) -> str:
        raise error

    with pytest.raises(Unfit, match=reason):
        check(Options(), 0, Machine(smi=smi, cuda=lambda: "13.0", shared=lambda: 0))


def test_memory_of_a_dead_engine_is_waited_for() -> None:
    """What an engine that has just died held is free a moment later."""
    check(Options(), GIB, machine(H100, H100.replace("81079", "1000"), H100))


def test_unknown_figures_are_not_held_against_a_gpu() -> None:
    """A driver that does not tell the capability does not stop anything."""
    gpus = read("0, NVIDIA GB10, 122570, 120000, 580.95.05, [N/A]\n")
    assert gpus[0].compute == (0, 0)
    check(Options(), GIB, machine("0, NVIDIA GB10, 122570, 120000, 580.95.05, [N/A]\n"))


def test_hidden_gpus_do_not_count() -> None:
    """What CUDA is not to see is not there; an empty list hides all."""
    for visible in (["1"], []):
        told = machine(TWO)
        with pytest.raises(Unfit, match="GPU"):
            check(Options(gpus=2), 0, replace(told, visible=visible))


def test_memory_that_is_not_told_is_not_missing() -> None:
    """A chip that shares the system's memory has no figures of its own."""
    check(Options(), 90 * GIB, machine("0, NVIDIA GB10, [N/A], [N/A], 580.95.05, 12.1\n"))


def test_a_smaller_share_of_the_memory_is_believed() -> None:
    """`gpu_memory` lets vLLM live beside something else."""
    check(Options(memory=0.4), GIB, machine(H100.replace("81079", "40000")))


def test_several_nodes_share_the_weights() -> None:
    """Each node holds a part."""
    check(Options(gpus=2, nodes=2), 250 * GIB, machine(TWO))
