"""A stretch of network between a client and a server, as bad as a test wants it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Self


class Proxy:
    """Passes bytes between clients on a loopback port and a server.

    Attributes:
        delay: Seconds that every message takes in each direction.
        stalled: Whether nothing gets through.
        syncs: Times that a client asked for everything it was still waiting for (PostgreSQL's Sync message).
        cut: Called with all bytes a client has sent so far; true cuts the line before they arrive.
        cut_answer: Called likewise, when the server has answered; true cuts the line before the answer arrives.
    """

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self.delay = 0.0
        self.stalled = False
        self.syncs = 0
        self.cut: Callable[[bytes], bool] = lambda sent: False
        self.cut_answer: Callable[[bytes], bool] = lambda sent: False
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    server = self._connect()
                except OSError:
                    client.close()
                    continue
                self._open += [client, server]
                line = _Line(self, client, server)
                threading.Thread(target=line.up, daemon=True).start()
                threading.Thread(target=line.down, daemon=True).start()


class _Line:
    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._sent = b""
        self._server_spoke = True

    def up(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._client.recv(1 << 16):
                self._sent = (self._sent + data)[-200_000:]
                if self._proxy.cut(self._sent):
                    break
                self._proxy.syncs += self._sent[-len(data) - 4 :].count(b"S\x00\x00\x00\x04")
                if self._server_spoke:
                    self._server_spoke = False
                    time.sleep(self._proxy.delay)
                self._wait()
                self._server.sendall(data)
        self._close()

    def down(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._server.recv(1 << 16):
                if self._proxy.cut_answer(self._sent):
                    break
                self._wait()
                self._server_spoke = True
                self._client.sendall(data)
        self._close()

    def _wait(self) -> None:
        while self._proxy.stalled:
            time.sleep(0.01)

    def _close(self) -> None:
        for one in (self._client, self._server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
