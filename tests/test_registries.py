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
    "qtool.codecs": "CODECS",
    "qtool.compress.pruners": "PRUNERS",
    "qtool.metrics": "METRICS",
    "qtool.passes": "PASSES",
    "qtool.quant.absorbers": "ABSORBERS",
    "qtool.quant.equalizers": "EQUALIZERS",
    "qtool.quant.rounding": "ROUNDINGS",
    "qtool.quant.weights": "WEIGHT_METHODS",
    "qtool.statistics.ranges": "RANGES",
}


def folder(module: ModuleType) -> Path:
    assert module.__file__ is not None
    return Path(module.__file__).parent


def origins(entry: Any) -> set[str]:
    """Return the modules that an entry, or the functions it is made of, were defined in."""
    parts = entry if isinstance(entry, tuple) else vars(entry).values()
    if not callable(entry) or hasattr(entry, "__dataclass_fields__"):
        return {getattr(part, "__module__", "") for part in parts}
    return {entry.__module__}


def imported() -> set[str]:
    """Return the dotted names that modules of qtool import: parts of entries, not entries."""
    found = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def unused(package: str, registered: set[str]) -> set[str]:
    """Return the modules of a package that are neither registered nor imported by any other."""
    files = {f"{package}.{path.stem}" for path in folder(import_module(package)).glob("[!_]*.py")}
    return files - registered - imported()


@pytest.mark.parametrize(("package", "name"), REGISTRIES.items(), ids=REGISTRIES.values())
def test_every_file_of_a_registry_is_in_it(package, name):
    module = import_module(package)
    registered = set().union(*map(origins, getattr(module, name).values()))

    assert unused(package, registered) == set(), f"add a line to {name} for each"


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
    commands = {f"qtool.cli.{name.replace('-', '_')}" for name in COMMANDS}

    assert unused("qtool.cli", commands) == set()


def test_every_stage_is_public():
    assert unused("qtool.stages", {f"qtool.stages.{name}" for name in qtool.__all__}) == set()


@pytest.mark.parametrize("name", qtool.__all__)
def test_what_is_public_exists(name):
    assert getattr(qtool, name)


def test_lookup_names_the_closest_entry_and_all_others():
    with pytest.raises(UsageError) as raised:
        lookup({"minmax": 1, "mse": 2}, "minmxa", "range method")

    assert str(raised.value) == (
        "no range method named 'minmxa': did you mean 'minmax'? known: minmax, mse"
    )
