"""The rows of issue 6: a static file and compression on the way, held against nginx; and what all that an operator turns
on costs."""

import contextlib
import http.server
import json
import threading

import load
import module_rows
from rows import Result, interleave, ratio_bar
from servers import Config, Server
from tools import BUILD, say


def _site(guest):
    """A folder with what is served, and a manifest that names it."""
    folder = BUILD / "site"
    web = folder / "web"
    web.mkdir(parents=True, exist_ok=True)
    (web / "page.html").write_text(("<p>some text that is read by somebody</p>\n" * 300)[:10240])
    items = [{"id": i, "name": f"name {i * 7919 % 1000}", "price": i * 31 % 997 / 10, "tags": ["a", "b", str(i % 13)]}
             for i in range(2000)]
    (web / "data.json").write_text(json.dumps(items)[:65536])
    manifest = folder / "mik.toml"
    manifest.write_text(f'[server]\nmodules = "{guest}"\nstatic = "web"\n')
    return str(web), Config("mik", "mik", flags=("-c", str(manifest))), Config("nginx", "nginx", web=str(web))


def static(plan, guests):
    _, mik, nginx = _site(guests.path("hello"))
    result = Result("A static file of 10 KiB", f"1 worker, 16 connections; {plan.where_one()}")
    result.samples = interleave(plan, [mik, nginx], "/static/page.html", 16, plan.one, plan.one_load)
    result.bars = [ratio_bar(result.samples, "mik", "nginx", "rps", 0.8, 1)]
    return result


def gzip(plan, guests):
    _, mik, nginx = _site(guests.path("hello"))
    result = Result("gzip on the way: JSON of 64 KiB", f"1 worker, 16 connections; {plan.where_one()}; level 1 each")
    result.samples = interleave(plan, [mik, nginx], "/static/data.json", 16, plan.one, plan.one_load, accept="gzip")
    result.bars = [ratio_bar(result.samples, "mik", "nginx", "rps", 1, 1.2)]
    return result


class _Collector(http.server.BaseHTTPRequestHandler):
    """Takes whatever traces are sent."""
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.batches += 1
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def _collector():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Collector)
    server.batches = 0
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


OPERATED = """log_file = "mik.log"
log_max_size_mb = 50
log_max_files = 2
[tracing]
otlp_endpoint = "http://127.0.0.1:{port}"
protocol = "http/protobuf"
sample_ratio = 0.01
"""


def everything(plan, guests):
    guest = guests.path("hello")
    result = Result("Everything on: a log line for each request in a file, metrics, traces of 1 %, limits, breaker, "
                    f"routing over {module_rows.MODULES} modules", f"1 worker, 16 connections; {plan.where_one()}")
    manifest = module_rows.folder_of("everything", guest, module_rows.MODULES, module_rows.MODULES)
    bare = Config("one component, no manifest", "mik", guest)
    whole = Config("everything on", "mik", flags=("-c", manifest), log="info")
    result.samples = {bare.name: [], whole.name: []}
    with _collector() as collector:
        with open(manifest, "a", encoding="utf-8") as file:
            file.write(OPERATED.format(port=collector.server_port))
        for index in range(plan.rounds):
            for config in (bare, whole) if index % 2 == 0 else (whole, bare):
                with Server(config, plan.one) as server:
                    path = "/" if config is bare else "/run/m7/"
                    server.wait_ready(path)
                    sample = load.measure(server, path, 16, plan.seconds, plan.one_load, plan.warm)
                result.samples[config.name].append(sample)
                say(f"  round {index + 1}: {config.name}: {sample['rps']:.0f} rps, {sample['cpu_us']:.1f} us")
        result.extra["note"] = f"{collector.batches} batches of traces were taken"
    result.bars = [ratio_bar(result.samples, whole.name, bare.name, "rps", 0.85, 1)]
    return result


ROWS = {"static": static, "gzip": gzip, "everything": everything}
