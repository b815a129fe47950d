from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fuzz_formats.py"


def test_damaged_files_are_refused_in_order() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--cases", "800", "--seed", "0"], capture_output=True, text=True
    )

    assert done.stdout.endswith("0 findings\n"), done.stdout
    assert done.returncode == 0


def test_a_case_depends_on_its_number_only() -> None:
    import fuzz_formats

    files = fuzz_formats.seeds()

    assert fuzz_formats.case(5, 7, files)[:2] == fuzz_formats.case(5, 7, files)[:2]
    assert fuzz_formats.case(5, 7, files)[1] != fuzz_formats.case(6, 7, files)[1]
