"""Is every file of the project valid syntax, without warnings, for the interpreter that runs this?

Usage: pythonX.Y -I .ci/check_syntax.py FILE ...   Writes no bytecode. Exit status 1 if one is not.
"""

import sys
import warnings


def main(paths):
    warnings.simplefilter("error")
    bad = 0
    for path in paths:
        with open(path, "rb") as stream:
            source = stream.read()
        try:
            compile(source, path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            print("%s: %s" % (path, error), file=sys.stderr)
            bad += 1
    print("syntax: %d files, %d faults, CPython %d.%d.%d" % ((len(paths), bad) + sys.version_info[:3]))
    return 1 if bad or not paths else 0


sys.exit(main(sys.argv[1:]))
