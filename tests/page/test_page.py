from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from quant.graphs import conv_net, model_of

from qtool.data import open_samples
from qtool.errors import DataError, QtoolError
from qtool.page import check_libraries, render
from qtool.stages.quantize import quantize
from qtool.stages.report import report

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from qtool.page.curve import read_curve  # noqa: E402
from qtool.page.subject import Page  # noqa: E402

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&$\\frac{1}$\x00\u202e"


class Tags(HTMLParser):
    """Collects the elements and the ids of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.attributes = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]


@pytest.fixture
def data(tmp_path, rng):
    x = rng.integers(0, 256, (12, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=rng.integers(0, 5, 12))
    return lambda model: open_samples(str(tmp_path / "d.npz"), model.inputs(), labels=None)


@pytest.fixture
def made(rng, data):
    net = conv_net(rng)
    int8 = quantize(net, data=data(net), mode="static", check=False)
    return report(int8, reference=net, data=data(int8), threads=1)


def test_a_page_is_complete_in_itself_and_small(made):
    text = render(Page(made, "q.onnx", "model.onnx", 1000, 4000))

    found = Tags(text)
    assert len(text) < 3_000_000
    assert not {"link rel=stylesheet", "iframe", "object", "embed"} & set(found.tags)
    urls = [v for n, v in found.attributes if n in ("src", "href", "xlink:href", "action")]
    assert urls
    assert all(url.startswith(("#", "data:")) for url in urls)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_a_page_has_each_id_once_and_every_link_leads_somewhere(made):
    found = Tags(render(Page(made, "q.onnx", "model.onnx", 1000, 4000)))

    assert len(found.ids) == len(set(found.ids))
    links = {v[1:] for n, v in found.attributes if n == "href" and v.startswith("#")}
    assert links <= set(found.ids)


def test_only_qtool_s_own_script_may_run(made):
    text = render(Page(made, "q.onnx"))

    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text


def test_the_same_report_has_the_same_bytes_on_any_number_of_threads(made, rng, data):
    net = conv_net(np.random.default_rng(0))
    int8 = quantize(net, data=data(net), mode="static", check=False)
    one = report(int8, reference=net, data=data(int8), threads=1)
    two = report(int8, reference=net, data=data(int8), threads=2)

    assert render(Page(one, "q.onnx", "m.onnx", 9, 9)) == render(
        Page(two, "q.onnx", "m.onnx", 9, 9)
    )


def test_names_that_a_model_brings_are_text_and_nothing_else(rng, tmp_path):
    net = model_of(
        "net (float[n, 4] x, float[4, 3] w) => (float[n, 3] y) { y = MatMul(x, w) }",
        w=rng.normal(size=(4, 3)).astype(np.float32),
    )
    for value in (net.graph.inputs[0], net.graph.outputs[0], net.graph.initializers["w"]):
        value.name = f"{value.name}{HOSTILE}"
    net.graph[0].name = HOSTILE
    net.ir.producer_name = HOSTILE
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(4, 4)).astype(np.float32))
    data = open_samples(str(tmp_path / "d.npz"), net.inputs())

    found = report(net, reference=net, data=data, threads=1)
    page = Tags(render(Page(found, HOSTILE, HOSTILE, 10, 20, labels=[HOSTILE] * 3, script=HOSTILE)))

    assert page.tags.count("script") == 1
    assert "onerror" not in {name for name, _ in page.attributes}
    assert page.tags.count("img") == 0


def test_a_model_alone_gives_a_page_that_says_what_is_missing(rng):
    text = render(Page(report(conv_net(rng)), "model.onnx"))

    assert "Give --reference" in text
    assert "Give --data" in text
    assert 'id="accuracy"' not in text


def test_many_layers_are_cut_to_those_that_weigh_most(made, monkeypatch):
    monkeypatch.setattr("qtool.page.layers.MOST_ROWS", 3)

    found = Tags(render(Page(made, "q.onnx")))

    assert sum(i.startswith("layer-") for i in found.ids) == 3


def test_histograms_beyond_the_budget_are_left_out(made, monkeypatch):
    whole = render(Page(made, "q.onnx"))
    monkeypatch.setattr("qtool.page.layers.PLOT_BYTES", 1)

    assert render(Page(made, "q.onnx")).count("<svg") < whole.count("<svg")


def test_a_journal_of_trials_is_drawn(made, tmp_path):
    path = tmp_path / "j.json"
    best = {"bytes": 20, "drop": 0.5, "chosen": True}
    trials = [{"bytes": 10, "drop": 2}, best, {"drop": 1}, 7]
    path.write_text(json.dumps({"max_drop": 1, "trials": trials}))

    curve = read_curve(str(path))
    text = render(Page(made, "q.onnx", curve=curve))

    assert [(p.n_bytes, p.drop, p.chosen) for p in curve.points] == [
        (10, 2, False),
        (20, 0.5, True),
    ]
    assert 'id="curve"' in text


def test_a_journal_of_tune_is_lines_and_this_model_is_found_by_its_size(made, tmp_path):
    trial = {"metric": "top1", "unit": "%", "drop_ci95": [-1, 3], "bytes": 10, "drop": 2}
    lines = [trial, {**trial, "bytes": 20, "drop": 0.5, "drop_ci95": None}]
    path = tmp_path / "journal.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"bytes": 30, "dr')

    curve = read_curve(str(path)).choose(20)
    text = render(Page(made, "q.onnx", file_bytes=20, curve=curve))

    assert [(p.drop, p.interval, p.chosen) for p in curve.points] == [
        (2, (-1, 3), False),
        (0.5, None, True),
    ]
    assert "drop of top1, points" in text
    assert "The large point is this model." in text


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"trials": 3}', b"[" * 10**5])
def test_a_journal_without_trials_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "j.json"
    path.write_bytes(content)

    with pytest.raises(DataError) as caught:
        read_curve(str(path))

    assert "\n" not in str(caught.value)


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("qtool.page.find_spec", lambda name: None)

    with pytest.raises(QtoolError, match=r"needs jinja2: pip install 'qtool\[report\]'"):
        check_libraries()


def test_an_output_that_is_the_same_is_said_to_be(rng, data):
    net = conv_net(rng)
    found = report(net, reference=net, data=data(net), threads=1)

    assert "is the same on 12 samples" in render(Page(replace(found), "model.onnx"))
