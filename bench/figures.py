"""Prints the figures of the measurements, and checks their targets."""

import statistics


def percentile(values, percent=99):
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def milliseconds(seconds):
    """Median, 95th and 99th percentile, and maximum of some times, as text."""
    ms = sorted(1000 * value for value in seconds)
    found = statistics.median(ms), percentile(ms, 95), percentile(ms), ms[-1]
    return "median %.3f, p95 %.3f, p99 %.3f, max %.3f ms" % found


def ratio(values, others):
    """The ratio of the medians."""
    return statistics.median(values) / statistics.median(others)


class Targets:
    """Prints figures with their targets; `end` returns the exit status."""

    def __init__(self):
        self._missed = 0

    def below(self, what, value, target, unit=""):
        """Print a figure whose target is at most `target`."""
        missed = not value <= target
        self._missed += missed
        print(
            "  %s %.3g%s (target %g%s)%s" % (what, value, unit, target, unit, ": MISSED" if missed else ""),
            flush=True,
        )

    def holds(self, what, true):
        """Print a condition that must be true."""
        self._missed += not true
        print("  %s: %s" % (what, "yes" if true else "NO: MISSED"), flush=True)

    def end(self):
        print("targets %s" % ("MISSED" if self._missed else "met"), flush=True)
        return int(self._missed > 0)
