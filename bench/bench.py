"""Runs all measurements of this folder, or those named; started by ./build.sh bench.

bench.py [NAME ...]        for example: bench.py listing
"""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
HELPERS = ("bench.py", "figures.py", "nursery.py", "stuck.py")


def main(names):
    there = sorted(name[:-3] for name in os.listdir(HERE) if name.endswith(".py") and name not in HELPERS)
    for name in names:
        if name not in there:
            sys.stderr.write("bench.py: there is no {}: there are {}\n".format(ascii(name), ", ".join(there)))
            return 2
    failed = 0
    for name in names or there:
        sys.stdout.write("== %s\n" % name)
        sys.stdout.flush()
        failed |= subprocess.call([sys.executable, "-Es", os.path.join(HERE, name + ".py")]) != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
