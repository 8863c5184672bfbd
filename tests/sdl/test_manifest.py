"""The manifest and its hash: the same as the official tool makes, and the same as upstream's Go code."""

from __future__ import annotations

import json

import pytest

from akashllm import sdl
from akashllm.sdl.manifest import canonical_json, sort_volumes
from akashllm.sdl.types import Volume
from tests.sdl.conftest import Judge
from tests.sdl.samples import GOOD, LEASED_IP, MINIMAL


@pytest.mark.parametrize("text", [MINIMAL, LEASED_IP], ids=["minimal", "leased-ip"])
def test_the_hash_is_the_official_one(text: str, official: Judge) -> None:
    """Bytes and hash of the manifest equal the official tool's."""
    answer = official(text)
    document = sdl.load(text)
    assert sdl.manifest_json(document).decode() == answer["manifest"]
    assert sdl.manifest_hash(document) == answer["hash"]


def test_a_login_without_email_is_the_official_one(official: Judge) -> None:
    """Version 2.0 with every section, GPUs and a registry login hashes as the official tool says."""
    assert sdl.manifest_hash(sdl.load(GOOD)) == official(GOOD)["hash"]


def test_go_escapes_html() -> None:
    """Go's encoder writes <, >, & and the two line separators as escapes; everything else stays."""
    assert (
        canonical_json(["<a>&\u2028\u2029é😀\x7f"])
        == '["\\u003ca\\u003e\\u0026\\u2028\\u2029é😀\x7f"]'.encode()
    )


def test_html_in_a_value_hashes_as_the_official_tool_says(official: Judge) -> None:
    """A value with <, > and & does not change the agreement."""
    text = GOOD.replace("MODEL=tiny", '"MODEL=<a>&b \\"quoted\\" \\\\ \\n é 😀"')
    assert sdl.manifest_hash(sdl.load(text)) == official(text)["hash"]


def test_empty_lists_are_null() -> None:
    """Command, args, env and hosts without entries are null, endpoints are not."""
    service = sdl.manifest(sdl.load(MINIMAL))[0]["services"][0]
    assert [service[key] for key in ("command", "args", "env", "credentials")] == [None] * 4
    assert service["expose"][0]["hosts"] is None
    assert "params" not in service


def test_shared_profiles_merge_in_version_2_1_only() -> None:
    """In 2.1 two services of one profile are one unit whose counts add up; in 2.0 each is its own."""
    merged = sdl.group_specs(sdl.load(LEASED_IP))[0]["resources"]
    assert [(unit["resource"]["id"], unit["count"]) for unit in merged] == [(1, 3)]
    single = sdl.group_specs(sdl.load(LEASED_IP.replace('"2.1"', '"2.0"')))[0]["resources"]
    assert [(unit["resource"]["id"], unit["count"]) for unit in single] == [(1, 1), (2, 2)]


def test_group_specs_carry_price_and_auditors() -> None:
    """The group's price has Go's 18 decimals, and the auditors and attributes are there."""
    spec = sdl.group_specs(sdl.load(GOOD))[0]
    assert spec["resources"][0]["price"] == {"denom": "uact", "amount": "1000.000000000000000000"}
    assert spec["requirements"]["attributes"] == [{"key": "location-region", "value": "na-us-west"}]
    assert spec["requirements"]["signed_by"]["any_of"]


def test_leased_ips_are_numbered_by_their_last_use() -> None:
    """An IP used twice carries the number of its last place, as upstream counts."""
    exposes = sdl.manifest(sdl.load(LEASED_IP))[0]["services"][0]["expose"]
    numbers = {expose["port"]: expose["endpointSequenceNumber"] for expose in exposes}
    assert numbers == {80: 2, 8053: 2, 9000: 0}


def test_equal_volumes_keep_the_order_go_leaves_them_in() -> None:
    """Two ephemeral volumes of one size swap under upstream's comparison; persistent ones sort by name."""
    plain = [Volume(name="a", size=1), Volume(name="b", size=1)]
    assert [volume.name for volume in sort_volumes(plain)] == ["b", "a"]
    kept = [Volume(name="b", size=1, persistent=True), Volume(name="a", size=1, persistent=True)]
    assert [volume.name for volume in sort_volumes(kept)] == ["a", "b"]


def test_the_manifest_is_plain_json() -> None:
    """The manifest survives JSON unchanged, so that it can be sent as it is."""
    groups = sdl.manifest(sdl.load(GOOD))
    assert json.loads(sdl.manifest_json(sdl.load(GOOD))) == groups
