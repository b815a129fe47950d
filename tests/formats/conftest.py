from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qtool.model import Model

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of files that every later version must read."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def builders() -> dict[str, Callable[[], Model]]:
    """What the golden files were made from, by name."""
    import freeze_golden

    return freeze_golden.GOOD


@pytest.fixture(scope="session")
def packed_builders() -> dict[str, Callable[[], Model]]:
    """What the packed golden files were made from, by name."""
    import freeze_golden

    return freeze_golden.PACKED


@pytest.fixture
def full(builders: dict[str, Callable[[], Model]]) -> Model:
    """A model with subgraphs, functions, custom ops, statistics and history."""
    return builders["full"]()
