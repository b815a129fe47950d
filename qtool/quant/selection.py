"""Which nodes --only and --exclude mean.

A pattern is the first of these that fits:

    re:EXPRESSION   a regular expression that matches a whole node or output tensor name
    NAME            a node, a tensor that a node computes, or an op type, exactly
    FROM..TO        every node on a path from FROM to TO, both included; each names a node or a
                    tensor, or is left out: from the inputs on, up to the outputs
    GLOB            *, ? and [...] over node and output tensor names

A node with subgraphs (If, Loop) stands for all nodes in them as well.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import translate

import onnx_ir as ir

from qtool.errors import UsageError
from qtool.model import Model, all_nodes

log = logging.getLogger("qtool")

REGULAR = "re:"
RANGE = ".."


@dataclass(frozen=True)
class Selection:
    """The nodes that may be quantized, and for each of the others the pattern that says why."""

    nodes: frozenset[ir.Node]
    reasons: dict[str, str] = field(default_factory=dict)  # node_label() -> text

    def __contains__(self, node: object) -> bool:
        return node in self.nodes


def select(model: Model, only: Sequence[str] = (), exclude: Sequence[str] = ()) -> Selection:
    """Return the nodes that some pattern of only matches, by default all, and none of exclude.

    Raises:
        UsageError: a pattern is malformed or matches nothing.
    """
    index = _Index(model)
    wanted = [(f"--only {p}", index.find("--only", p)) for p in only]
    unwanted = [(f"--exclude {p}", index.find("--exclude", p)) for p in exclude]
    chosen, reasons = set(index.nodes), {}
    if wanted:
        chosen = set().union(*(nodes for _, nodes in wanted))
        text = "not matched by " + ", ".join(option for option, _ in wanted)
        reasons = {node_label(node): text for node in index.nodes if node not in chosen}
    for option, nodes in unwanted:
        dropped = nodes & chosen
        reasons |= {node_label(node): option for node in index.nodes if node in dropped}
        chosen -= dropped
    return Selection(frozenset(chosen), reasons)


def matching(model: Model, option: str, patterns: Sequence[str]) -> list[set[ir.Node]]:
    """Return the nodes that each pattern of an option matches.

    Raises:
        UsageError: a pattern is malformed or matches nothing.
    """
    index = _Index(model)
    return [index.find(option, pattern) for pattern in patterns]


def check_patterns(patterns: Iterable[str]) -> None:
    """Fail where a pattern is malformed, before any model is read.

    Raises:
        UsageError: a regular expression does not compile, or a pattern is empty.
    """
    for pattern in patterns:
        _whole_name(pattern)


def node_label(node: ir.Node) -> str:
    """Return what to call a node: its name, or where it has none that of its first output."""
    return node.name or next((v.name for v in node.outputs if v.name), "") or node.op_type


class _Index:
    """The nodes of a model by what a pattern can call them."""

    def __init__(self, model: Model) -> None:
        self.nodes = list(all_nodes(model))
        self.named: dict[str, set[ir.Node]] = {}  # node and output tensor names
        self.op_types: dict[str, set[ir.Node]] = {}
        self.inputs = {value.name: value for value in model.graph.inputs}
        for node in self.nodes:
            for name in (node.name, *(value.name for value in node.outputs)):
                if name:
                    self.named.setdefault(name, set()).add(node)
            self.op_types.setdefault(node.op_type, set()).add(node)
        self.inside = {node: _inside(node) for node in self.nodes}
        self.around = {inner: node for node in self.nodes for inner in self.inside[node]}

    def find(self, option: str, pattern: str) -> set[ir.Node]:
        found = self._match(option, pattern)
        if not found:
            raise UsageError(f"{option} {pattern!r} matches no node or tensor{self._hint(pattern)}")
        found = found | {inner for node in found for inner in _all_inside(node)}
        level = logging.DEBUG if option == "--layer" else logging.INFO  # there may be hundreds
        log.log(level, "%s %s matches %d of %d nodes", option, pattern, len(found), len(self.nodes))
        return found

    def _match(self, option: str, pattern: str) -> set[ir.Node]:
        matches = _whole_name(pattern)
        if not pattern.startswith(REGULAR):
            exact = self.named.get(pattern, set()) | self.op_types.get(pattern, set())
            if exact:
                return exact
            if RANGE in pattern:
                return self._between(option, *_ends(pattern, self.named.keys() | self.inputs))
        return set().union(*(nodes for name, nodes in self.named.items() if matches(name)))

    def _between(self, option: str, start: str, end: str) -> set[ir.Node]:
        """Return the nodes on a path from start to end: linear in the size of the graph."""
        after = before = set(self.nodes)
        if start:
            after = _reach(self._starts(option, start), self._next)
        if end:
            before = _reach(self._named(option, end), self._previous)
        between = after & before
        if not between:
            raise UsageError(f"{option} '{start}{RANGE}{end}': no path leads from {start} to {end}")
        return between

    def _starts(self, option: str, name: str) -> set[ir.Node]:
        if name in self.inputs and name not in self.named:
            return {use.node for use in self.inputs[name].uses()}
        return self._named(option, name)

    def _named(self, option: str, name: str) -> set[ir.Node]:
        if name not in self.named:
            raise UsageError(f"{option}: no node or tensor is named {name!r}{self._hint(name)}")
        return self.named[name]

    def _next(self, node: ir.Node) -> Iterable[ir.Node]:
        for value in node.outputs:
            for use in value.uses():
                yield use.node
        if node in self.around:
            yield self.around[node]

    def _previous(self, node: ir.Node) -> Iterable[ir.Node]:
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is not None:
                yield producer
        yield from self.inside[node]

    def _hint(self, pattern: str) -> str:
        known = [*self.named, *self.op_types, *(name for name in self.inputs if name)]
        close = get_close_matches(pattern, known, n=1)
        return f"; did you mean {close[0]!r}?" if close else "; `qtool inspect` lists the names"


def _whole_name(pattern: str) -> Callable[[str], object]:
    """Return what tells whether a name matches the pattern as a regular expression or a glob."""
    if not pattern or pattern in (REGULAR, RANGE):
        raise UsageError(
            f"pattern {pattern!r} is empty; give a name, a glob, re:EXPRESSION or A..B"
        )
    regular = pattern.startswith(REGULAR)
    try:
        return re.compile(pattern[len(REGULAR) :] if regular else translate(pattern)).fullmatch
    except re.error as error:
        raise UsageError(f"pattern {pattern!r} is no regular expression: {error}") from error


def _ends(pattern: str, names: Iterable[str | None]) -> tuple[str, str]:
    """Return FROM and TO of a range; where names hold dots, the split that makes both known."""
    known, at = {"", *names}, pattern.find(RANGE)
    first = at
    while at >= 0:
        start, end = pattern[:at], pattern[at + len(RANGE) :]
        if start in known and end in known:
            return start, end
        at = pattern.find(RANGE, at + 1)
    return pattern[:first], pattern[first + len(RANGE) :]


def _reach(starts: Iterable[ir.Node], step: Callable[[ir.Node], Iterable[ir.Node]]) -> set[ir.Node]:
    """Return the nodes that repeated steps lead to, starts included."""
    seen, waiting = set(starts), list(starts)
    while waiting:
        for node in step(waiting.pop()):
            if node not in seen:
                seen.add(node)
                waiting.append(node)
    return seen


def _inside(node: ir.Node) -> list[ir.Node]:
    """Return the nodes of the node's own subgraphs, not of those further in."""
    graphs: list[ir.Graph] = []
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            graphs.append(attr.as_graph())
        elif attr.type == ir.AttributeType.GRAPHS:
            graphs.extend(attr.as_graphs())
    return [inner for graph in graphs for inner in graph]


def _all_inside(node: ir.Node) -> Iterable[ir.Node]:
    for inner in _inside(node):
        yield inner
        yield from _all_inside(inner)
