"""The environment becomes settings, or a list of everything that is wrong with it."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akashllm.models import TINY
from akashllm.server.settings import BadSettings, Settings
from akashllm.server.values import Fault, seconds

KEY = "0123456789abcdef-key"


def faults(**environ: str) -> tuple[str, ...]:
    """What is wrong with an environment."""
    with pytest.raises(BadSettings) as caught:
        Settings.from_env({f"AKASHLLM_{name}": value for name, value in environ.items()})
    return caught.value.faults


def test_nothing_set_is_a_private_service() -> None:
    """Without any variable the service listens where clients of Ollama look, with the bundled model."""
    settings = Settings.from_env({})
    assert (settings.host, settings.port, settings.keys) == ("127.0.0.1", 11434, ())
    assert settings.model_file == TINY
    assert settings.served_name == "tiny:latest"


def test_every_fault_is_listed_at_once() -> None:
    """Each wrong variable is named with what is wrong and an example, in one error."""
    found = faults(
        HOST="0.0.0.0", PORT="70000", KEEP_ALIVE="5 parsecs", QUEUE="-1", LOG_FORMAT="xml", METRICS="maybe"
    )
    for name in ("PORT", "KEEP_ALIVE", "QUEUE", "LOG_FORMAT", "METRICS", "API_KEY"):
        line = next(line for line in found if line.startswith(f"AKASHLLM_{name}:"))
        assert "AKASHLLM_" in line.split(":", 1)[1] or "openssl" in line, line
    assert len(found) == 6


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "gpu.example.org", "10.0.0.1"])
def test_a_public_address_needs_a_key(host: str) -> None:
    """A service others can reach does not start without a key, unless it is told to."""
    assert any("AKASHLLM_API_KEY" in line for line in faults(HOST=host))
    assert Settings.from_env({"AKASHLLM_HOST": host, "AKASHLLM_UNAUTHENTICATED": "true"}).keys == ()
    assert Settings.from_env({"AKASHLLM_HOST": host, "AKASHLLM_API_KEY": KEY}).keys == (KEY,)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST"])
def test_loopback_needs_none(host: str) -> None:
    """An address only this machine reaches may go without a key."""
    assert Settings.from_env({"AKASHLLM_HOST": host}).loopback


@pytest.mark.parametrize(
    "key",
    [
        "short",
        "fifteen-chars-x",
        "sk-xxxxxxxxxxxxxxxxxxxx",
        "changeme-changeme-changeme",
        "YOUR_API_KEY_GOES_HERE",
        "ac-secret://my-deployment/key",
        "${AKASHLLM_API_KEY_VALUE}",
        "<put your own key here>",
        "{{ api_key_placeholder }}",
        "aaaaaaaaaaaaaaaaaaaaaa",
        "a key with spaces in it",
        "schl\u00fcssel-mit-umlaut-drin",
    ],
)
def test_a_key_that_protects_nothing_is_refused(key: str) -> None:
    """Short keys, placeholders and keys no header can carry are refused, and not repeated."""
    found = faults(API_KEY=key)
    assert len(found) == 1
    assert key not in found[0]


def test_a_key_may_come_from_a_file(tmp_path: Path) -> None:
    """A `_FILE` variable names a file whose content is the key; both at once, or no file, is a fault."""
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    assert Settings.from_env({"AKASHLLM_API_KEY_FILE": str(file)}).api_key == KEY
    assert "contradicts" in faults(API_KEY=KEY, API_KEY_FILE=str(file))[0]
    assert "cannot be read" in faults(API_KEY_FILE=str(tmp_path / "none"))[0]
    file.write_text("")
    assert any("empty" in line for line in faults(API_KEY_FILE=str(file)))
    assert "larger than any key" in faults(API_KEY_FILE="/dev/zero")[0]


def test_an_unknown_variable_is_a_warning() -> None:
    """A variable with our prefix that means nothing is probably a typing error, and is said to be one."""
    with pytest.warns(UserWarning, match="AKASHLLM_KEPALIVE"):
        Settings.from_env({"AKASHLLM_KEPALIVE": "5m", "OTHER": "x", "AKASHLLM_HOME": "/somewhere"})


def test_repr_hides_secrets() -> None:
    """Printing the settings prints no key."""
    settings = Settings(api_key=KEY, admin_key=KEY + "2")
    assert KEY not in repr(settings)
    assert KEY not in str(settings)
    assert "port=11434" in repr(settings)


def test_settings_are_frozen() -> None:
    """Nobody changes a setting after the start."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc] # that it cannot be assigned is the point


def test_the_table_has_every_setting() -> None:
    """The documentation's table has a row with a sentence for every field, and shows no secret's value."""
    rows = Settings.table()
    assert [row.variable.removeprefix("AKASHLLM_") for row in rows] == [
        item.name.upper() for item in dataclasses.fields(Settings)
    ]
    others = {row.variable for row in rows if not row.variable.startswith("AKASHLLM_")}
    assert others == {"HF_TOKEN", "HF_ENDPOINT"}, "the hub's own names, as its tools read them"
    assert all(row.doc for row in rows)


@pytest.mark.parametrize(
    ("variable", "value", "name", "expected"),
    [
        ("KEEP_ALIVE", "5m", "keep_alive", 300.0),
        ("KEEP_ALIVE", "-1", "keep_alive", -1.0),
        ("KEEP_ALIVE", "1h30m", "keep_alive", 5400.0),
        ("MODEL_ALIASES", " llama3, gpt-4o ,*", "model_aliases", ("llama3", "gpt-4o", "*")),
        (
            "CORS_ORIGINS",
            "https://a.example/,http://b:8080",
            "cors_origins",
            ("https://a.example", "http://b:8080"),
        ),
        ("METRICS", "off", "metrics", False),
        ("PORT", " 8080 ", "port", 8080),
        ("PORT", "", "port", 11434),
    ],
)
def test_values_are_read(variable: str, value: str, name: str, expected: object) -> None:
    """Each kind of value has one reader; an empty variable is an unset one."""
    assert getattr(Settings.from_env({f"AKASHLLM_{variable}": value}), name) == expected


@pytest.mark.parametrize(
    "origin", ["*", "https://*", "example.org", "https://a/path", "file:///x", "https://[x"]
)
def test_origins_are_written_out(origin: str) -> None:
    """There is no wildcard among origins."""
    assert faults(CORS_ORIGINS=origin)


def test_names_are_derived() -> None:
    """A model is served under the name it was given, the one MODEL says, or the one of its file."""
    assert Settings(model="/m/Llama-3.gguf").served_name == "Llama-3:latest"
    assert Settings(model="llama3:8b", weights="/m/x.gguf").served_name == "llama3:8b"
    assert Settings(model="/m/x.gguf", model_name="me/mine:v1").served_name == "me/mine:v1"
    assert Settings(model="llama3:8b", weights="/m/x.gguf").model_file == Path("/m/x.gguf")


@given(st.text(max_size=20))
def test_durations_never_surprise(value: str) -> None:
    """Any text is a number of seconds or a fault, nothing else."""
    with contextlib.suppress(Fault):
        assert isinstance(seconds(value), float)
