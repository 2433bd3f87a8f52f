"""Figures as the measurements tell them, and whether their targets are met."""

import statistics


def percentile(values, percent=99):
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def milliseconds(seconds):
    """Median, 95th and 99th percentile, and the largest of some times."""
    ms = sorted(1000 * value for value in seconds)
    found = statistics.median(ms), percentile(ms, 95), percentile(ms), ms[-1]
    return "median %.3f, p95 %.3f, p99 %.3f, max %.3f ms" % found


def ratio(values, others):
    """Of the medians."""
    return statistics.median(values) / statistics.median(others)


class Targets:
    """Prints figures with their targets; `end` says whether all were met, as an exit status."""

    def __init__(self):
        self._missed = 0

    def below(self, what, value, target, unit=""):
        """A figure that shall be at most `target`."""
        missed = not value <= target
        self._missed += missed
        print(
            "  %s %.3g%s (target %g%s)%s" % (what, value, unit, target, unit, ": MISSED" if missed else ""),
            flush=True,
        )

    def holds(self, what, true):
        """Something that shall be so."""
        self._missed += not true
        print("  %s: %s" % (what, "yes" if true else "NO: MISSED"), flush=True)

    def end(self):
        print("targets %s" % ("MISSED" if self._missed else "met"), flush=True)
        return int(self._missed > 0)
