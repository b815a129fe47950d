from __future__ import annotations

import logging

import pytest
from quant.graphs import model_of

from qtool.errors import UsageError
from qtool.quant.selection import check_patterns, node_label, select

CHAIN = """
net (float[2] x) => (float[2] head_y) {
    body_a = Relu(x)
    body_b = Neg(body_a)
    side = Exp(body_a)
    body_c = Add(body_b, side)
    head_y = Relu(body_c)
}
"""

BRANCHES = """
net (bool c, float[2] x) => (float[2] z) {
    a = Neg(x)
    b = If(c) <then_branch = yes () => (float[2] t) { u = Exp(a) t = Neg(u) },
               else_branch = no () => (float[2] e) { e = Abs(a) }>
    z = Relu(b)
}
"""


def selected(text=CHAIN, only=(), exclude=()):
    return {n.outputs[0].name for n in select(model_of(text), only, exclude).nodes}


def test_without_patterns_all_nodes_are_selected():
    assert selected() == {"body_a", "body_b", "side", "body_c", "head_y"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("side", {"side"}),
        ("Relu", {"body_a", "head_y"}),
        ("body_*", {"body_a", "body_b", "body_c"}),
        ("body_[ab]", {"body_a", "body_b"}),
        ("re:.*_[ay]", {"body_a", "head_y"}),
        ("body_b..head_y", {"body_b", "body_c", "head_y"}),
        ("body_a..body_c", {"body_a", "body_b", "side", "body_c"}),
        ("x..body_b", {"body_a", "body_b"}),
        ("..body_b", {"body_a", "body_b"}),
        ("body_c..", {"body_c", "head_y"}),
        ("side..side", {"side"}),
    ],
)
def test_a_pattern_selects(pattern, expected):
    assert selected(only=[pattern]) == expected


def test_exclude_takes_away_from_only():
    assert selected(only=["body_*"], exclude=["body_b"]) == {"body_a", "body_c"}


def test_the_reason_names_the_pattern():
    selection = select(model_of(CHAIN), only=["body_*"], exclude=["re:body_c"])

    assert set(selection.reasons.values()) == {
        "not matched by --only body_*",
        "--exclude re:body_c",
    }


def test_a_name_with_brackets_and_dots_is_a_name_first():
    model = model_of(CHAIN)
    list(model.graph)[1].name = "block[0]..neg"

    assert [node_label(n) for n in select(model, ["block[0]..neg"]).nodes] == ["block[0]..neg"]


def test_a_range_between_names_with_dots_splits_where_both_are_known():
    model = model_of(CHAIN)
    nodes = list(model.graph)
    nodes[0].name, nodes[1].name = "a..b", "c"

    assert select(model, ["a..b..c"]).nodes == {nodes[0], nodes[1]}


def test_a_node_with_subgraphs_stands_for_what_is_in_them():
    assert selected(BRANCHES, exclude=["b"]) == {"a", "z"}


def test_a_range_runs_through_subgraphs():
    assert selected(BRANCHES, only=["u..z"]) == {"u", "t", "b", "e", "z"}


def test_a_range_reaches_a_subgraph_that_captures_a_tensor():
    assert selected(BRANCHES, only=["a..t"]) == {"a", "u", "t"}


def test_the_number_of_matches_is_logged(caplog):
    with caplog.at_level(logging.INFO, "qtool"):
        selected(exclude=["body_*"])

    assert "--exclude body_* matches 3 of 5 nodes" in caplog.text


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("bodya", "--exclude 'bodya' matches no node or tensor; did you mean 'body_a'?"),
        ("re:q.*", "--exclude 're:q.*' matches no node or tensor; `qtool inspect` lists the names"),
        ("sidd..head_y", "--exclude: no node or tensor is named 'sidd'; did you mean 'side'?"),
        ("side..body_b", "--exclude 'side..body_b': no path leads from side to body_b"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error(pattern, message):
    with pytest.raises(UsageError) as raised:
        selected(exclude=[pattern])

    assert str(raised.value) == message


@pytest.mark.parametrize("pattern", ["", "re:", "re:(", ".."])
def test_malformed_patterns_are_found_without_a_model(pattern):
    with pytest.raises(UsageError):
        check_patterns([pattern])
