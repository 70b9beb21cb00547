"""Who may talk to the page: browsers on this machine that opened it themselves, and nobody through them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

HEADERS = (
    (
        b"content-security-policy",
        # The user interface compiles its templates in the browser, hence eval; nothing may come from or go elsewhere.
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; "
        b"form-action 'none'; frame-ancestors 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Guard:
    """ASGI middleware: refuses foreign hosts and origins, and forbids the page to load anything from elsewhere.

    A page of another site must not read the memory through the user's own browser: neither by a name that it lets
    resolve to this machine (the host is checked) nor by a web socket (the origin is checked).

    Args:
        app: What is guarded.
        hosts: Names under which the page may be asked for, without port; None allows all.
    """

    def __init__(self, app: App, hosts: Collection[str] | None = LOOPBACK) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with status 403."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._welcome(headers.get(b"host", ""), headers.get(b"origin")):
            await _refuse(scope, send)
            return

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        await self.app(scope, receive, sending)

    def _welcome(self, host: str, origin: str | None) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return (self.hosts is None or name in self.hosts) and origin in (None, f"http://{host}", f"https://{host}")
        except ValueError:
            return False


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    text = b"This page answers only to this machine, under the address that it was started with."
    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text})
