from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import click
import pytest

from qtool import __version__
from qtool.cli.main import COMMANDS, Commands
from qtool.errors import CheckFailed, ModelError, UsageError

SLOW_IMPORTS = "{'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'PIL', 'rich'}"
HELP_WITHOUT_SLOW_IMPORTS = f"""
import sys
from qtool.cli import main
sys.argv = ["qtool", "--help"]
try:
    main()
except SystemExit:
    print(sorted({SLOW_IMPORTS} & set(sys.modules)), file=sys.stderr)
"""
INTERRUPT_WHILE_NUMPY_IS_IMPORTED = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "numpy":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from qtool.cli import main
sys.argv = ["qtool", "inspect", "--input", "x.onnx"]
main()
"""


def python(code: str, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, **kwargs
    )


def program(*args: str, **kwargs) -> subprocess.CompletedProcess[str]:
    kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | kwargs
    return subprocess.run([sys.executable, "-m", "qtool", *args], check=False, **kwargs)


@pytest.fixture
def failing(monkeypatch):
    """Makes every command raise an error."""

    def patch(error: BaseException) -> None:
        @click.command()
        def command():
            raise error

        monkeypatch.setattr(Commands, "get_command", lambda *_: command)

    return patch


def test_help_lists_the_commands_without_importing_what_they_need():
    found = python(HELP_WITHOUT_SLOW_IMPORTS)

    assert all(name in found.stdout for name in COMMANDS)
    assert found.stderr == "[]\n"


def test_version(cli):
    assert cli("--version").stdout == f"qtool, version {__version__}\n"


def test_no_command_is_answered_with_the_help_on_stderr(cli):
    result = cli()

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: qtool")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_verbosity(cli, name):
    result = cli(name, "--help")

    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: qtool {name} ")
    assert "--quiet" in result.stdout
    assert "--verbose" in result.stdout
    assert "\\b" not in result.stdout, "a raw docstring hides click's paragraph mark"


@pytest.mark.parametrize("name", COMMANDS)
def test_missing_options_are_one_line_with_the_next_step(cli, name):
    result = cli(name)

    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch(f"error: [a-z].*; see qtool {name} --help\n", result.stderr)


def test_an_unknown_command_is_answered_with_the_closest(cli):
    result = cli("quantise")

    assert result.exit_code == 2
    assert result.stderr.startswith(
        "error: no command named 'quantise': did you mean 'quantize'? known: "
    )


def test_an_unknown_option_is_one_line_with_the_next_step(cli):
    result = cli("--colour")

    assert result.exit_code == 2
    assert re.fullmatch("error: no such option.*--colour.*; see qtool --help\n", result.stderr)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ModelError("m.onnx has\nno output"), 1, "error: m.onnx has no output"),
        (UsageError("two outputs"), 2, "error: two outputs"),
        (CheckFailed("drop 3.0 exceeds 1.0"), 3, "error: drop 3.0 exceeds 1.0"),
        (KeyboardInterrupt(), 130, "error: interrupted; nothing was written"),
        (OSError(28, "No space left on device"), 1, "error: cannot write: No space left on device"),
        (
            MemoryError(),
            1,
            "error: out of memory; give the job more memory or a smaller model",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_each_kind_of_end_has_its_exit_code_and_one_line(cli, failing, error, code, line):
    failing(error)

    result = cli("freeze")

    assert (result.exit_code, result.stdout, result.stderr) == (code, "", line + "\n")


def test_a_bug_shows_its_traceback(cli, failing):
    failing(ZeroDivisionError("bug"))

    with pytest.raises(ZeroDivisionError):
        cli("freeze")


def test_interrupted_imports_end_with_one_line():
    found = python(INTERRUPT_WHILE_NUMPY_IS_IMPORTED)

    assert found.returncode == 128 + signal.SIGINT
    assert found.stderr == "error: interrupted; nothing was written\n"


def test_a_closed_pipe_is_quiet():
    read, write = os.pipe()
    os.close(read)

    found = program("--help", stdout=write)
    os.close(write)

    assert (found.returncode, found.stderr) == (128 + signal.SIGPIPE, "")


def test_a_closed_pipe_behind_stderr_is_the_same(sample_models, tmp_path):
    read, write = os.pipe()
    os.close(read)
    paths = ("-i", sample_models / "mlp.onnx", "-o", tmp_path / "m.onnx")

    found = program("freeze", *paths, stderr=write)
    os.close(write)

    assert (found.returncode, found.stdout) == (128 + signal.SIGPIPE, "")
    assert list(tmp_path.iterdir()) == []


def test_a_closed_stdout_is_no_error(sample_models, tmp_path):
    paths = ("-i", sample_models / "mlp.onnx", "-o", tmp_path / "m.onnx")

    found = program("freeze", "-q", *paths, preexec_fn=lambda: os.close(1), stdout=None)

    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_one_line():
    with open("/dev/full", "w") as full:
        found = program("--version", stdout=full)

    assert (found.returncode, found.stderr) == (1, "error: cannot write: No space left on device\n")


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
def test_a_shell_can_load_the_completion(cli, monkeypatch, shell):
    monkeypatch.setenv("_QTOOL_COMPLETE", f"{shell}_source")

    assert "_QTOOL_COMPLETE" in cli().stdout


def test_completion_offers_the_commands_that_fit(cli, monkeypatch):
    monkeypatch.setenv("_QTOOL_COMPLETE", "zsh_complete")
    monkeypatch.setenv("COMP_WORDS", "qtool fr")
    monkeypatch.setenv("COMP_CWORD", "1")

    assert cli().stdout == f"plain\nfreeze\n{COMMANDS['freeze']}\n"
