from __future__ import annotations

import logging
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import settings

from qtool.cli.main import qtool

ROOT = Path(__file__).resolve().parent.parent

# The same cases on every run, and no clock: a slow machine is not a bug.
settings.register_profile("qtool", derandomize=True, deadline=None)
# Other cases on every run, and many: for an hour at night.
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "qtool"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("onnxruntime"):
        if onnxruntime_release() < tuple(map(int, mark.args[0].split("."))):
            pytest.skip(f"needs onnxruntime {mark.args[0]}: older ones fail at this")


def onnxruntime_release() -> tuple[int, ...]:
    return tuple(map(int, version("onnxruntime").split(".")[:2]))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def cli() -> Callable[..., Result]:
    """Runs the command line in this process: cli("freeze", "-i", path) -> a click Result.

    Of the result, `stdout` and `stderr` are text, `stdout_bytes` what a pipe would carry, and
    `exit_code` what the shell sees.
    """
    logger = logging.getLogger("qtool")

    def run(*args: object, input: bytes | str | None = None) -> Result:
        level, *rest = logger.level, logger.handlers, logger.propagate
        try:
            typed = [str(arg) for arg in args]
            return CliRunner().invoke(qtool, typed, input=input, catch_exceptions=False)
        finally:  # a command listens to the library until its process ends
            logger.setLevel(level)
            logger.handlers, logger.propagate = rest

    return run


@pytest.fixture(scope="session")
def sample_models() -> Path:
    """The folder of the trained networks that the repository carries."""
    return ROOT / "sample_models"


@pytest.fixture(scope="session")
def zoo() -> Path:
    """The folder of the larger models, of QTOOL_ZOO or beside the repository."""
    folder = Path(os.environ.get("QTOOL_ZOO", ROOT.parent / "shared" / "zoo"))
    if not (folder / "index.json").is_file():
        pytest.skip(f"no zoo at {folder}: set QTOOL_ZOO to its folder")
    return folder
