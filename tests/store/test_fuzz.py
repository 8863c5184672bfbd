"""Whatever stands in a manifest or a layer, it is a model or a reason, never a crash and never a path."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import given
from hypothesis import strategies as st

from akashllm.errors import StoreFailed
from akashllm.names import ModelName
from akashllm.server.models.described import described, header_of
from akashllm.server.models.manifest import Manifest
from akashllm.server.models.store import ModelStore
from akashllm.server.wire.ollama import catalogue, showing
from tests.store.build import model

T = TypeVar("T")

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
digests = st.sampled_from(
    [
        f"sha256:{'0' * 64}",
        "sha256:../x",
        "sha256-" + "1" * 64,
        "sha256:" + "A" * 64,
        f"sha256:{'0' * 64}\n",
        "",
    ]
)
layers = st.fixed_dictionaries(
    {}, optional={"mediaType": st.text(max_size=9) | values, "digest": digests | values, "size": values}
)
manifests = st.fixed_dictionaries(
    {},
    optional={
        "schemaVersion": values,
        "config": layers | values,
        "layers": st.lists(layers, max_size=3) | values,
    },
)


def tried(work: Callable[[], T]) -> tuple[T | None, str]:
    """What came of it, or the reason why nothing did."""
    try:
        return work(), ""
    except StoreFailed as error:
        return None, str(error)


@given(st.binary(max_size=200) | manifests.map(lambda found: json.dumps(found).encode()))
def test_any_manifest(data: bytes) -> None:
    """It is read or refused; what is read has only digests that are digests, and sizes that are sizes."""
    found, reason = tried(lambda: Manifest.read(data))
    assert found or reason
    if found is None:
        return
    for layer in found.files:
        assert layer.sha256.filename == "sha256-" + layer.digest.removeprefix("sha256:")
        assert layer.size >= 0


@given(
    params=values,
    messages=values,
    template=st.text(max_size=40) | st.just("{{ .Tools }}"),
    system=st.binary(max_size=40),
    config=values,
    weights=st.binary(min_size=1, max_size=80)
    | st.binary(max_size=40).map(lambda tail: b"GGUF\x03\0\0\0" + tail),
    options=st.dictionaries(st.text(max_size=8), values, max_size=3),
)
def test_any_layers(
    params: Any,
    messages: Any,
    template: str,
    system: bytes,
    config: Any,
    weights: bytes,
    options: dict[str, Any],
) -> None:
    """A model of any layers is listed and shown, or left out with a reason."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model(
            root,
            "m",
            weights,
            params=params,
            messages=messages,
            template=template,
            system=system,
            config=config,
        )
        store = ModelStore(root)
        found, reason = tried(lambda: store.get(ModelName("m")))
        if found is None:
            assert "delete it, or pull it again" in reason
            assert store.list() == []
            return
        info = described(found)
        shown = json.loads(showing.show(found, info, header_of(found.weights), None, options=options))
        assert shown["modelfile"].startswith("# Modelfile")
        assert catalogue.stored(found, info).name == "m:latest"
