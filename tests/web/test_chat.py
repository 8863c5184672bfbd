"""The chat page, in a real browser against the real service."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from starlette.testclient import TestClient

from akashllm.server.app import create_app
from akashllm.server.settings import Settings
from akashllm.server.web import chat
from akashllm.testing.engine import ScriptedEngine
from tests.web.browser import Tab, browser

ROOT = Path(__file__).parents[2]
HERE = "http://127.0.0.1"


@pytest.fixture(scope="session")
def chromium() -> str:
    """A browser's path. If none can be had, that is a failure: AKASHLLM_SKIP_BROWSER=1 allows it."""
    if os.environ.get("AKASHLLM_SKIP_BROWSER") == "1":
        pytest.skip("AKASHLLM_SKIP_BROWSER=1: the chat page is not looked at")
    found = subprocess.run(
        [ROOT / "scripts/chromium"], capture_output=True, text=True, timeout=600, check=False
    )
    assert found.returncode == 0, f"no browser (AKASHLLM_SKIP_BROWSER=1 leaves it out):\n{found.stderr}"
    return found.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def tab(chromium: str) -> Iterator[Tab]:
    """One tab for all tests: each loads the page anew."""
    with browser(chromium) as tab:
        yield tab


@pytest.fixture
def page(tab: Tab, service_url: str, service_key: str) -> Tab:
    """The page, opened as `akashllm open` does."""
    tab.open("about:blank")
    tab.events.clear()
    tab.open(f"{service_url}/chat#key={service_key}")
    tab.until("!document.getElementById('model').disabled")
    return tab


def counted(url: str, key: str) -> str:
    """What the service counts."""
    return requests.get(f"{url}/metrics", headers={"Authorization": f"Bearer {key}"}, timeout=10).text


def ask(page: Tab, text: str) -> None:
    """Type and send."""
    page.js("document.getElementById('prompt').focus()")
    page.type(text)
    page.press("Enter")


def test_the_policy_allows_what_is_in_the_page_and_nothing_else() -> None:
    """Both digests are those of the one style and the one script; nothing is loaded from anywhere."""
    body, headers = chat()
    text = body.decode()
    for kind in ("style", "script"):
        (inside,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in headers["content-security-policy"]
    assert headers["content-security-policy"].startswith("default-src 'none'; ")
    assert "unsafe" not in headers["content-security-policy"]
    assert "://" not in text
    assert not re.search(r"\s(?:src|href|style|on\w+)=", text)
    assert "innerHTML" not in text


def test_the_page_needs_no_key_and_can_be_turned_off() -> None:
    """It holds nothing to protect; without it the path does not exist, even with a key."""
    for on in (True, False):
        settings = Settings(api_key="a-key-for-the-tests-of-pages", chat_page=on)
        with TestClient(create_app(settings, ScriptedEngine()), base_url=HERE) as client:
            assert client.get("/chat").status_code == (200 if on else 404)
            assert client.get("/v1/models").status_code == 401


def test_a_key_in_the_fragment_reaches_no_server_as_an_address(page: Tab, service_key: str) -> None:
    """It is gone from the address bar and the history at once, is stored nowhere, and works."""
    assert page.js("location.href").endswith("/chat")
    assert page.js("document.getElementById('model').value") == "tiny"
    urls = [one["request"]["url"] for one in page.said("Network.requestWillBeSent")]
    assert any(url.endswith("/v1/models") for url in urls)
    assert not [url for url in urls if service_key in url]
    assert page.js("document.cookie + JSON.stringify(localStorage) + JSON.stringify(sessionStorage)") == "{}{}"
    entries = page.call("Page.getNavigationHistory")["entries"]
    assert not [entry for entry in entries if service_key in entry["url"]]


@pytest.mark.engine
def test_an_answer_streams_and_the_next_question_has_a_past(page: Tab) -> None:
    """A question, its answer with its time, another question: the second request carries all three turns."""
    # Greedy, so that the answers are the same each time.
    page.js(
        "const real = fetch; sent = []; window.fetch = (url, options) => {"
        " const body = JSON.parse(options.body); sent.push(body);"
        " return real(url, {...options, body: JSON.stringify({...body, temperature: 0})});"
        "}"
    )
    ask(page, "What is the capital of France?")
    page.until("running === null && document.querySelector('.assistant .meta')")
    assert "Paris" in page.js("document.querySelector('.assistant > .text').textContent")
    assert re.search(r"\d+ tokens in [\d.]+ s", page.js("document.querySelector('.meta').textContent"))

    ask(page, "What is <img src=x onerror=alert(1)> 7 + 8?")
    page.until("running === null && document.querySelectorAll('.assistant .meta').length === 2")
    assert page.js("document.querySelectorAll('.user .text').length") == 2
    assert page.js("document.querySelectorAll('#log img').length") == 0
    assert page.js("sent.map(one => one.messages.map(turn => turn.role).join())") == [
        "user",
        "user,assistant,user",
    ]
    assert page.js("turns.map(one => one.role).join()") == "user,assistant,user,assistant"
    assert page.said("Runtime.exceptionThrown") == []


def reply(content: str) -> str:
    """Script of a page: what the service answers from now on."""
    pieces = [
        {"choices": [{"delta": {"content": content}}]},
        {"choices": [], "usage": {"completion_tokens": 1}},
    ]
    body = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces) + "data: [DONE]\n\n"
    return f"window.fetch = async () => new Response({json.dumps(body)})"


def test_a_question_without_an_answer_is_not_asked_again(page: Tab) -> None:
    """A model may say nothing: two questions in a row would be no chat."""
    for content, roles in (("", ""), ("Yes.", "user,assistant"), ("", "user,assistant")):
        page.js(reply(content))
        page.js("document.querySelectorAll('.meta').forEach(one => one.remove())")
        ask(page, "Is it so?")
        page.until("running === null && document.querySelector('.assistant .meta')")
        assert page.js("turns.map(one => one.role).join()") == roles


def test_a_new_chat_knows_nothing_of_the_answer_it_cut_short(page: Tab) -> None:
    """What still comes of the old one belongs to the old one."""
    page.js(
        "window.fetch = async (_, {signal}) => new Response(new ReadableStream({start(stream) {"
        ' stream.enqueue(new TextEncoder().encode(\'data: {"choices":[{"delta":{"content":"Once"}}]}\\n\\n\'));'
        " signal.addEventListener('abort', () => stream.error(signal.reason));"
        "}}))"
    )
    ask(page, "Tell me a story.")
    page.until("document.querySelector('.assistant > .text')?.textContent === 'Once'")
    page.js("document.getElementById('fresh').click()")
    page.until("running === null")
    assert page.js("turns.length") == 0


@pytest.mark.engine
def test_stop_ends_the_generation_at_the_service_too(page: Tab, service_url: str, service_key: str) -> None:
    """The button appears while an answer comes; pressed, the slot is free again and what came is kept."""
    # Pressed by the page itself at the first token: no answer is so short that it has ended by then.
    page.js(
        "shown = false; new MutationObserver((_, watch) => {"
        " if (!document.querySelector('.assistant > .text')?.textContent) return;"
        " watch.disconnect(); shown = !stop.hidden; stop.click();"
        "}).observe(log, {subtree: true, childList: true, characterData: true})"
    )
    ask(page, "Once upon a time")
    page.until("running === null && document.querySelector('.assistant .meta')")

    assert page.js("document.querySelector('.meta').textContent") == "stopped"
    assert page.js("shown && stop.hidden")
    assert page.js("turns.at(-1).role") == "assistant"
    until = time.monotonic() + 30
    while "akashllm_slots_used 0.0" not in counted(service_url, service_key):
        assert time.monotonic() < until
    page.js("document.getElementById('fresh').click()")
    assert page.js("turns.length + document.querySelectorAll('.user').length") == 0


def test_a_wrong_key_is_said_and_a_right_one_typed_in_works(
    tab: Tab, service_url: str, service_key: str
) -> None:
    """Without a key the page asks for it; with a wrong one too; no question can be sent before."""
    tab.open("about:blank")
    tab.open(f"{service_url}/chat")
    tab.until("document.querySelector('.empty').textContent.includes('wants its API key')")
    assert tab.js("document.activeElement.id") == "key"
    assert tab.js("document.getElementById('send').disabled") is True

    for key, works in (("not-the-key", False), (service_key, True)):
        tab.js("document.getElementById('key').value = ''; document.getElementById('key').focus()")
        tab.type(key)
        tab.js("document.getElementById('key').dispatchEvent(new Event('change'))")
        tab.until(f"document.getElementById('model').disabled === {str(not works).lower()}")
    assert "Nothing leaves this page" in tab.js("document.querySelector('.empty').textContent")


def test_the_page_can_reach_nobody_else(page: Tab) -> None:
    """What a hostile answer could try: another host, code from text, a frame, an image."""
    page.js(
        "blocked = []; document.addEventListener('securitypolicyviolation',"
        " event => blocked.push(event.effectiveDirective))"
    )
    assert page.js("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    page.js(
        "const script = document.createElement('script'); script.textContent = 'window.bad = 1';"
        "document.body.append(script);"
        "document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:9/x.png'}))"
    )
    page.until("blocked.length === 3")
    assert page.js("blocked.sort().join()") == "connect-src,img-src,script-src-elem"
    assert page.js("window.bad") is None
