"""Each module of gppshm can be read without one that is above it: no import runs in a circle."""

import ast
import os

PACKAGES = os.path.join(os.path.dirname(__file__), "..", "..", "python")


def modules():
    """The dotted name of each module -> its file."""
    found = {}
    for folder, _, files in os.walk(os.path.join(PACKAGES, "gppshm")):
        for file in files:
            path = os.path.join(folder, file)
            if file.endswith(".py") and "stubs" not in path.split(os.sep):
                name = os.path.relpath(path, PACKAGES)[:-3].replace(os.sep, ".")
                found[name[: -len(".__init__")] if name.endswith(".__init__") else name] = path
    return found


def imported(node, known):
    """The modules of `known` that are imported at run time below `node`, in functions too."""
    if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            yield from (each for each in (name, node.module) if each in known)
    for child in ast.iter_child_nodes(node):
        yield from imported(child, known)


def test_no_import_runs_in_a_circle():
    known, imports = modules(), {}
    for name, path in known.items():
        with open(path, encoding="utf-8") as stream:
            imports[name] = set(imported(ast.parse(stream.read()), known))
    assert "gppshm.cli.text" in imports["gppshm.cli.shminfo"]
    while imports:
        lowest = {name for name, below in imports.items() if not below & set(imports)}
        assert lowest, "circles among: {}".format(", ".join(sorted(imports)))
        imports = {name: below for name, below in imports.items() if name not in lowest}
