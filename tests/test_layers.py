from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import qtool

SOURCES = Path(qtool.__file__).parent
LAYERS = [
    {"__main__"},
    {"cli"},
    {"page"},
    {"stages"},
    {"passes", "statistics", "quant", "compress", "runtime", "data", "formats", "metrics"},
    {"codecs"},
    {"cost"},
    {"shapes"},
    {"skeleton"},
    {"folding", "hessian", "sizes"},
    {"model", "qparams"},
    {"registry"},
    {"errors", "_native", "__init__"},
]
DEPTH = {name: depth for depth, layer in enumerate(LAYERS) for name in layer}
MODULES = sorted(SOURCES.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted name of each module of qtool that a file imports, at any place in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package(dotted: str) -> str | None:
    """Return the name, of those in LAYERS, that an import of qtool reaches; None for others."""
    top, _, rest = dotted.partition(".")
    if top != "qtool":
        return None
    name = rest.split(".")[0]
    return "__init__" if name.startswith("__") or not name else name


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCES)))
def test_imports_only_go_down(path):
    here = path.relative_to(SOURCES).with_suffix("").parts[0]

    for there in filter(None, map(package, imported(path))):
        assert there == here or DEPTH[there] > DEPTH[here], f"{here} may not import {there}"


@pytest.mark.parametrize(("library", "owner"), [("onnxruntime", "runtime/ort.py")])
def test_only_one_module_imports(library, owner):
    users = {
        str(path.relative_to(SOURCES))
        for path in MODULES
        for name in imported(path)
        if name.split(".")[0] == library
    }

    assert users == {owner}


def test_the_library_does_not_import_the_console():
    users = {
        path.relative_to(SOURCES).parts[0]
        for path in MODULES
        for name in imported(path)
        if name.split(".")[0] in {"click", "rich"}
    }

    assert users <= {"cli"}
