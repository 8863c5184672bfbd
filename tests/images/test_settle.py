"""Whether a provider could pull an image, asked of a registry before a lease is paid for."""

from __future__ import annotations

from pathlib import Path

import pytest

from akashllm.errors import UsageError
from akashllm.images import pullable
from akashllm.state import Home
from akashllm.testing.images import NOWHERE, pretend_pushed
from tests.images.test_registry import INDEX, OCI, pretending, reply

GIB = 1 << 30


def manifest(size: int) -> bytes:
    """An image of one layer."""
    return b'{"schemaVersion": 2, "mediaType": "%s", "layers": [{"size": %d}]}' % (OCI.encode(), size)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A machine from which nothing was pushed."""
    return Home(tmp_path / "home").prepare()


def test_a_tag_becomes_the_digest_that_a_provider_will_pull(home: Home) -> None:
    """The reference is pinned to what the registry holds now, with the size of the download."""
    with pretending(lambda handler: reply(handler, 200, manifest(3 * GIB))) as address:
        found = pullable(f"{address}/me/x:1", home, named=True)

    assert found.image.startswith(f"{address}/me/x:1@sha256:")
    assert (found.size, found.warning) == (3 * GIB, "")


@pytest.mark.parametrize(("gib", "refused"), [(15, False), (40, True)])
def test_what_takes_too_long_to_pull_is_said_before_it_is_paid(home: Home, gib: int, refused: bool) -> None:
    """Half of a provider's patience is a warning with the minutes, all of it a refusal."""
    with pretending(lambda handler: reply(handler, 200, manifest(gib * GIB))) as address:
        if refused:
            with pytest.raises(UsageError, match=r"40.0 GiB to download: 14 minutes"):
                pullable(f"{address}/me/x:1", home, named=True)
        else:
            assert "5 minutes" in pullable(f"{address}/me/x:1", home, named=True).warning


def test_an_image_for_another_machine_is_refused(home: Home) -> None:
    """Providers run linux/amd64: an index without it is no image for them."""
    body = (
        b'{"schemaVersion": 2, "mediaType": "%s", "manifests": [{"mediaType": "%s", "digest": "sha256:%s",'
        b' "size": 1, "platform": {"os": "linux", "architecture": "arm64"}}]}'
        % (INDEX.encode(), OCI.encode(), b"0" * 64)
    )
    with (
        pretending(lambda handler: reply(handler, 200, body)) as address,
        pytest.raises(UsageError, match="not made for linux/amd64"),
    ):
        pullable(f"{address}/me/x:1", home, named=True)


def test_an_image_that_is_not_there_is_refused(home: Home) -> None:
    """No such tag, or one for those who log in: a provider could not pull it either."""
    for status in (404, 403):
        with (
            pretending(lambda handler, status=status: reply(handler, status)) as address,  # type: ignore[misc]
            pytest.raises(UsageError),
        ):
            pullable(f"{address}/me/x:1", home, named=True)


def test_our_own_name_is_nobody_s_until_it_was_pushed(home: Home) -> None:
    """A local name is asked of no registry, where somebody else may have taken it; a push makes it good."""
    with pytest.raises(UsageError, match="no provider could pull it"):
        pullable("akashllm/llamacpp:0.1.0-cpu", home, named=False)

    pretend_pushed(home)
    found = pullable("akashllm/llamacpp:0.1.0-cpu", home, named=False)
    assert found.image.startswith(f"{NOWHERE}:llamacpp-")
    assert "cannot be reached" in found.warning
    assert found.size is None
