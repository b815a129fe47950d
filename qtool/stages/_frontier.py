"""Tensors of one model over many samples, front to back, without running the front again.

What the nodes behind still need is kept for each sample, and each next tensor is computed from
there. Where that would take too much memory, it is computed from further in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from qtool.model import Model
from qtool.runtime.ort import OrtSession
from qtool.runtime.outputs import between
from qtool.runtime.sweep import sweep
from qtool.stages._widen import widen

BYTES = 1 << 28  # of the tensors that are kept for all samples

Array = npt.NDArray[Any]


class Frontier:
    """A model whose constants may change behind what has been passed, and its samples."""

    def __init__(self, model: Model, samples: Sequence[Callable[[], Any]]) -> None:
        """Start at the inputs of the model, which the samples feed."""
        self._model, self._samples = model, samples
        self.kept: list[Mapping[str, Array] | None] = [None] * len(samples)
        self._passed: set[ir.Node] = set()
        self._values = {v.name or "": v for node in model.graph for v in node.outputs}

    def to(self, target: str, *, past: str | None = None) -> Piece:
        """Return what computes the tensor target of single samples.

        past names the tensor up to which nothing changes any more: what lies behind is kept of
        each sample that is then moved, if that is not too much for all of them.
        """
        passed = self._passed | _before(self._values.get(past or ""))
        keeps = sorted(_needed(self._model.graph, passed))
        wanted = list(dict.fromkeys([target, *keeps]))
        here = self.feeds(0)
        session = self._session([name for name in wanted if name not in here])
        piece = Piece(self, session, target, keeps)
        found = piece.outputs(0)
        if sum(found[name].nbytes for name in keeps) * len(self) <= BYTES:
            self._passed = passed
            return piece
        return Piece(self, self._session([target] if target not in here else []), target, None)

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.kept)

    def where(self, index: int) -> str:
        """Return where a sample comes from, for errors."""
        return str(self._samples[index]().where)

    def feeds(self, index: int) -> Mapping[str, Array]:
        """Return what is kept of a sample."""
        kept = self.kept[index]
        return self._samples[index]().feeds if kept is None else kept

    def _session(self, names: list[str]) -> OrtSession | None:
        if not names:
            return None
        part = between(self._model.ir, self.feeds(0), names)
        widen(part.graph)
        return OrtSession(Model(part), outputs=names)


@dataclass(frozen=True)
class Piece:
    """A part of a model: from what is kept of a sample to a target.

    session is None where all is kept already, keeps where it would take too much memory.
    """

    frontier: Frontier
    session: OrtSession | None
    target: str
    keeps: list[str] | None

    def outputs(self, index: int) -> dict[str, Array]:
        """Return what is kept and what the session makes of a sample."""
        feeds = self.frontier.feeds(index)
        return {**feeds, **({} if self.session is None else self.session.run(feeds))}

    def run(self, index: int) -> Array:
        """Return the target of a sample."""
        return self.outputs(index)[self.target]

    def move(self, index: int) -> Array:
        """Return the target of a sample and keep what later pieces need; once for each sample."""
        found = self.outputs(index)
        if self.keeps is not None:
            self.frontier.kept[index] = {name: found[name] for name in self.keeps}
        return found[self.target]


def walk(
    pieces: Sequence[Piece],
    see: Callable[[int, Sequence[Array]], None],
    *,
    among: Iterable[int],
    threads: int,
) -> None:
    """Show see() the number and the targets of each sample, in any order.

    Where all samples are among these, they move.
    """
    chosen = list(among)
    moves = len(chosen) == len(pieces[0].frontier)
    places = (partial(_Place, index, pieces[0].frontier) for index in chosen)
    seen = lambda place, outputs: see(place.index, list(outputs.values()))  # noqa: E731
    sweep(_Walk(pieces, moves), places, seen, threads=threads)


@dataclass(frozen=True)
class _Place:
    """A sample by its number."""

    index: int
    frontier: Frontier

    @property
    def feeds(self) -> dict[str, Any]:
        return {"index": self.index}

    @property
    def where(self) -> str:
        return self.frontier.where(self.index)


@dataclass(frozen=True)
class _Walk:
    """Pieces as a runner, fed with the number of a sample."""

    pieces: Sequence[Piece]
    moves: bool

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        index = int(feeds["index"])
        runs = (piece.move if self.moves else piece.run for piece in self.pieces)
        return {str(i): run(index) for i, run in enumerate(runs)}

    def cancel(self) -> None:
        for piece in self.pieces:
            if piece.session is not None:
                piece.session.cancel()


def _before(value: ir.Value | None) -> set[ir.Node]:
    """Return the nodes that a tensor needs, but for those that only dequantize."""
    found: set[ir.Node] = set()
    left = [value]
    while left:
        node = None if (one := left.pop()) is None else one.producer()
        if node is not None and node not in found:
            found.add(node)
            left.extend(_reads(node))
    return {node for node in found if node.op_type != "DequantizeLinear"}


def _needed(graph: ir.Graph, passed: set[ir.Node]) -> set[str]:
    """Return the names of the tensors that nodes not passed need of the others."""
    found: set[str] = set()
    for node in graph:
        if node in passed or node.op_type == "DequantizeLinear":
            continue
        for value in _sources(node):
            producer = value.producer()
            if producer in passed if producer is not None else value.is_graph_input():
                found.add(value.name or "")
    return found


def _sources(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads, in front of dequantizing."""
    for value in _reads(node):
        producer = value.producer()
        if producer is not None and producer.op_type == "DequantizeLinear":
            yield from _sources(producer)
        else:
            yield value


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node and its subgraphs read."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        graphs = [attribute.value] if attribute.type == ir.AttributeType.GRAPH else []
        for graph in attribute.value if attribute.type == ir.AttributeType.GRAPHS else graphs:
            for inner in graph:
                yield from _reads(inner)
