"""Servers for guests to call: on a free port of 127.0.0.1 or ::1, one thread a connection, each doing as told."""

import socket
import threading

from harness import wait_until


class Seen:
    """A request as it arrived: raw head, and what is told of it."""

    def __init__(self, raw):
        self.raw = raw
        lines = raw.decode("latin-1").split("\r\n")
        self.line = lines[0]
        self.fields = [tuple(part.strip() for part in line.split(":", 1)) for line in lines[1:] if line]
        self.body = bytearray()

    def all(self, name):
        return [value for key, value in self.fields if key.lower() == name]


class Upstream:
    def __init__(self, host="127.0.0.1", tls=None):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.create_server((host, 0), family=family, backlog=256)
        self.host = host
        self.port = self.socket.getsockname()[1]
        self.tls = tls
        self.seen = []
        self.accepted = 0
        self.open = 0
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._connections = set()
        self.answer_with(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        with self._lock:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    # ---- what to do with a request: each is function(connection, seen, more), more() gives bytes that follow

    def answer_with(self, data):
        self.behave = lambda connection, seen, more: connection.sendall(data)

    def respond(self, function):
        """function(seen) gives the bytes to send."""
        self.behave = lambda connection, seen, more: connection.sendall(function(seen))

    def silence(self):
        self.behave = lambda connection, seen, more: more(True)

    def drip(self, data, pause):
        def behave(connection, seen, more):
            for byte in data:
                connection.sendall(bytes([byte]))
                if self._end.wait(pause):
                    return
        self.behave = behave

    def pieces(self, head, pieces, gate):
        """The head, then each piece when gate.acquire() lets it."""
        def behave(connection, seen, more):
            connection.sendall(head)
            for piece in pieces:
                gate.acquire(timeout=15)
                connection.sendall(piece)
        self.behave = behave

    def wait_closed(self, seconds=5):
        """Until every connection that was accepted has been closed by the other side."""
        wait_until(lambda: self.accepted > 0 and self.open == 0, seconds, "the end of the upstream connections")

    # ----

    def _accept(self):
        while not self._end.is_set():
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with self._lock:
                self.accepted += 1
                self.open += 1
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, raw):
        connection = raw
        try:
            raw.settimeout(30)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                connection = self.tls.wrap_socket(raw, server_side=True)
            self._requests(connection)
        except OSError:
            pass
        finally:
            connection.close()
            with self._lock:
                self.open -= 1
                self._connections.discard(raw)

    def _requests(self, connection):
        buffer = b""
        while not self._end.is_set():
            while b"\r\n\r\n" not in buffer:
                data = connection.recv(65536)
                if not data:
                    return
                buffer += data
            head, buffer = buffer.split(b"\r\n\r\n", 1)
            seen = Seen(head)
            rest = [buffer]

            def more(to_the_end=False):
                if to_the_end:
                    while connection.recv(65536):
                        pass
                    raise ConnectionError("the end")
                if rest[0]:
                    data, rest[0] = rest[0], b""
                    return data
                return connection.recv(65536)
            if seen.all("content-length"):
                length = int(seen.all("content-length")[0])
                while len(seen.body) < length:
                    data = more()
                    if not data:
                        return
                    seen.body += data
                rest[0] = bytes(seen.body[length:]) + rest[0]
                del seen.body[length:]
            elif seen.all("transfer-encoding"):
                while not seen.body.endswith(b"0\r\n\r\n"):
                    data = more()
                    if not data:
                        return
                    seen.body += data
            with self._lock:
                self.seen.append(seen)
            self.behave(connection, seen, more)
            buffer = rest[0]
            if any("close" in value.lower() for value in seen.all("connection")):
                return
