"""Paths of the project's folders."""

import os

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOT = os.path.dirname(TESTS)
HELPERS = os.path.join(TESTS, "helpers")
SAMPLES = os.path.join(TESTS, "data", "heaps")
DOCS = os.path.join(ROOT, "docs")
DEMO = os.path.join(ROOT, "demo")
PYTHON = os.path.join(ROOT, "python")

FOLDERS = [DEMO, PYTHON, HELPERS]
"""Entries of sys.path for a process that imports the same modules as the tests."""

HEAPWRITER = os.path.join(DEMO, "heapwriter.py")
VIEWS = os.path.join(HELPERS, "views.py")
