"""Images over HTTP, in both dialects."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import httpx
import ollama
import openai
import pytest

from tests.vision.conftest import KEY
from tests.vision.drawing import jpeg, noise, png, png_with

LIMITED = "limit_exceeded"


def uri(data: bytes, media_type: str = "image/png") -> str:
    """A `data:` address."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def ask(http: httpx.Client, *urls: str) -> httpx.Response:
    """A chat in OpenAI's dialect with images."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": "What is this?"}]
    parts += [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    body = {"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": parts}]}
    return http.post("/v1/chat/completions", json=body)


def test_openai_clients_send_images(url: str) -> None:
    """The official client's message with a `data:` address is answered, and its tokens are counted."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        answer = client.chat.completions.create(
            model="tiny",
            max_tokens=4,
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is this?"},
                        {"type": "image_url", "image_url": {"url": uri(png(noise(1))), "detail": "low"}},
                    ],
                }
            ],
        )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 20


def test_ollama_clients_send_images(url: str, request: pytest.FixtureRequest) -> None:
    """The official client's chat and generate take images as bytes; show tells the capability."""
    client = ollama.Client(host=url, headers={"authorization": f"Bearer {KEY}"})
    request.addfinalizer(client._client.close)
    picture = jpeg(noise(2))
    chat = client.chat(
        "tiny", [{"role": "user", "content": "What?", "images": [picture]}], options={"num_predict": 4}
    )
    plain = client.chat("tiny", [{"role": "user", "content": "What?"}], options={"num_predict": 4})
    assert (chat.prompt_eval_count or 0) > (plain.prompt_eval_count or 0) + 10
    assert client.generate("tiny", "What?", images=[picture], options={"num_predict": 4}).done
    assert "vision" in (client.show("tiny").capabilities or [])


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("http://127.0.0.1:1/x.png", "invalid_image_url"),
        ("https://example.org/x.png", "invalid_image_url"),
        ("file:///etc/passwd", "invalid_image_url"),
        ("data:image/svg+xml;base64,PHN2Zz4=", "invalid_image_url"),
        ("data:image/png;base64,????", "invalid_base64"),
        ("data:image/png;base64,", "invalid_image_format"),
        (uri(b"GIF89a" + bytes(50)), "invalid_image_format"),
        (uri(b"II*\0" + bytes(50)), "invalid_image_format"),
        (uri(b"\x89PNG\r\n\x1a\n"), "invalid_image"),
        (uri(png_with(0, 10, b"")), "invalid_image"),
        (uri(png_with(50_000, 50_000, zlib.compress(bytes(1000)))), LIMITED),
        (uri(png_with(1, 60_000, zlib.compress(bytes(1000)))), "invalid_image"),
        (uri(png(noise(1))[:60]), None),
        (uri(jpeg(noise(1))[:20]), "invalid_image"),
        (uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "invalid_image_format"),
        (uri(b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50)), "invalid_image_format"),
        (uri(b"\0\0\0\x1cftypavif" + bytes(50)), "invalid_image_format"),
        (uri(b"8BPS\0\1" + bytes(50)), "invalid_image_format"),
        (uri(b"%!PS-Adobe-3.0 EPSF-3.0\n" + bytes(50)), "invalid_image_format"),
        (uri(b"BM" + bytes(50)), "invalid_image_format"),
        (uri(b"Exif\0\0II*\0" + bytes(50)), "invalid_image_format"),
        *(
            (address, "invalid_image_url")
            for address in (
                "",
                "//127.0.0.1/x.png",
                "HTTP://127.0.0.1/x.png",
                "\thttp://127.0.0.1/x.png",
                "http://2130706433/",
                "http://0x7f.1/",
                "http://[::ffff:127.0.0.1]/",
                "http://good\\@169.254.169.254/",
                "http://metadata.google.internal/",
                "gopher://127.0.0.1:6379/_",
                "ftp://127.0.0.1/x",
                "/etc/passwd",
                "data:text/html;base64,PHN2Zz4=",
            )
        ),
    ],
)
def test_what_is_no_image_is_refused(http: httpx.Client, address: str, code: str | None) -> None:
    """Addresses are never fetched; formats, claims and sizes are checked before anything is decoded."""
    response = ask(http, address)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["code"] == code
    assert "0x" not in error["message"]
    assert "/tmp" not in error["message"]


def test_too_many_images_are_refused(http: httpx.Client) -> None:
    """The limit is named."""
    response = ask(http, *[uri(png(noise(1, 4, 4)))] * 4)
    assert response.json()["error"]["code"] == LIMITED
    assert "AKASHLLM_MAX_IMAGES" in response.json()["error"]["message"]


def test_one_pixel_is_an_image(http: httpx.Client) -> None:
    """The smallest image is answered."""
    assert ask(http, uri(png(noise(1, 1, 1)))).status_code == 200


def test_bad_images_in_ollamas_dialect(http: httpx.Client) -> None:
    """Bad base64 in Go's words; what is no image, and a bomb, as one sentence."""
    for image, words in (
        ("????", "illegal base64 data"),
        (base64.b64encode(b"GIF89a" + bytes(50)).decode(), "neither PNG, JPEG nor WebP"),
        (base64.b64encode(png_with(50_000, 50_000, b"")).decode(), "MAX_IMAGE_PIXELS"),
    ):
        message = {"role": "user", "content": "What?", "images": [image]}
        response = http.post("/api/chat", json={"model": "tiny", "messages": [message]})
        assert response.status_code == 400
        assert words in response.json()["error"]
