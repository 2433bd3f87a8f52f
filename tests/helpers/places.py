"""Where the project's folders are."""

import os

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOT = os.path.dirname(TESTS)
HELPERS = os.path.join(TESTS, "helpers")
SAMPLES = os.path.join(TESTS, "data", "heaps")
DOCS = os.path.join(ROOT, "docs")
DEMO = os.path.join(ROOT, "demo")
PYTHON = os.path.join(ROOT, "python")

FOLDERS = [DEMO, PYTHON, HELPERS]
"""What a process needs in its sys.path, to import what the tests do."""

HEAPWRITER = os.path.join(DEMO, "heapwriter.py")
LOOKS = os.path.join(HELPERS, "looks.py")
