from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import qtool
from qtool.cli.main import COMMANDS
from qtool.errors import UsageError
from qtool.registry import lookup

SOURCES = Path(qtool.__file__).parent
REGISTRIES = {
    "qtool.metrics": "METRICS",
    "qtool.passes": "PASSES",
    "qtool.quant.weights": "WEIGHT_METHODS",
    "qtool.statistics.ranges": "RANGES",
}
CLI_SUPPORT = {"__init__", "main", "options", "console"}


def folder(module: ModuleType) -> Path:
    assert module.__file__ is not None
    return Path(module.__file__).parent


def origins(entry: Any) -> set[str]:
    """Return the modules that an entry, or the functions it is made of, were defined in."""
    parts = entry if isinstance(entry, tuple) else vars(entry).values()
    if not callable(entry) or hasattr(entry, "__dataclass_fields__"):
        return {getattr(part, "__module__", "") for part in parts}
    return {entry.__module__}


def shared(package: str) -> set[str]:
    """Return the modules of a package that others of it import: parts of entries, not entries."""
    found = set()
    for path in folder(import_module(package)).glob("[!_]*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize(("package", "name"), REGISTRIES.items(), ids=REGISTRIES.values())
def test_every_file_of_a_registry_is_in_it(package, name):
    module = import_module(package)
    registered = set().union(*map(origins, getattr(module, name).values()))

    files = {f"{package}.{path.stem}" for path in folder(module).glob("[!_]*.py")}

    assert files - registered - shared(package) == set(), f"add a line to {name} for each"


@pytest.mark.parametrize(("package", "name"), REGISTRIES.items(), ids=REGISTRIES.values())
def test_the_names_of_a_registry_are_words_with_dashes(package, name):
    for key in getattr(import_module(package), name):
        assert key == key.lower()
        assert key.replace("-", "").isalnum()


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=str)
def test_no_key_is_written_twice_in_one_dict(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Dict):
            keys = [ast.dump(key) for key in node.keys if isinstance(key, ast.Constant)]
            assert len(keys) == len(set(keys)), f"{path.name}:{node.lineno}"


def test_every_command_file_is_a_command():
    files = {path.stem for path in (SOURCES / "cli").glob("*.py")} - CLI_SUPPORT

    assert {name.replace("_", "-") for name in files} == set(COMMANDS)


def test_every_stage_is_public():
    public = {f"qtool.stages.{name}" for name in qtool.__all__}

    files = {f"qtool.stages.{path.stem}" for path in (SOURCES / "stages").glob("[!_]*.py")}

    assert files - public - shared("qtool.stages") == set()


@pytest.mark.parametrize("name", qtool.__all__)
def test_what_is_public_exists(name):
    assert getattr(qtool, name)


def test_lookup_names_the_closest_entry_and_all_others():
    with pytest.raises(UsageError) as raised:
        lookup({"minmax": 1, "mse": 2}, "minmxa", "range method")

    assert str(raised.value) == (
        "no range method named 'minmxa': did you mean 'minmax'? known: minmax, mse"
    )
