"""onnxruntime, the only module that imports it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from qtool.errors import ModelError, QtoolError
from qtool.model import Model

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]


class OrtSession:
    """A model loaded in onnxruntime on the CPU.

    outputs names the tensors that run() returns: graph outputs by default, else any tensors of
    the main graph. optimize=False switches graph optimizations off.
    """

    def __init__(
        self,
        model: Model,
        *,
        outputs: Sequence[str] | None = None,
        threads: int = 1,
        optimize: bool = True,
    ) -> None:
        self.output_names = [o.name for o in model.outputs()] if outputs is None else list(outputs)
        proto = ir.to_proto(model.ir)
        if outputs is not None:
            del proto.graph.output[:]
            for name in self.output_names:
                proto.graph.output.add().name = name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if not optimize:
            level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.graph_optimization_level = level
        try:
            self._session = onnxruntime.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ModelError(f"onnxruntime cannot load the model: {first_line(error)}") from error

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Return the outputs by name.

        Raises:
            QtoolError: onnxruntime refused the inputs or failed.
        """
        try:
            values = self._session.run(self.output_names, dict(feeds))
        except Exception as error:
            raise QtoolError(f"onnxruntime could not run the model: {first_line(error)}") from error
        return dict(zip(self.output_names, values, strict=True))


def first_line(error: Exception) -> str:
    """Return an error's text on one line."""
    return " ".join(str(error).split())
