"""`GET /chat`: a page to talk to the model. It holds no secret, so it needs no key; what it calls does."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from akashllm.errors import NoSuchRoute
from akashllm.server import web
from akashllm.server.guard.auth import public

router = APIRouter()


@router.api_route("/chat", methods=["GET", "HEAD"])
@public
async def chat(request: Request) -> Response:
    """The page, unless the operator has turned it off."""
    if not request.app.state.settings.chat_page:
        raise NoSuchRoute("404 page not found")
    page = web.chat()
    return Response(page.body, media_type="text/html; charset=utf-8", headers=page.headers)
