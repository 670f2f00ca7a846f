"""Collectors of traces: a fake one over HTTP that takes what it gets apart, and a real one where it has been built."""

import os
import re
import signal
import struct
import subprocess
import threading

from harness import ROOT, free_port, temporary_folder, wait_until
from upstream import Upstream

KINDS = {1: "internal", 2: "server", 3: "client"}


def fields(data):
    """(number, value) of a protobuf message: integers, or bytes."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7f) << shift
            shift += 7
            if byte < 0x80:
                return value
    while at < len(data):
        tag = varint()
        wire = tag & 7
        if wire == 0:
            value = varint()
        elif wire == 2:
            size = varint()
            value = bytes(data[at:at + size])
            if len(value) != size:
                raise ValueError("a message that is cut")
            at += size
        elif wire in (1, 5):
            size, form = (8, "<Q") if wire == 1 else (4, "<I")
            (value,) = struct.unpack_from(form, data, at)
            at += size
        else:
            raise ValueError(f"wire type {wire}")
        yield tag >> 3, value


def attribute(data):
    pair = dict(fields(data))
    ((number, value),) = fields(pair[2])
    return pair[1].decode(), value.decode() if number == 1 else value - (value >> 63 << 64)


class Span:
    def __init__(self, data, resource):
        self.resource = resource
        self.attributes = {}
        self.status = 0
        self.message = ""
        self.parent = ""
        self.state = ""
        for number, value in fields(data):
            if number == 1:
                self.trace = value.hex()
            elif number == 2:
                self.id = value.hex()
            elif number == 3:
                self.state = value.decode()
            elif number == 4:
                self.parent = value.hex()
            elif number == 5:
                self.name = value.decode()
            elif number == 6:
                self.kind = KINDS[value]
            elif number == 7:
                self.start = value
            elif number == 8:
                self.end = value
            elif number == 9:
                key, text = attribute(value)
                self.attributes[key] = text
            elif number == 15:
                status = dict(fields(value))
                self.status = status.get(3, 0)
                self.message = status.get(2, b"").decode()
            elif number == 16:
                self.flags = value

    def __repr__(self):
        return f"<{self.kind} {self.name!r} {self.id} of {self.parent or 'nobody'} {self.attributes}>"


def spans_of(message):
    found = []
    for _, resource_spans in fields(message):
        parts = list(fields(resource_spans))
        resource = dict(attribute(value) for number, part in parts if number == 1 for _, value in fields(part))
        found += [Span(value, resource) for number, part in parts if number == 2 for inner, value in fields(part) if inner == 2]
    return found


class Collector(Upstream):
    """Takes spans by OTLP over HTTP."""

    def __init__(self):
        super().__init__()
        self.take()

    def take(self):
        self.answer_with(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def spans(self, **wanted):
        found = [span for seen in list(self.seen) for span in spans_of(seen.body)]
        return [span for span in found if all(getattr(span, key) == value for key, value in wanted.items())]

    def wait(self, seconds=15, **wanted):
        return wait_until(lambda: self.spans(**wanted), seconds, f"a span {wanted}")


def real_collector():
    """The path of a real one; None and why not."""
    done = subprocess.run([ROOT / "tests/tools/collector/build", "--cached"], capture_output=True, text=True, check=False)
    return (done.stdout.strip(), None) if done.returncode == 0 else (None, done.stderr.strip())


class RealCollector:
    """An OpenTelemetry Collector that prints what it is sent."""

    def __init__(self, binary):
        self.grpc, self.http = free_port(), free_port()
        config = os.path.join(temporary_folder(), "collector.yaml")
        with open(config, "w", encoding="utf-8") as out:
            out.write(f"""
receivers:
  otlp:
    protocols:
      grpc: {{endpoint: "127.0.0.1:{self.grpc}"}}
      http: {{endpoint: "127.0.0.1:{self.http}"}}
exporters:
  debug: {{verbosity: detailed}}
service:
  telemetry:
    metrics: {{level: none}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [debug]}}
""")
        self.text = ""
        self.process = subprocess.Popen([binary, "--config", f"file:{config}"], stdin=subprocess.DEVNULL, text=True,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.text += line

    def __enter__(self):
        try:
            self.wait("Everything is ready", 60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self._reader.join(5)
        self.process.stderr.close()

    def wait(self, pattern, seconds=15):
        return wait_until(lambda: re.search(pattern, self.text), seconds, f"{pattern!r} in {self.text[-2000:]!r}")
