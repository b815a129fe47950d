"""Making other tensors the outputs of a graph."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from difflib import get_close_matches

from qtool.errors import UnsupportedError, UsageError
from qtool.model import Model
from qtool.passes.remove_unused import remove_unused
from qtool.shapes import infer_shapes

log = logging.getLogger("qtool")


def cut_outputs(model: Model, names: Sequence[str]) -> Model:
    """Return the model with these tensors of the main graph as outputs, in this order.

    What nothing needs any more is removed, inputs too.

    Raises:
        UsageError: there is no such tensor, or a name comes twice.
        UnsupportedError: the element type of a tensor cannot be inferred.
    """
    if not names:
        return model
    if len(set(names)) < len(names):
        raise UsageError(f"--outputs {','.join(names)}: a name comes twice")
    edited = infer_shapes(model)
    values = {v.name: v for node in edited.graph for v in node.outputs if v.name}
    for name in names:
        if name not in values:
            close = get_close_matches(name, map(str, values), n=1)
            hint = f"did you mean {close[0]!r}?" if close else "`qtool inspect` lists them"
            raise UsageError(f"no node of the model has an output named {name!r}: {hint}")
        if values[name].dtype is None:
            raise UnsupportedError(
                f"tensor {name!r} cannot be an output: its type is not known; cut at another one"
            )
    edited.graph.outputs.clear()
    edited.graph.outputs.extend(values[name] for name in names)
    edited = remove_unused(edited).copy()
    unread = [value for value in edited.graph.inputs if not value.uses()]
    for value in unread:
        edited.graph.inputs.remove(value)
        log.info("input %r is not needed for these outputs and was removed", value.name)
    return edited
