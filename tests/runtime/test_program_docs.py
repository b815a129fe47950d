from __future__ import annotations

import re
from pathlib import Path

from qtool.runtime.program import DTYPES, KINDS, OPCODES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "kernels.md").read_text()
OPS = (Path(__file__).resolve().parents[2] / "qtool/native/runtime/ops.inc").read_text()


def test_the_page_and_the_runtime_have_the_same_opcodes():
    page = {name: int(code) for code, name in re.findall(r"^\| (\d+) \| (\w+) \|", PAGE, re.M)}
    native = {name: int(code) for code, name in re.findall(r"QTOOL_OP\((\d+), (\w+),", OPS)}

    assert page == OPCODES == native


def test_the_page_lists_every_dtype_and_kind():
    for number, name in sorted((n, name) for name, n in DTYPES.items()):
        assert f"{number} {name}" in PAGE
    for name, number in KINDS.items():
        assert f"{number} {name}" in PAGE
