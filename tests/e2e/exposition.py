"""Strict readers of /metrics: the Prometheus text format 0.0.4 and OpenMetrics 1.0. What is wrong raises AssertionError."""

import re

LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
NUMBER = r"-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?"
SAMPLE = re.compile(rf"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{{({LABEL}(?:,{LABEL})*)\}})? ({NUMBER})(?: # \{{({LABEL})\}} ({NUMBER}) ({NUMBER}))?")
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


class Exposition:
    """`families`: type by name, as the text has it. `samples`: value by name with labels, as they stand there.
    `exemplars`: (labels, value) by sample."""

    def __init__(self, text, open_metrics=False):
        self.open_metrics = open_metrics
        self.families = {}
        self.samples = {}
        self.exemplars = {}
        assert text.endswith("\n"), "the last line has no end"
        lines = text[:-1].split("\n")
        if open_metrics:
            assert lines.pop() == "# EOF", "no # EOF"
        family, helped = None, None
        for line in lines:
            if line.startswith("# HELP "):
                helped, text_of = line[7:].split(" ", 1)
                assert text_of and '"' not in text_of and "\\" not in text_of, line
            elif line.startswith("# TYPE "):
                family, kind = line[7:].split(" ")
                assert family == helped, f"TYPE without HELP: {line}"
                assert family not in self.families, f"twice: {family}"
                assert kind in SUFFIXES, line
                assert open_metrics or (kind == "counter") == family.endswith("_total"), line
                assert not (open_metrics and family.endswith(("_total", "_bucket", "_count", "_sum"))), line
                self.families[family] = kind
            else:
                self._sample(line, family)
        self._check_histograms()

    def _sample(self, line, family):
        match = SAMPLE.fullmatch(line)
        assert match, f"no sample: {line!r}"
        name, labels, value, exemplar, exemplar_value, _ = match.groups()
        kind = self.families[family]
        suffixes = SUFFIXES[kind] if self.open_metrics or kind != "counter" else ("",)
        assert name in [family + suffix for suffix in suffixes], f"{name} among those of {family}"
        names = re.findall(r'([a-zA-Z0-9_]+)="', re.sub(r'="(?:[^"\\]|\\.)*"', '="', labels or ""))
        assert len(names) == len(set(names)), f"a label twice: {line}"
        key = f"{name}{{{labels}}}" if labels else name
        assert key not in self.samples, f"twice: {key}"
        self.samples[key] = float(value)
        assert float(value) >= 0
        if exemplar:
            assert self.open_metrics and name.endswith("_bucket"), f"an exemplar where none may be: {line}"
            bound = re.search(r'(?:^|,)le="([^"]+)"', labels).group(1)
            assert float(exemplar_value) <= float(bound.replace("+Inf", "inf")), line
            self.exemplars[key] = (exemplar, float(exemplar_value))

    def _check_histograms(self):
        """Buckets are cumulative, their bounds grow, and the last is +Inf and equals _count."""
        series = {}
        for key, value in self.samples.items():
            name, _, labels = key.partition("{")
            if name.endswith("_bucket") and self.families.get(name[:-7]) == "histogram":
                bound = re.search(r'(?:^|,)le="([^"]+)"', labels)
                rest = labels.replace(bound.group(0), "").rstrip("}")
                series.setdefault((name[:-7], rest), []).append((float(bound.group(1).replace("+Inf", "inf")), value))
        for (name, rest), buckets in series.items():
            assert buckets == sorted(buckets), (name, rest, buckets)
            assert len({bound for bound, _ in buckets}) == len(buckets), (name, rest)
            assert buckets[-1][0] == float("inf"), (name, rest)
            labels = f"{{{rest}}}" if rest else ""
            assert self.samples[f"{name}_count{labels}"] == buckets[-1][1], (name, rest)
            assert f"{name}_sum{labels}" in self.samples, (name, rest)
        for name, kind in self.families.items():
            if kind == "histogram" and any(key.startswith(name + "_") for key in self.samples):
                assert any(of == name for of, _ in series), f"{name} has no buckets"
