from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from qtool.errors import QtoolError
from qtool.formats.atomic import replacing

KILLER = """
import os, random, signal, sys, time
from qtool.formats.atomic import replacing

path, size, clock = sys.argv[1], 1 << 18, random.Random(0)
with open(path, "wb") as file:
    file.write(b"!" * size)
seen = set()
for kill in range(500):
    child = os.fork()
    if child == 0:
        for turn in range(10**9):
            content = bytes([65 + (kill + turn) % 26]) * (size // 16)
            with replacing(path) as file:
                for part in range(16):
                    file.write(content)
    time.sleep(clock.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with open(path, "rb") as file:
        content = file.read()
    assert content == content[:1] * size, "half-written"
    seen.add(content[:1])
    if kill >= 30 and len(seen) >= 10:
        print("ok")
        break
"""
LIMITED = """
import resource, sys
from qtool.formats.atomic import replacing
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
with replacing(sys.argv[1]) as file:
    file.write(bytes(1 << 20))
"""
as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".part")]


def write(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)


def test_kill_at_any_moment_leaves_the_old_or_the_new_file(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLER, tmp_path / "m"], capture_output=True, text=True
    )

    assert (done.stdout, done.stderr) == ("ok\n", "")


def test_an_error_in_the_block_keeps_the_old_file(tmp_path) -> None:
    (tmp_path / "m").write_bytes(b"old")

    with suppress(ZeroDivisionError), replacing(tmp_path / "m") as file:
        file.write(b"new")
        file.flush()
        raise ZeroDivisionError

    assert (tmp_path / "m").read_bytes() == b"old"
    assert leftovers(tmp_path) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(QtoolError) as caught:
        write(tmp_path / "m.qtm", b"new")

    assert str(caught.value) == f"cannot write {tmp_path}/m.qtm: No space left on device"
    assert os.listdir(tmp_path) == []


def test_a_file_size_limit_leaves_nothing(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path / "m"], capture_output=True, text=True
    )

    assert "QtoolError: cannot write" in done.stderr
    assert "File too large" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path) -> None:
    with pytest.raises(QtoolError, match=f"cannot write .*: there is no folder {tmp_path}/no"):
        write(tmp_path / "no" / "m.qtm", b"")


def test_a_folder_is_not_overwritten(tmp_path) -> None:
    with pytest.raises(QtoolError, match="it is a folder"):
        write(tmp_path, b"")


@as_root
def test_a_read_only_folder_is_refused(tmp_path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(QtoolError, match="Permission denied"):
        write(tmp_path / "m.qtm", b"")


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("elsewhere/real")

    write(tmp_path / "link", b"new")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "real").read_bytes() == b"new"


def test_permissions_stay(tmp_path) -> None:
    (tmp_path / "m").write_bytes(b"old")
    (tmp_path / "m").chmod(0o640)

    write(tmp_path / "m", b"new")

    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o640


def test_a_new_file_gets_what_the_umask_allows(tmp_path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "m", b"new")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o640


def test_a_device_is_written_to(tmp_path) -> None:
    (tmp_path / "m").symlink_to("/dev/null")

    write(tmp_path / "m", b"new")

    assert (tmp_path / "m").is_symlink()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_device_is_an_error(tmp_path) -> None:
    (tmp_path / "m").symlink_to("/dev/full")

    with pytest.raises(QtoolError, match="No space left on device"):
        write(tmp_path / "m", b"new")


def test_a_named_pipe_gets_the_bytes(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()

    write(tmp_path / "pipe", b"new")
    reader.join()

    assert got == [b"new"]


def test_a_name_of_255_bytes_can_be_written(tmp_path) -> None:
    write(tmp_path / ("m" * 255), b"new")

    assert os.listdir(tmp_path) == ["m" * 255]


def stale(path: Path, seconds: float) -> Path:
    part = path.parent / f".{path.name}.0123456789ab.part"
    part.write_bytes(b"half")
    os.utime(part, (part.stat().st_mtime - seconds,) * 2)
    return part


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path):
    left, other = stale(tmp_path / "m.qtm", 60), stale(tmp_path / "n.qtm", 60)

    with replacing(tmp_path / "m.qtm") as file:
        file.write(b"x")

    assert (left.exists(), other.exists()) == (False, True)


def test_a_part_that_a_writer_holds_stays(tmp_path):
    with replacing(tmp_path / "m.qtm") as slow:
        slow.write(b"slow")
        slow.flush()
        os.utime(slow.name, (0, 0))
        with replacing(tmp_path / "m.qtm") as quick:
            quick.write(b"quick")

    assert (tmp_path / "m.qtm").read_bytes() == b"slow"


def test_a_part_that_was_just_made_stays(tmp_path):
    left = stale(tmp_path / "m.qtm", 0)

    with replacing(tmp_path / "m.qtm") as file:
        file.write(b"x")

    assert left.exists()
