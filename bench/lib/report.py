"""What was measured, as text for a terminal, as docs/performance.md, and as JSON."""

import datetime
import json
import statistics
from dataclasses import asdict

BEGIN = "<!-- measured: begin (written by bench/run) -->"
END = "<!-- measured: end -->"


def _number(value):
    if value is None:
        return "-"
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 \
        else f"{value:.3f}".rstrip("0").rstrip(".") or "0"


def _spread(values, form=_number):
    values = list(values)
    middle, low, high = statistics.median(values), min(values), max(values)
    text = form(middle)
    return text if len(values) < 2 or form(low) == form(high) else f"{text} ({form(low)}-{form(high)})"


def bar_cells(bar):
    sign = "<=" if bar.low else ">="
    measured = "-"
    if bar.measured is not None:
        measured = _number(bar.measured) + bar.unit
        if bar.spread and bar.spread[0] != bar.spread[1]:
            measured += f" ({_number(bar.spread[0])}-{_number(bar.spread[1])})"
    aim = "-" if bar.aim is None else _number(bar.aim) + bar.unit
    return [bar.text, f"{sign} {_number(bar.must)}{bar.unit}", aim, measured, bar.verdict]


def sample_cells(name, samples, calls):
    def of(key, factor=1.0):
        return _spread(sample[key] * factor for sample in samples)
    return [name, _spread((s["rps"] for s in samples), lambda x: f"{x:.0f}"), of("p50_us"), of("p99_us"),
            f"{of('cpu_us')} = {_number(statistics.median(s['user_us'] for s in samples))} + "
            f"{_number(statistics.median(s['system_us'] for s in samples))}",
            of("faults"), _number(calls["work"]) + f" + {_number(calls['waiting'])}" if calls else "-",
            _number(statistics.median(s["rss_mib"] for s in samples)),
            _number(statistics.median(s["worker_rss_mib"] for s in samples)),
            _number(statistics.median(s["busy"] for s in samples)), _number(max(s["noise"] for s in samples)),
            str(sum(s["errors"] for s in samples))]


SAMPLE_HEAD = ["", "rps", "p50 us", "p99 us", "CPU us per request = user + system", "faults", "calls: work + waiting",
               "RSS MiB", "of a worker", "cores used", "noise", "errors"]
BAR_HEAD = ["", "must", "aim", "measured", ""]


def _markdown(head, lines):
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def plain(head, lines):
    widths = [max(len(row[i]) for row in [head, *lines]) for i in range(len(head))]
    return "\n".join("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
                     for row in [head, *lines])


def _tables(result, table):
    parts = []
    calls = result.extra.get("syscalls", {})
    if result.samples:
        parts.append(table(SAMPLE_HEAD, [sample_cells(name, samples, calls.get(name))
                                         for name, samples in result.samples.items()]))
    if "start_ms" in result.extra:
        parts.append(table(["", "ms"], [[name, _spread(times)] for name, times in result.extra["start_ms"].items()]))
    return parts


def _notes(result):
    notes = []
    for name, calls in result.extra.get("syscalls", {}).items():
        top = ", ".join(f"{call} {_number(count)}" for call, count in list(calls["by_name"].items())[:8])
        notes.append(f"System calls per request, {name}: {top}.")
    if "aim" in result.extra:
        notes.append(f"Aim: {result.extra['aim']}.")
    if "note" in result.extra:
        notes.append(f"{result.extra['note']}.")
    if "paced_cpu_us" in result.extra:
        notes.append(f"C hello as often as sleepers are answered: {_spread(result.extra['paced_cpu_us'])} us of CPU a request.")
    if "idle_percent_of_a_core" in result.extra:
        notes.append(f"With nothing to do: {_spread(result.extra['idle_percent_of_a_core'])} % of a core.")
    limited = [name for name, samples in result.samples.items()
               if statistics.median(s["busy"] + s["noise"] for s in samples) < 0.9 and "connections;" in result.setting
               and "share" not in result.setting and "1 connection;" not in result.setting]
    if limited:
        notes.append(f"Held up by the load generator, not by itself: {', '.join(limited)}.")
    return notes


def terminal(name, result):
    lines = [f"{name}: {result.title}", f"  {result.setting}"]
    if result.missing:
        return "\n".join([*lines, f"  NOT MEASURED: {result.missing}", ""])
    for part in _tables(result, plain):
        lines += [part, ""]
    lines += [plain(BAR_HEAD, [bar_cells(bar) for bar in result.bars]), ""]
    return "\n".join(lines + [f"  {note}" for note in _notes(result)] + [""])


def summary(results):
    """The bars of all rows in one table."""
    lines = []
    for result in results.values():
        if result.missing:
            lines.append([result.title, "-", "-", "-", "not measured"])
        for bar in result.bars:
            lines.append([f"{result.title}: {bar.text}", *bar_cells(bar)[1:]])
    return lines


def markdown(results, machine, tools, settings):
    swap = "with swap" if machine["swap"] else "no swap"
    noise = [sample["noise"] for result in results.values() for samples in result.samples.values()
             for sample in samples]
    stolen = [sample["stolen"] for result in results.values() for samples in result.samples.values()
              for sample in samples]
    when = datetime.datetime.now(datetime.timezone.utc)
    parts = [
        BEGIN, "",
        f"{when:%Y-%m-%d %H:%M} UTC. {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{swap}; Linux {machine['kernel']}; {machine['system']}.",
        "", f"{'; '.join(tools)}. {settings}", "",
    ]
    if noise:
        parts.append(f"Noise, in cores that others used during a window: median {_number(statistics.median(noise))}, "
                     f"most {_number(max(noise))}; taken by the hypervisor: most {_number(max(stolen))}.")
    parts += ["", "## Bars", "", _markdown(["work", *BAR_HEAD[1:]], summary(results))]
    for result in results.values():
        parts += ["", f"## {result.title}", "", f"{result.setting}.", ""]
        if result.missing:
            parts.append(f"Not measured: {result.missing}.")
        for part in _tables(result, _markdown):
            parts += [part, ""]
        parts += [f"- {note}" for note in _notes(result)]
    return "\n".join([*parts, "", END])


def write_page(path, text):
    """Puts the measured part into the page; what people wrote around it stays."""
    page = path.read_text() if path.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(before + text + after)


def write_json(path, results, machine, tools, settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {name: {**asdict(result), "verdicts": [bar.verdict for bar in result.bars]}
            for name, result in results.items()}
    path.write_text(json.dumps({"machine": machine, "tools": tools, "settings": settings, "rows": rows}, indent=1))
