"""What differs between two SDLs, which of it a lease bears, and how a revision gets into one."""

from __future__ import annotations

import pytest

from akashllm.errors import BadSdl, UsageError
from akashllm.market.changes import changes
from akashllm.plan import DeployRequest, Plan
from akashllm.planning import make_plan
from akashllm.render import render_sdl
from akashllm.sdl import environment, load, with_variable

PLAN = make_plan(DeployRequest(model="tiny", engine="llamacpp", name="tiny-llamacpp"))
SDL = render_sdl(PLAN)
BARE = """version: "2.0"
services:
  b:
    image: me/b:1   # ours
    expose:
      - port: 80
        to: [{global: true}]
  a:
    image: me/a:1
    env: [X=1, "Y=a b"]
    expose:
      - port: 80
        to: [{global: true}]
profiles:
  compute:
    c:
      resources:
        cpu: {units: 1}
        memory: {size: 512Mi}
        storage: {size: 512Mi}
  placement:
    p:
      pricing:
        c: {denom: uact, amount: 10}
deployment:
  a: {p: {profile: c, count: 1}}
  b: {p: {profile: c, count: 1}}
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("akashllm/llamacpp:", "me/akashllm/llamacpp:", "the image becomes"),
        ("env:\n", "env:\n      - NEW=1\n", "NEW is new"),
        ("AKASHLLM_MODEL=", "AKASHLLM_MODEL=x", "AKASHLLM_MODEL changes"),
        ("max_body_size: 104857600", "max_body_size: 1048576", "HTTP options"),
    ],
)
def test_what_a_lease_bears_is_told(old: str, new: str, words: str) -> None:
    """Image, environment and HTTP options are exchanged in place, and need no other lease."""
    assert old in SDL
    found = changes(SDL, SDL.replace(old, new))

    assert any(words in line for line in found.in_place), found
    assert (found.new_lease, found.nothing) == ((), False)
    assert any(line.startswith("+") for line in found.diff)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("count: 1", "count: 2", "replicas: 1 become 2"),
        ("      profile: llm\n      count: 1", "      profile: llm\n      count: 3", "replicas"),
        ("amount: ", 'amount: "77" #', "highest price becomes 77 uact a block"),
        ("        as: 80", "        as: 8080", "endpoints"),
        ("signedBy", "attributes: {region: x}\n      signedBy", "asked of the provider"),
    ],
)
def test_what_takes_another_lease_is_told(old: str, new: str, words: str) -> None:
    """Counts, prices, ports of another kind, placement and names of services are the chain's."""
    assert old in SDL
    found = changes(SDL, SDL.replace(old, new))

    assert any(words in line for line in found.new_lease), found


def test_another_service_takes_another_lease() -> None:
    """A service that is renamed is one that is gone and one that is new."""
    found = changes(SDL, SDL.replace("llm:\n", "other:\n").replace("profile: llm", "profile: other"))
    assert {"the service llm is gone", "the service other is new"} <= set(found.new_lease)


def test_nothing_changes_where_only_comments_do() -> None:
    """What a manifest does not hold is no change."""
    found = changes(SDL, SDL + "# a remark\n")
    assert found.nothing
    assert found.diff


def test_no_value_of_a_variable_is_in_a_sentence() -> None:
    """A value may be a secret that somebody wrote out: sentences have names only."""
    found = changes(BARE, BARE.replace("X=1", "X=hunter2"))
    assert found.in_place == ("a: X changes",)


def test_a_broken_file_is_refused_by_its_name() -> None:
    """Which of the two it is, and at which line."""
    with pytest.raises(BadSdl, match="the new SDL:"):
        changes(SDL, "version: nonsense")


def test_a_variable_gets_into_every_service() -> None:
    """Before the first item of a list, in a flow, and where there is no env; the rest keeps its bytes."""
    found = with_variable(BARE, "AKASHLLM_REVISION", "abc")
    sdl = load(found)

    assert environment(sdl, "a") == {"AKASHLLM_REVISION": "abc", "X": "1", "Y": "a b"}
    assert environment(sdl, "b") == {"AKASHLLM_REVISION": "abc"}
    assert "image: me/b:1   # ours\n" in found
    again = with_variable(found, "AKASHLLM_REVISION", 'x "y"')
    assert environment(load(again), "b") == {"AKASHLLM_REVISION": 'x "y"'}
    assert len(again.splitlines()) == len(found.splitlines())


def test_the_rendered_sdl_takes_a_revision_and_keeps_its_groups() -> None:
    """Only the manifest changes: the same lease bears it."""
    found = changes(SDL, with_variable(SDL, "AKASHLLM_REVISION", "abc"))
    assert found.in_place == ("llm: AKASHLLM_REVISION is new",)
    assert found.new_lease == ()


def test_where_there_is_no_place_for_a_variable_that_is_said() -> None:
    """An SDL in which it cannot be written is not changed blindly."""
    flow = BARE.replace("    image: me/b:1   # ours\n", "    image: me/b:1\n    env:\n")
    with pytest.raises(UsageError, match="cannot be set"):
        load(with_variable(flow, "A", "b"))


def test_a_plan_comes_back_from_the_record() -> None:
    """By way of JSON, with what a newer version has added left out."""
    import json

    data = json.loads(json.dumps(PLAN.as_dict()))
    assert Plan.from_dict({**data, "unheard_of": 1}) == PLAN
