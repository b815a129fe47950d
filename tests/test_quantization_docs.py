from __future__ import annotations

import doctest
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "quantization.md"


def test_the_examples_give_what_the_page_says():
    # reference is importable because pytest puts the folder of conftest.py on the path.
    failures, examples = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")

    assert examples >= 20
    assert failures == 0


def test_every_equation_that_code_cites_is_on_the_page():
    defined = set(re.findall(r"\(eq\. (\d+)\)\n", PAGE.read_text(encoding="utf-8")))

    cited = {}
    for path in [*ROOT.glob("qtool/**/*.py"), *ROOT.glob("tests/*.py")]:
        for first, second in re.findall(r"\beq\. (\d+)(?: and (\d+))?", path.read_text("utf-8")):
            cited |= dict.fromkeys(filter(None, (first, second)), path.name)

    assert {number: name for number, name in cited.items() if number not in defined} == {}
    assert sorted(map(int, defined)) == list(range(1, len(defined) + 1))
