"""A TCP proxy on the loopback in front of a server, which does to its connections what `mode` says."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from urllib.parse import urlsplit

CHUNK = 65536


class Proxy:
    """pass; slow: 0.2 s before each piece of a request; refuse: closed at once; cut: in the middle of the
    server's reply; error: HTTP 500 instead of it; silent: no reply at all."""

    def __init__(self, target: str):
        self.mode, self.requests = "pass", 0
        parts = urlsplit(target)
        self._target = parts.hostname, parts.port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if self.mode == "refuse":
                return
            with socket.create_connection(self._target) as server:
                back = threading.Thread(target=self._pump, args=[server, client, "from server"], daemon=True)
                back.start()
                self._pump(client, server, "to server")
                back.join(60)

    def _pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(CHUNK):
                self.requests += way == "to server"
                if way == "to server" and self.mode == "slow":
                    time.sleep(0.2)
                if way == "to server" and self.mode == "error":
                    source.sendall(
                        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfire"
                    )
                    break
                if self.mode == "silent":
                    time.sleep(60)
                    break
                if way == "from server" and self.mode == "cut":
                    sink.sendall(piece[: len(piece) // 2])
                    break
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
