"""The page in a headless Chromium; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from page.browser import chromium
from quant.graphs import conv_net

from qtool.data import open_samples
from qtool.stages.quantize import quantize
from qtool.stages.report import report

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from qtool.page import render  # noqa: E402
from qtool.page.subject import Page  # noqa: E402

NAMES = "[...document.querySelectorAll('#table tbody tr:not([hidden]) th')].map(h => h.textContent)"
NUMBERS = "[...document.querySelectorAll('#table tbody tr')].map(r => r.cells[%d].dataset.value)"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("page"), np.random.default_rng(0)
    x = rng.integers(0, 256, (12, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "d.npz", x=x, y=rng.integers(0, 5, 12))
    net = conv_net(rng)

    def data(model):
        return open_samples(str(folder / "d.npz"), model.inputs(), labels=None)

    int8 = quantize(net, data=data(net), mode="static", check=False)
    found = report(int8, reference=net, data=data(int8), threads=1)
    page = Page(found, "q.onnx", "model.onnx", 1000, 4000, script="qtool freeze\n")
    (folder / "report.html").write_text(render(page), encoding="utf-8")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser, path):
    browser.messages.clear()
    browser.requests.clear()
    browser.open(path)
    return browser


def test_it_renders_without_a_message_and_asks_for_nothing(page, path):
    assert page.messages == []
    assert [r for r in page.requests if not r.startswith("data:")] == [path.as_uri()]
    assert page.eval("document.querySelectorAll('svg').length") > 10
    assert page.eval("document.querySelector('h1').textContent") == "q.onnx"


@pytest.mark.parametrize("column", [5, 7, 8])
def test_a_column_of_numbers_sorts_largest_first_then_smallest(page, column):
    button = f"document.querySelectorAll('#table thead button')[{column}]"

    page.eval(f"{button}.click()")
    down = [float(v) for v in page.eval(NUMBERS % column) if v]
    empty = [v == "" for v in page.eval(NUMBERS % column)]
    page.eval(f"{button}.click()")
    up = [float(v) for v in page.eval(NUMBERS % column) if v]

    assert down == sorted(down, reverse=True)
    assert up == down[::-1] or up == sorted(down)
    assert empty == sorted(empty)
    assert page.eval(f"{button}.parentElement.getAttribute('aria-sort')") == "ascending"
    assert page.eval("document.querySelectorAll('[aria-sort]').length") == 1


def test_the_filter_leaves_rows_and_cards_with_all_words(page):
    page.eval("""(() => { const f = document.getElementById('filter'); f.value = 'CONV integer';
                 f.dispatchEvent(new Event('input')); })()""")

    assert page.eval(NAMES)
    shown = page.eval("document.querySelectorAll('.card:not([hidden])').length")
    assert len(page.eval(NAMES)) == shown
    total = page.eval("document.querySelectorAll('#table tbody tr').length")
    assert 0 < shown < total
    assert page.eval("document.getElementById('count').textContent") == f"{shown} of {total} layers"


def test_the_choice_of_form_filters(page):
    page.eval("""(() => { const f = document.getElementById('form'); f.value = 'float';
                 f.dispatchEvent(new Event('change')); })()""")

    forms = (
        "[...document.querySelectorAll('#table tbody tr:not([hidden])')].map(r => r.dataset.form)"
    )
    assert set(page.eval(forms)) == {"float"}


def test_the_keyboard_alone_sorts_and_shows_where_it_is(page):
    page.press("Tab")
    assert page.eval("document.activeElement.className") == "skip"
    page.eval("document.querySelectorAll('#table thead button')[5].focus()")

    page.press("Enter", "\r")

    assert (
        page.eval("document.activeElement.parentElement.getAttribute('aria-sort')") == "descending"
    )
    style = "getComputedStyle(document.activeElement).outlineStyle"
    page.press("Tab")
    assert page.eval(style) != "none"


def test_a_link_to_a_hidden_layer_shows_it(page):
    page.eval("""(() => { const f = document.getElementById('filter'); f.value = 'nothing has this';
                 f.dispatchEvent(new Event('input')); location.hash = '#layer-1'; })()""")
    page.eval("new Promise(done => setTimeout(done, 50))")

    assert page.eval("document.getElementById('layer-1').hidden") is False


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(browser, path, scheme):
    browser.open(path, scheme=scheme)

    ratios = browser.eval("""(() => {
      const light = (color) => {
        const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(Number)
          .map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
      };
      const back = light(getComputedStyle(document.querySelector('.card')).backgroundColor);
      return ['h1', '.note', 'figcaption', '.card svg text', 'nav a', 'th button'].map(s => {
        const made = getComputedStyle(document.querySelector(s));
        const text = light(s.includes('svg') ? made.fill : made.color);
        return (Math.max(text, back) + .05) / (Math.min(text, back) + .05);
      });
    })()""")

    assert min(ratios) >= 4.5  # WCAG AA


def test_nothing_is_wider_than_a_phone(browser, path):
    browser.open(path, width=360, height=700)

    assert browser.eval("document.documentElement.scrollWidth") == 360


def test_it_prints(page, tmp_path):
    page.pdf(tmp_path / "page.pdf")

    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
