"""onnxruntime, the only module that imports it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from qtool.errors import ModelError, QtoolError
from qtool.model import Model

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

#: Above this, the weights go to onnxruntime through a file: a protobuf ends at 2 GiB.
INLINE_BYTES = 1 << 30


class OrtSession:
    """A model loaded in onnxruntime on the CPU.

    outputs names the tensors that run() returns: graph outputs by default, else any tensors of
    the main graph. optimize=False switches graph optimizations off. run() may be called from
    several threads at once.

    Raises:
        ModelError: onnxruntime cannot load the model.
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
        self._run_options = onnxruntime.RunOptions()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if not optimize:
            level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.graph_optimization_level = level
        loaded = model.ir
        if outputs is not None:
            loaded = _with_outputs(loaded, self.output_names)
        try:
            self._session = _open(loaded, options)
        except QtoolError:
            raise
        except Exception as error:
            raise ModelError(f"onnxruntime cannot load the model: {first_line(error)}") from error

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Return the outputs by name.

        Raises:
            QtoolError: onnxruntime refused the inputs or failed.
        """
        try:
            values = self._session.run(self.output_names, dict(feeds), self._run_options)
        except Exception as error:
            raise QtoolError(f"onnxruntime could not run the model: {first_line(error)}") from error
        return dict(zip(self.output_names, values, strict=True))

    def cancel(self) -> None:
        """Make every run() that is under way, and every later one, fail as soon as it can."""
        self._run_options.terminate = True


def _open(loaded: ir.Model, options: Any) -> Any:
    providers = ["CPUExecutionProvider"]
    weights = [v.const_value for v in loaded.graph.initializers.values()]
    if sum(w.nbytes for w in weights if w is not None) <= INLINE_BYTES:
        content = ir.to_proto(_in_memory(loaded)).SerializeToString()
        return onnxruntime.InferenceSession(content, options, providers=providers)
    with tempfile.TemporaryDirectory(prefix="qtool-") as folder:
        path = Path(folder) / "model.onnx"
        ir.save(loaded.clone(), path, external_data="model.onnx.data")
        return onnxruntime.InferenceSession(str(path), options, providers=providers)


def _in_memory(loaded: ir.Model) -> ir.Model:
    """Return the model, or a copy with its external weights read when it has some."""
    values = loaded.graph.initializers.values()
    if not any(isinstance(v.const_value, ir.ExternalTensor) for v in values):
        return loaded
    copy = loaded.clone()
    ir.external_data.load_to_model(copy)
    return copy


def _with_outputs(loaded: ir.Model, names: Sequence[str]) -> ir.Model:
    """Return a copy whose outputs are the tensors of these names.

    Raises:
        ModelError: the main graph has no such tensor.
    """
    copy = loaded.clone()
    values = {v.name: v for v in copy.graph.inputs} | dict(copy.graph.initializers)
    values |= {v.name: v for node in copy.graph for v in node.outputs}
    missing = [name for name in names if name not in values]
    if missing:
        raise ModelError(f"the model has no tensor named {missing[0]!r}")
    copy.graph.outputs[:] = [values[name] for name in names]
    return copy


def first_line(error: Exception) -> str:
    """Return an error's text on one line."""
    return " ".join(str(error).split())
