"""What a server counts, as Prometheus reads it."""

import bisect
import collections

PREFIX = "embodied_serve_"
BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # seconds

ERRORS = ("message", "observation", "internal")
DROPPED = ("replaced", "deadline")
REFUSED = ("token", "origin", "path", "full")
# counter -> (label, its values, help); shown from the first request on, zeros included
COUNTERS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "connections_total": ("", (), "Connections since the start."),
    "refused_total": ("reason", REFUSED, "Connections refused before they began."),
    "stalled_total": ("", (), "Connections closed because the client did not read."),
    "requests_total": ("", (), "Messages received."),
    "answers_total": ("", (), "Messages answered with actions."),
    "errors_total": ("kind", ERRORS, "Messages answered with an error."),
    "dropped_total": ("reason", DROPPED, "Messages answered with an error because a newer one came, or too late."),
}


class Metrics:
    """Counters and a histogram; changed from the thread of the event loop only."""

    def __init__(self) -> None:
        self.connections = 0
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def count(self, counter: str, label: str = "") -> None:
        """Nothing; adds one to a counter of `COUNTERS`."""
        assert label in (COUNTERS[counter][1] or ("",)), (counter, label)
        self.counts[counter, label] += 1

    def answered(self, seconds: float) -> None:
        """Nothing; counts an answer that left so long after its request had come."""
        self.count("answers_total")
        self.buckets[bisect.bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds

    def text(self) -> str:
        """All of them in Prometheus' text format."""
        lines = _head("connections", "gauge", "Open connections.")
        lines.append(f"{PREFIX}connections {self.connections}")
        for counter, (label, values, about) in COUNTERS.items():
            lines += _head(counter, "counter", about)
            for value in values or ("",):
                labels = f'{{{label}="{value}"}}' if label else ""
                lines.append(f"{PREFIX}{counter}{labels} {self.counts[counter, value]}")
        lines += _head("latency_seconds", "histogram", "From a request's arrival to its actions being sent.")
        total = 0
        for bound, held in zip([*map(str, BUCKETS), "+Inf"], self.buckets, strict=True):
            total += held
            lines.append(f'{PREFIX}latency_seconds_bucket{{le="{bound}"}} {total}')
        lines.append(f"{PREFIX}latency_seconds_sum {self.seconds:.6f}")
        lines.append(f"{PREFIX}latency_seconds_count {total}")
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP {PREFIX}{name} {about}", f"# TYPE {PREFIX}{name} {kind}"]
