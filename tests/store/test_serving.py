"""From a registry to an answer: the service as an image runs it, its store, its engine."""

from __future__ import annotations

from collections.abc import Iterator

import ollama
import pytest

pytestmark = pytest.mark.engine


@pytest.fixture
def admin(service_url: str, service_admin_key: str) -> Iterator[ollama.Client]:
    """Ollama's client with the admin key, which opens everything else too."""
    client = ollama.Client(host=service_url, headers={"Authorization": f"Bearer {service_admin_key}"})
    yield client
    client._client.close()


def test_a_pulled_model_answers_at_once(admin: ollama.Client) -> None:
    """Pulled, it is listed, shown and asked; in memory it has its manifest's digest; deleted, it is gone."""
    name = "llama3.2:1b"
    admin.pull(name)
    listed = {model.model: model for model in admin.list().models}

    answer = admin.chat(name, [{"role": "user", "content": "Say hello."}], options={"num_predict": 8})
    shown, running = admin.show(name), {model.model: model for model in admin.ps().models}
    admin.copy(name, "me/other")
    other = admin.generate("me/other", "Hi", options={"num_predict": 4})
    admin.delete(name)
    admin.delete("me/other")

    assert answer.model == name
    assert answer.eval_count
    assert other.eval_count
    assert listed[name].digest == running[name].digest
    assert shown.template
    assert "SYSTEM You are brief." in (shown.modelfile or "")
    assert "completion" in (shown.capabilities or [])
    with pytest.raises(ollama.ResponseError, match=r"model 'llama3\.2:1b' not found"):
        admin.chat(name, [{"role": "user", "content": "Say hello."}])
    while name in {model.model for model in admin.ps().models}:
        assert admin.list().models
