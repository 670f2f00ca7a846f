"""The rows of issue 6 that are held against nginx: a static file, and compression on the way."""

import json

from rows import Result, interleave, ratio_bar
from servers import Config
from tools import BUILD


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


ROWS = {"static": static, "gzip": gzip}
