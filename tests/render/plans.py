"""Plans made by hand, and a strategy for any plan that a person could come to."""

from __future__ import annotations

from typing import get_args

from hypothesis import strategies as st

from akashllm.plan import EngineName, GpuChoice, ModelSource, Plan

DIGEST = "@sha256:" + "0123456789abcdef" * 4
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))


def plan(**changes: object) -> Plan:
    """A plan for the bundled model on this machine's kind of container, with changes."""
    values: dict[str, object] = {
        "name": "tiny",
        "engine": "llamacpp",
        "model": ModelSource(alias="tiny", kind="bundled"),
        "image": f"akashllm/llamacpp:0.1.0{DIGEST}",
        "port": 8000,
        "env": (("AKASHLLM_MODEL", "tiny"),),
        "secrets": ("AKASHLLM_API_KEY",),
        "context": 2048,
        "concurrency": 4,
        "quant": "Q8_0",
        "memory": (),
        "cpu_units": 2.0,
        "ram_gib": 2,
        "disk_gib": 2,
        "volume_gib": 0,
        "volume_class": None,
        "shm_gib": 0,
    }
    return Plan(**(values | changes))  # type: ignore[arg-type]  # the field types are those of the values above


GPU = st.builds(
    GpuChoice,
    model=st.sampled_from(["h100", "h200", "a100", "l40s", "rtx4090", "t4", "pro6000se"]),
    ram_gib=st.sampled_from([16, 24, 40, 48, 80, 141]),
    count=st.sampled_from([1, 2, 4, 8]),
    interface=st.sampled_from([None, "pcie", "sxm"]),
)
ENV = st.dictionaries(
    st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True).filter(
        lambda name: name not in {"HF_TOKEN", "AKASHLLM_API_KEY"}
    ),
    TEXT.filter(lambda value: not value.startswith("${")),
    max_size=4,
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any plan within the market's limits."""
    volume = draw(st.integers(0, 2000))
    return plan(
        name=draw(TEXT),
        engine=draw(st.sampled_from(get_args(EngineName))),
        model=ModelSource(alias=draw(TEXT), kind="hf"),
        image=draw(st.sampled_from([f"akashllm/vllm:0.1.0{DIGEST}", "registry.example:5000/a/b:1", "a/b:v2"])),
        port=draw(st.integers(1, 65535)),
        env=tuple(sorted(draw(ENV).items())),
        secrets=draw(st.sampled_from([(), ("AKASHLLM_API_KEY",), ("AKASHLLM_API_KEY", "HF_TOKEN")])),
        cpu_units=draw(st.sampled_from([0.1, 0.5, 1.0, 1.25, 2.0, 8.0, 64.0, 0.29, 1.001])),
        ram_gib=draw(st.integers(1, 1024)),
        disk_gib=draw(st.integers(1, 500)),
        volume_gib=volume,
        volume_class=draw(st.sampled_from(["beta1", "beta2", "beta3"])) if volume else None,
        shm_gib=draw(st.integers(0, 64)),
        gpus=tuple(draw(st.lists(GPU, max_size=6))),
        **draw(
            st.one_of(st.builds(dict, replicas=st.integers(1, 20)), st.builds(dict, nodes=st.integers(2, 8)))
        ),
        region=draw(st.one_of(st.none(), TEXT)),
        audited=draw(st.booleans()),
        max_uact_block=draw(st.one_of(st.none(), st.floats(0.01, 900_000).map(lambda cap: round(cap, 2)))),
    )
