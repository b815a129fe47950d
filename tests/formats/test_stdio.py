from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from qtool import formats
from qtool.errors import FormatError, QtoolError, UsageError
from qtool.formats import qtm_file, stdio
from qtool.model import fingerprint

COPY = "from qtool import formats; formats.save(formats.load({!r}), {!r})"


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def text(data: bytes = b"") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data))


def run(source: str, target: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", COPY.format(source, target)]
    return subprocess.run(command, capture_output=True, **options)


def test_a_model_passes_through_a_pipe(full, monkeypatch) -> None:
    out = text()
    monkeypatch.setattr(sys, "stdout", out)
    formats.save(full, "-")
    data = out.buffer.getvalue()
    assert data == qtm_file.dumps(full)

    monkeypatch.setattr(sys, "stdin", text(data))
    assert fingerprint(formats.load("-")) == fingerprint(full)


def test_a_large_model_waits_in_a_file(full, monkeypatch) -> None:
    monkeypatch.setattr(stdio, "MEMORY_BYTES", 100)
    monkeypatch.setattr(sys, "stdin", text(qtm_file.dumps(full)))

    assert fingerprint(formats.load("-")) == fingerprint(full)


def test_an_empty_pipe_is_explained(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", text())

    with pytest.raises(FormatError, match="standard input is empty: did the command before"):
        formats.load("-")


def test_a_terminal_is_not_read(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO()))

    with pytest.raises(UsageError, match="standard input is a terminal; pipe a .qtm into it"):
        formats.load("-")


def test_a_terminal_is_not_written_to(full, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal(io.BytesIO()))

    with pytest.raises(UsageError, match="standard output is a terminal; pipe the .qtm on"):
        formats.save(full, "-")


def test_what_is_no_model_is_named(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", text(b"hello\n"))

    with pytest.raises(FormatError, match="standard input: is not a .qtm; it looks like text"):
        formats.load("-")


def test_a_closed_pipe_raises_broken_pipe(golden) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", COPY.format(str(golden / "v1-full.qtm"), "-")]

    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)

    os.close(writer)
    assert done.stderr.splitlines()[-1].startswith("BrokenPipeError")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_behind_standard_output_is_one_error(full, monkeypatch) -> None:
    with open("/dev/full", "w") as sink:
        monkeypatch.setattr(sys, "stdout", sink)
        with pytest.raises(QtoolError, match="cannot write standard output: No space left"):
            formats.save(full, "-")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no/m.qtm", "cannot write no/m.qtm: there is no folder .*/no"),
        ("m.pb", "m.pb ends in '.pb'; a model file ends in .onnx or .qtm"),
        ("folder.qtm", "cannot write folder.qtm: it is a folder"),
    ],
)
def test_an_output_that_cannot_be_is_found_before_the_work(
    tmp_path, monkeypatch, path, message
) -> None:
    (tmp_path / "folder.qtm").mkdir()
    monkeypatch.chdir(tmp_path)

    with pytest.raises(QtoolError, match=message):
        formats.check_output(path)


def test_an_output_that_can_be_is_left_alone(tmp_path) -> None:
    formats.check_output(tmp_path / "m.qtm")

    assert os.listdir(tmp_path) == []
