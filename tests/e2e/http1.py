"""A strict HTTP/1.1 client on raw sockets: sends any bytes, reads exactly one response, and takes no framing that
RFC 9112 does not allow. All reading is bounded in time."""

import re
import socket
import time

PATIENCE = 15.0


class BadFraming(AssertionError):
    """The server sent what RFC 9112 does not allow."""


class Cut(Exception):
    """The connection ended inside a response. Has what came before: `response`, whose body is a part (None if not
    even the head was whole), and `raw`, all bytes since the last response."""

    def __init__(self, text, response=None, raw=b""):
        super().__init__(text)
        self.response = response
        self.raw = raw


class Response:
    def __init__(self, version, status, reason, fields):
        self.version = version
        self.status = status
        self.reason = reason
        self.fields = fields  # [(name, value)], Latin-1
        self.body = b""
        self.trailers = []
        self.interim = []  # heads of 1xx that came before
        self.framing = None  # none, length, chunked, close

    def all(self, name):
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def one(self, name):
        values = self.all(name)
        if len(values) != 1:
            raise AssertionError(f"{len(values)} fields {name} in {self.fields}")
        return values[0]

    def get(self, name):
        values = self.all(name)
        if len(values) > 1:
            raise AssertionError(f"{len(values)} fields {name} in {self.fields}")
        return values[0] if values else None

    def keeps_alive(self):
        tokens = [token.strip().lower() for value in self.all("connection") for token in value.split(",")]
        if "close" in tokens or self.framing == "close":
            return False
        return self.version == "1.1" or "keep-alive" in tokens

    def text(self):
        return self.body.decode("latin-1")

    def __repr__(self):
        return f"<{self.status} {self.fields} {self.framing} {len(self.body)} bytes {self.body[:200]!r}>"


def encode(method, target, fields=(), body=None, host="mik.test", version="1.1", chunked=False, trailers=()):
    """A request's bytes. host=None leaves Host out; a body gets Content-Length unless chunked."""
    lines = [f"{method} {target} HTTP/{version}".encode("latin-1")]
    if host is not None:
        lines.append(b"Host: " + host.encode("latin-1"))
    for name, value in fields:
        lines.append(name.encode("latin-1") + b": " + (value if isinstance(value, bytes) else value.encode("latin-1")))
    if chunked:
        lines.append(b"Transfer-Encoding: chunked")
    elif body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    if not chunked:
        return head + (body or b"")
    data = head + (chunk(body) if body else b"") + b"0\r\n"
    for name, value in trailers:
        data += f"{name}: {value}\r\n".encode("latin-1")
    return data + b"\r\n"


def chunk(data):
    return b"%x\r\n" % len(data) + data + b"\r\n"


class Connection:
    """One client connection; `address` is (host, port)."""

    def __init__(self, address, patience=PATIENCE, receive_buffer=None, tls=None):
        self.patience = patience
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(patience)
        try:
            self.socket.connect(address)
            if tls is not None:
                self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            self.socket.close()
            raise
        self.buffer = b""
        self.deadline = None

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        self.socket.settimeout(self.patience)
        self.socket.sendall(data)

    def ask(self, method, target, fields=(), body=None, **more):
        self.send(encode(method, target, fields, body, **more))
        return self.response(method)

    def response(self, method="GET", on_body=None, patience=None):
        """Exactly one response. on_body(bytes) gets the content in pieces instead of Response.body."""
        self.deadline = time.monotonic() + (patience or self.patience)
        interim = []
        while True:
            response = self._head()
            if response.status < 100 or response.status >= 200:
                break
            interim.append(response)
        response.interim = interim
        take = on_body
        if take is None:
            pieces = []
            take = pieces.append
        try:
            self._body(response, method, take)
        except Cut as cut:
            if on_body is None:
                response.body = b"".join(pieces)
            cut.response = response
            raise
        if on_body is None:
            response.body = b"".join(pieces)
        return response

    def piece(self):
        """The next bytes that arrive, b"" at the end."""
        self.deadline = time.monotonic() + self.patience
        if not self.buffer and not self._more():
            return b""
        data, self.buffer = self.buffer, b""
        return data

    def until(self, wanted):
        """What arrives, up to a piece that brings `wanted`, or the end: a head may come alone."""
        seen = b""
        while wanted not in seen and (piece := self.piece()):
            seen += piece
        return seen

    def rest(self, patience=None):
        """Everything until the server closes. A reset ends it too."""
        self.deadline = time.monotonic() + (patience or self.patience)
        while self._more():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def ended(self, patience=None):
        """Whether the server closes within that time without another byte."""
        return self.rest(patience) == b""

    # ---- below: reading within self.deadline

    def _more(self):
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no more bytes in time; have {self.buffer[:300]!r}")
        self.socket.settimeout(left)
        try:
            data = self.socket.recv(256 * 1024)
        except (ConnectionResetError, BrokenPipeError):
            return False
        except TimeoutError:
            raise TimeoutError(f"no more bytes in time; have {self.buffer[:300]!r}") from None
        self.buffer += data
        return bool(data)

    def _line(self):
        while b"\n" not in self.buffer:
            if len(self.buffer) > 256 * 1024:
                raise BadFraming("a line without an end")
            if not self._more():
                raise Cut("the connection ended inside a line", raw=self.buffer)
        line, self.buffer = self.buffer.split(b"\n", 1)
        if not line.endswith(b"\r") or b"\r" in line[:-1] or b"\0" in line:
            raise BadFraming(f"line {line!r} does not end in CRLF alone")
        return line[:-1]

    def _fields(self):
        fields = []
        while line := self._line():
            match = re.fullmatch(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*", line, re.S)
            if match is None:
                raise BadFraming(f"field line {line!r}")
            fields.append((match.group(1).decode(), match.group(2).decode("latin-1")))
        return fields

    def _head(self):
        line = self._line()
        match = re.fullmatch(rb"HTTP/(1\.[01]) ([1-5][0-9][0-9]) ([\t -~\x80-\xff]*)", line)
        if match is None:
            raise BadFraming(f"status line {line!r}")
        fields = self._fields()
        return Response(match.group(1).decode(), int(match.group(2)), match.group(3).decode("latin-1"), fields)

    def _body(self, response, method, take):
        lengths = response.all("content-length")
        codings = response.all("transfer-encoding")
        if len(lengths) > 1 or len(codings) > 1 or (lengths and codings):
            raise BadFraming(f"framing fields {response.fields}")
        if response.status == 204 and (lengths or codings):
            raise BadFraming(f"204 with {response.fields}")
        if lengths and not re.fullmatch(r"[0-9]+", lengths[0]):
            raise BadFraming(f"content-length {lengths[0]!r}")
        if method == "HEAD" or response.status in (204, 304):
            response.framing = "none"
        elif codings:
            if codings[0].lower() != "chunked":
                raise BadFraming(f"transfer-encoding {codings[0]!r}")
            response.framing = "chunked"
            self._chunks(response, take)
        elif lengths:
            response.framing = "length"
            self._exactly(int(lengths[0]), take)
        else:
            response.framing = "close"
            while self.buffer or self._more():
                take(self.buffer)
                self.buffer = b""

    def _exactly(self, count, take):
        while count > 0:
            if not self.buffer and not self._more():
                raise Cut(f"the connection ended {count} bytes before the end of the content")
            take(self.buffer[:count])
            taken = min(count, len(self.buffer))
            self.buffer = self.buffer[taken:]
            count -= taken

    def _chunks(self, response, take):
        while True:
            line = self._line()
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", line):
                raise BadFraming(f"chunk size {line!r}")
            size = int(line, 16)
            if size == 0:
                response.trailers = self._fields()
                return
            self._exactly(size, take)
            if self._line() != b"":
                raise BadFraming("bytes after a chunk")
