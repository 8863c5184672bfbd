"""What is remembered of a push: private, whole, and never guessed."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from akashllm.cli.app import run
from akashllm.digests import Sha256
from akashllm.errors import StateError
from akashllm.images import ImageReference, Pushed, local_name, pinned, pins, remember, settle
from akashllm.state import Home
from tests.images.conftest import free_port
from tests.images.test_registry import image

DIGEST = "sha256:" + "a" * 64


def pushed(tag: str, digest: str = DIGEST) -> Pushed:
    """A push of a tag."""
    return Pushed(ImageReference("ghcr.io/me/x", tag), Sha256.parse(digest), 1.0)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A directory of its own."""
    return Home(tmp_path / "home").prepare()


def test_a_push_is_found_again_by_both_its_names(home: Home) -> None:
    """The name a plan uses and the name at the registry both become the digest; others stay as they are."""
    remember(home, "akashllm/vllm:1", pushed("vllm-1"), "linux/amd64")

    expected = f"ghcr.io/me/x:vllm-1@{DIGEST}"
    assert pinned("akashllm/vllm:1", home) == expected
    assert pinned("ghcr.io/me/x:vllm-1", home) == expected
    assert pinned("akashllm/vllm:2", home) == "akashllm/vllm:2"
    assert pinned(f"akashllm/vllm:1@sha256:{'b' * 64}", home) == f"akashllm/vllm:1@sha256:{'b' * 64}"


def test_the_last_push_counts(home: Home) -> None:
    """Pushing an image again replaces its digest and no other."""
    remember(home, "a:1", pushed("1"), "linux/amd64")
    remember(home, "b:1", pushed("b"), "linux/amd64")
    remember(home, "a:1", pushed("1", "sha256:" + "c" * 64), "linux/amd64")

    assert pinned("a:1", home).endswith("c" * 64)
    assert pinned("b:1", home).endswith("a" * 64)
    assert (home.root / "images.json").stat().st_mode & 0o777 == 0o600


def test_pushes_at_the_same_time_are_all_kept(home: Home) -> None:
    """Two builds that end at once do not lose each other's digest."""
    with ThreadPoolExecutor(8) as pool:
        for n in range(16):
            pool.submit(remember, home, f"a:{n}", pushed(str(n)), "linux/amd64")

    assert set(pins(home)) == {f"a:{n}" for n in range(16)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": 1}',
        '{"format": 99, "images": {}}',
        '{"format": 1, "images": {"a": {"reference": "x"}}}',
        json.dumps(
            {
                "format": 1,
                "images": {
                    "a:1": {"reference": "../x", "digest": DIGEST, "platform": "", "pushed_at": ""},
                },
            }
        ),
    ],
)
def test_a_damaged_record_is_refused(home: Home, text: str) -> None:
    """What cannot be read is an error with a way out: never an image without its digest."""
    file = home.root / "images.json"
    file.write_text(text)
    file.chmod(0o600)

    with pytest.raises(StateError) as failure:
        pinned("a:1", home)
    assert failure.value.hint


def test_a_record_that_others_can_read_or_redirect_is_refused(home: Home, tmp_path: Path) -> None:
    """Wide permissions and symbolic links are refused: the record says which code is deployed."""
    file = home.root / "images.json"
    file.write_text('{"format": 1, "images": {}}')
    file.chmod(0o644)
    with pytest.raises(StateError, match="other users"):
        pins(home)

    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match="symbolic link"):
        pins(home)


def test_an_image_that_was_named_is_pinned_by_its_registry(home: Home, registry: str) -> None:
    """A registry that answers pins the image; one that does not leaves the tag and says why."""
    digest = image(registry, "me/settled", "1", [b"x"])
    away = f"127.0.0.1:{free_port()}/me/x:1"

    assert settle(f"{registry}/me/settled:1", home, ask=True) == (f"{registry}/me/settled:1@{digest}", "")
    assert settle(away, home, ask=True) == (
        away,
        f"{away} stays unpinned: {away.split('/', maxsplit=1)[0]} cannot be reached",
    )
    assert "build --push" in settle("akashllm/vllm:1", home, ask=False)[1]


def test_render_writes_the_digest_of_the_push(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An SDL names the pushed image by digest; before the push it has the tag, and a warning."""
    monkeypatch.setenv("AKASHLLM_HOME", str(home.root))
    command = ["render", "--model", "llama3", "--engine", "vllm", "--output", str(tmp_path)]
    assert run(command) == 0
    assert "warning: akashllm/vllm" in capsys.readouterr().err

    remember(home, str(local_name("vllm", cpu=False)), pushed("vllm-1"), "linux/amd64")
    assert run(command) == 0

    assert "warning" not in capsys.readouterr().err
    assert f"ghcr.io/me/x:vllm-1@{DIGEST}" in (tmp_path / "sdl/vllm-llama3.yaml").read_text()
