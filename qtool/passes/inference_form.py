"""BatchNormalization and Dropout as they act at inference, whatever the graph was trained with.

This is the one pass that changes what a training graph computes: its outputs are those of the
inference form.
"""

from __future__ import annotations

import onnx_ir as ir

from qtool.errors import UnsupportedError
from qtool.model import Model, attribute
from qtool.passes.rewriting import graph_of, label


def inference_form(model: Model) -> Model:
    """Make each BatchNormalization use its running statistics and each Dropout do nothing.

    In the graph, its subgraphs and its functions.

    Raises:
        UnsupportedError: batch statistics are an output of the graph, or read by a node.
    """
    edited = model.copy()
    graphs = [edited.graph, *(function.graph for function in edited.ir.functions.values())]
    nodes = [node for graph in graphs for node in ir.traversal.RecursiveGraphIterator(graph)]
    changes = [FORMS[n.op_type](n) for n in nodes if n.domain == "" and n.op_type in FORMS]
    return edited if any(changes) else model


def _batch_norm(node: ir.Node) -> bool:
    """Opset 7-8: spatial; 9-13: extra outputs mean training; 14 on: training_mode says so."""
    trained = bool(attribute(node, "training_mode", 0)) or len(node.outputs) > 1
    node.attributes.pop("training_mode", None)
    for index, output in enumerate(node.outputs[1:], 1):
        if not (output.uses() or output.is_graph_output()):
            continue
        if index > 2:
            raise UnsupportedError(
                f"{label(node)} (BatchNormalization): its output {output.name!r} holds batch "
                "statistics, which inference does not have; cut them off with --outputs"
            )
        # running mean and variance do not move at inference: they are inputs 3 and 4
        kept = ir.node("Identity", [node.inputs[index + 2]], name=f"{node.name}_running_{index}")
        kept.outputs[0].name, kept.outputs[0].type = output.name, output.type
        graph_of(node).insert_after(node, kept)
        output.replace_all_uses_with(kept.outputs[0], replace_graph_outputs=True)
    node.resize_outputs(1)
    return trained


def _dropout(node: ir.Node) -> bool:
    """The mask, if anything reads it, is all true at inference: such a Dropout stays one."""
    trained = len(node.inputs) > 2
    mask = node.outputs[1] if len(node.outputs) > 1 else None
    if mask is not None and (mask.uses() or mask.is_graph_output()):
        node.resize_inputs(min(len(node.inputs), 2))
        return trained
    node.op_type = "Identity"
    node.attributes.clear()
    node.resize_inputs(1)
    node.resize_outputs(1)
    return True


FORMS = {"BatchNormalization": _batch_norm, "Dropout": _dropout}
