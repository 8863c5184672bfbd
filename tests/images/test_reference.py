"""Names of images: what registries take, and what they would refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akashllm.digests import Sha256
from akashllm.errors import BadName
from akashllm.images import ImageReference

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag"),
    [
        ("debian", "docker.io", "library/debian", None),
        ("debian:bookworm-slim", "docker.io", "library/debian", "bookworm-slim"),
        ("vllm/vllm-openai:v0.33.0", "docker.io", "vllm/vllm-openai", "v0.33.0"),
        ("ghcr.io/me/akashllm:0.1.0", "ghcr.io", "me/akashllm", "0.1.0"),
        ("localhost/x:1", "localhost", "x", "1"),
        ("localhost:5000/x", "localhost:5000", "x", None),
        ("127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000", "a/b/c", "t"),
        (f"me/x:1@{DIGEST}", "docker.io", "me/x", "1"),
    ],
)
def test_a_name_says_registry_repository_and_tag(
    text: str, registry: str, repository: str, tag: str | None
) -> None:
    """A reference is cut as engines cut it, and written back as it was."""
    reference = ImageReference.parse(text)

    assert (reference.registry, reference.repository, reference.tag) == (registry, repository, tag)
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "../x",
        "a/../b",
        "me/X",
        "x:",
        "x:a b",
        "x:latest\n",
        "x\n:1",
        "x@sha256:12",
        f"x@sha512:{'0' * 64}",
        "x$(id):1",
        "x;y",
        "http://host/x",
        "-x",
        "x//y",
        "host:port/x",
        "user:pw@host/x",
        "a" * 256,
        "x:" + "t" * 129,
        "[::1/x",
    ],
)
def test_a_malformed_name_is_refused_without_repeating_it(text: str) -> None:
    """What is no reference is one error that shows the right form and none of the text."""
    with pytest.raises(BadName) as failure:
        ImageReference.parse(text)

    assert failure.value.hint
    assert "$(id)" not in failure.value.message


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_an_error(text: str) -> None:
    """Parsing ends in a reference that is written back exactly, or in `BadName`."""
    try:
        reference = ImageReference.parse(text)
    except BadName:
        return
    assert str(reference) == text


def test_pinning_keeps_the_tag_for_the_reader() -> None:
    """The pinned form holds registry, repository, tag and digest."""
    reference = ImageReference.parse("ghcr.io/me/x:1")

    assert reference.pinned(Sha256.parse(DIGEST)) == f"ghcr.io/me/x:1@{DIGEST}"
