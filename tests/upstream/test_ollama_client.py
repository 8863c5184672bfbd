"""The `ollama` package against the service in front of each upstream: what holds over llama.cpp holds here."""

from __future__ import annotations

import pytest

from tests.ollama.test_client import *  # noqa: F403 - the same promises, with the fixtures of this directory

pytestmark = pytest.mark.engine
