"""The official OpenAI client against the service in front of each upstream: the same promises again."""

from __future__ import annotations

import pytest

from tests.openai.test_engine import *  # noqa: F403 - the same promises, with the fixtures of this directory

pytestmark = pytest.mark.engine
