from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from qtool.page.svg import COLORS, figure, style, svg

pytest.importorskip("matplotlib")


def drawn(name="one", label="a label", text="a < b & $c$ _d_", tips=None):
    with style():
        made = figure(200, 100)
        axes = made.add_axes((0.1, 0.2, 0.8, 0.7))
        axes.stairs([0.123, 2.25, 1], [0, 0.2, 0.4, 0.6], fill=True, color=COLORS["float"])
        points = axes.scatter([0.25], [1.0])
        points.set_urls(["#there"])
        axes.text(0, 1, text, color=COLORS["text"])
        return svg(made, name, label, tips)


def test_a_figure_is_one_element_of_well_formed_xml():
    root = ET.fromstring(drawn(label='say "<hi>"'))

    assert root.tag == "svg"
    assert root.attrib["viewBox"] == "0 0 200 100"
    assert root.attrib["aria-label"] == 'say "<hi>"'


def test_text_stays_text():
    texts = [e.text for e in ET.fromstring(drawn()).iter() if e.tag.endswith("text")]

    assert "a < b & $c$ _d_" in texts
    assert "0.2" in texts


def test_colors_are_the_page_s():
    text = drawn()

    assert "var(--float)" in text
    assert not re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]", text)


def test_ids_begin_with_the_figure_s_name_and_are_all_used():
    text = drawn("plot")

    ids = re.findall(r' id="([^"]+)"', text)
    assert ids
    assert all(i.startswith("plot-") and f"#{i}" in text for i in ids)


def test_the_same_figure_has_the_same_bytes():
    assert drawn() == drawn()


def test_a_tip_stands_in_its_link():
    text = drawn(tips={"there": "x < y"})

    assert '<a href="#there" tabindex="-1"><title>x &lt; y</title>' in text
