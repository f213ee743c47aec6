"""A TCP proxy in front of Redis that can be slow, and whose connections can become half-open."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator


class Proxy:
    """Forwards each connection to a port of the loopback; `delay` may be changed at any time."""

    def __init__(self, port: int) -> None:
        #: Seconds before each chunk is passed on.
        self.delay = 0.0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._stalled = False
        #: Connections up to this number are half-open for good.
        self._dead = 0
        self._accepted = 0
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def stall(self) -> None:
        """Pass on nothing any more, close nothing, and take new connections that are no better."""
        self._stalled = True

    def recover(self) -> None:
        """Forward new connections again. Of those that were there by now nobody ever hears."""
        self._dead = self._accepted
        self._stalled = False

    def close(self) -> None:
        """Close everything."""
        self._closed.set()
        while alive := [thread for thread in self._threads if thread.is_alive()]:
            for one in (self._listener, *self._sockets):
                # It wakes a thread that waits in accept or recv, close alone does not.
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            alive[0].join(0.1)
        for one in (self._listener, *self._sockets):
            one.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._accepted += 1
                self._sockets.append(client)
                self._start(self._serve, client, self._accepted)

    def _serve(self, client: socket.socket, number: int) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target), timeout=10)
        except OSError:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            return
        server.settimeout(None)
        self._sockets.append(server)
        self._start(self._pass_on, server, client, number)
        self._pass_on(client, server, number)

    def _pass_on(self, source: socket.socket, target: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                time.sleep(self.delay)
                if self._stalled or number <= self._dead:
                    self._closed.wait()
                target.sendall(chunk)
        if self._stalled or number <= self._dead:
            # Whoever closed its end is gone; the other end is not told.
            self._closed.wait()
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    """A proxy for the time of a block."""
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
