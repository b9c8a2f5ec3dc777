"""The web page: Gradio's Blocks at ``/ui/``, one page a language, over the HTTP API of the same server.

The page asks nothing of anyone but the server: no analytics, no fonts or scripts from elsewhere, and a content policy
that keeps a model's answer from loading pictures. The browser keeps the conversations; Gradio holds the fields of a
page, key and conversation among them, in the server's memory until the page is closed.
"""

import asyncio
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from src.errors import UserError
from src.serving.web.texts import LANGUAGES, language_of, texts_of

if TYPE_CHECKING:
    from fastapi import FastAPI
    from gradio import Blocks
    from gradio.themes import Base
    from starlette.requests import Request

FOLDER = Path(__file__).parent
FONTS = ("system-ui", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "sans-serif")
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="4" fill="#f97316"/>'
    '<path d="M9 2 4 9h3l-1 5 6-7H8z" fill="white"/></svg>'
)
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
MAX_BODY_BYTES = 4 << 20  # an event carries the conversations that the browser keeps
BODY_TIMEOUT_S = 30.0
MAX_SESSIONS = 64  # pages whose fields are kept, in each language; beyond that the one used longest ago is forgotten
# What the page asks of Gradio, which has much more: files and addresses fetched for anybody, uploads, recordings.
ALLOWED = re.compile(
    r"/ui/(zh|(zh/)?(config|theme\.css|(assets|static|svelte)/.*|"
    r"gradio_api/(queue/(join|data)|run/predict|cancel|heartbeat/\w+|startup-events|theme\.css))?)"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
}


def mount(app: "FastAPI", base_url: str, own: bool = False) -> None:
    """Put the page at ``/ui/`` (English) and ``/ui/zh/`` (Chinese) of an app, and send ``/`` to the browser's language.

    Args:
        base_url: of the OpenAI-compatible API that the page talks to, with or without ``/v1``.
        own: whether that is this very server, which no proxy lies before.

    Raises:
        UserError: Gradio is not installed.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when it is imported
    try:
        import gradio as gr
    except ImportError as error:
        raise UserError("the web page needs Gradio: pip install -e '.[serve]', or leave web=true out") from error
    from starlette.responses import RedirectResponse, Response

    # The longer path first: routes are tried in order.
    app.add_route("/ui/zh", _with_slash, include_in_schema=False)
    for language, path in (("zh", "/ui/zh"), ("en", "/ui")):
        gr.mount_gradio_app(
            app,
            build(language, base_url, own),
            path=path,
            footer_links=[],
            run_history=False,
            show_error=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            theme=theme(),
            head=head(language),
        )

    app.add_middleware(PageGuard)  # of the whole app, because Gradio's own would be around that of its part

    async def to_page(request: "Request") -> RedirectResponse:
        language = language_of(request.headers.get("accept-language", ""))
        # relative, so that it holds behind a proxy that adds a prefix
        return RedirectResponse("ui/" if language == "en" else f"ui/{language}/", headers={"vary": "accept-language"})

    async def icon(request: "Request") -> Response:
        return Response(ICON, media_type="image/svg+xml")

    app.add_route("/favicon.ico", icon, include_in_schema=False)
    app.add_route("/", to_page, include_in_schema=False)
    app.add_route("/ui", _with_slash, include_in_schema=False)


def build(language: str, base_url: str, own: bool = False) -> "Blocks":
    """The page in one language of `LANGUAGES`."""
    import gradio as gr

    from src.serving.web.panel import Page, Panel, Tab
    from src.serving.web.tabs.chat import ChatTab
    from src.serving.web.tabs.compare import CompareTab
    from src.serving.web.tabs.complete import CompleteTab
    from src.serving.web.tabs.extraction import ExtractionTab
    from src.serving.web.tabs.instruction import InstructionTab

    page = Page(texts_of(language), base_url, own)
    with gr.Blocks(title=page.texts("title"), analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(_top(language), elem_id="top")
        with gr.Row():
            with gr.Column(scale=3, min_width=300) as left:
                pass
            with gr.Column(scale=1, min_width=300, elem_id="settings"):
                panel = Panel(page)
        with left, gr.Tabs():
            kinds = (ChatTab, InstructionTab, ExtractionTab, CompleteTab, CompareTab)
            tabs: list[Tab] = [kind(page) for kind in kinds]
        for tab in tabs:
            tab.wire(blocks, panel)
        panel.on_models(blocks.load, also=[picker for tab in tabs for picker in tab.models])
        # pages that say nothing when they are closed, and those of strangers, are ended by the number of sessions
        blocks.unload(_forgetting(blocks))
    blocks.state_session_capacity = MAX_SESSIONS
    return blocks


def _forgetting(blocks: "Blocks") -> Any:
    """What is called when a page is closed: Gradio would keep its fields for good."""
    import gradio as gr

    async def forget(request: gr.Request) -> None:
        await asyncio.sleep(1)  # what ran on the page has ended by then, and does not bring it back
        blocks.state_holder.session_data.pop(str(request.session_hash), None)
        blocks.state_holder.time_last_used.pop(str(request.session_hash), None)

    return forget


def theme() -> "Base":
    """Gradio's, with fonts that a machine has itself, and small print that can be read."""
    import gradio as gr

    look = gr.themes.Default(font=list(FONTS), font_mono=["ui-monospace", "monospace"])
    return look.set(
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
    )


def head(language: str) -> str:
    """What goes into the page's head: looks (Gradio's `css` reaches inner parts only), keys, the language of Gradio."""
    looks, keys = ((FOLDER / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    code = "zh-CN" if language == "zh" else language
    own = f'Object.defineProperty(navigator, "language", {{ get: () => "{code}" }});'
    return f"<style>{looks}</style>\n<script>{own}\n{keys}</script>"


def _top(language: str) -> str:
    texts = texts_of(language)
    (other,) = set(LANGUAGES) - {language}
    link = "zh/" if other == "zh" else "../"
    return (
        f'<div class="top"><h1>{texts("title")}</h1><a id="other-language" href="{link}" lang="{other}" '
        f'title="{texts("other_language_hint")}">{texts("other_language")}</a></div>'
    )


class PageGuard:
    """ASGI middleware around all below ``/ui/``: only what the page needs, from its own pages only, of limited size.

    It drops Gradio's CORS headers, which would let any web site read the page of a server with a public name.
    """

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/ui/"):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not ALLOWED.fullmatch(scope["path"]):
            await _refuse(send, 404)
        elif not _is_own(headers):
            await _refuse(send, 403)
        elif int(headers.get(b"content-length") or 0) > MAX_BODY_BYTES:
            await _refuse(send, 413)
        else:
            await self.app(scope, _limited(receive), _guarded(send))


def _is_own(headers: dict[bytes, bytes]) -> bool:
    """Whether a request comes from a page of this server, or from no page. A proxy may have changed the host."""
    origin = headers.get(b"origin")
    same_site = headers.get(b"sec-fetch-site") == b"same-origin"
    return origin is None or same_site or urlsplit(origin).netloc == headers.get(b"host", b"")


def _limited(receive: Any) -> Any:
    """The body's messages; one that grows too large or comes too slowly is cut off, and what is left is no JSON."""
    received, end = 0, asyncio.get_running_loop().time() + BODY_TIMEOUT_S
    whole = False

    async def limited() -> Any:
        nonlocal received, whole
        try:
            async with asyncio.timeout_at(None if whole else end):
                message = await receive()
        except TimeoutError:
            return {"type": "http.disconnect"}
        received += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        return message if received <= MAX_BODY_BYTES else {"type": "http.disconnect"}

    return limited


def _guarded(send: Any) -> Any:
    async def guarded(message: Any) -> None:
        if message["type"] == "http.response.start":
            own = [pair for pair in message["headers"] if not pair[0].lower().startswith(b"access-control-")]
            message = {**message, "headers": [*own, *HEADERS.items()]}
        await send(message)

    return guarded


async def _refuse(send: Any, status: int) -> None:
    headers = [(b"content-length", b"0"), (b"connection", b"close")]  # a body may be on its way
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _with_slash(request: "Request") -> Any:
    """The same address with a slash at its end, from which the page's own addresses count."""
    from starlette.responses import RedirectResponse

    return RedirectResponse(request.url.path.rpartition("/")[2] + "/")
