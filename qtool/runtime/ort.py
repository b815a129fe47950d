"""onnxruntime, the only module that imports it."""

from __future__ import annotations

import copy
import re
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from qtool.errors import ModelError, QtoolError
from qtool.model import Model, attribute
from qtool.runtime.outputs import prefix, with_outputs

onnxruntime.disable_telemetry_events()

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

#: Above this, the weights go to onnxruntime through a file: a protobuf ends at 2 GiB.
INLINE_BYTES = 1 << 30

#: Above this, loading a model twice costs more than the order of elements does.
TWICE_BYTES = 1 << 28

#: onnxruntime's blocked layout pads channels to a multiple of 8 or 16, depending on the machine.
CHANNEL_BLOCK = 16


class OrtSession:
    """A model loaded in onnxruntime on the CPU.

    outputs names the tensors that run() returns: graph outputs by default, else any tensors of
    the main graph. optimize=False switches graph optimizations off. ordered=False lets run()
    return the elements of a tensor in any order and shape, which saves bringing convolutions'
    outputs into ONNX's. arena=False gives memory back after each run, for some time. run() may be
    called from several threads at once.

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
        ordered: bool = True,
        arena: bool = True,
    ) -> None:
        self.output_names = [o.name for o in model.outputs()] if outputs is None else list(outputs)
        self._fetched = {name: name for name in self.output_names}
        self._run_options = onnxruntime.RunOptions()
        loaded = model.ir
        if outputs is not None:
            loaded = with_outputs(loaded, self.output_names)
        try:
            if not ordered and optimize and _weight_bytes(loaded) <= TWICE_BYTES:
                with suppress(Exception):  # $TMPDIR is full, say; a broken model fails below
                    loaded, self._fetched = _unordered(loaded, self.output_names, threads)
                    optimize = False  # it has been
            self._session = _open(loaded, _options(threads, optimize, arena))
        except QtoolError:
            raise
        except Exception as error:
            raise ModelError(f"onnxruntime cannot load the model: {first_line(error)}") from error

    def only(self, names: Sequence[str]) -> OrtSession:
        """Return the same session, whose run() returns these of its outputs; all compute alike."""
        narrowed = copy.copy(self)
        narrowed.output_names = list(names)
        return narrowed

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Return the outputs by name.

        Raises:
            QtoolError: onnxruntime refused the inputs or failed.
        """
        fetched = [self._fetched[name] for name in self.output_names]
        if not fetched:  # onnxruntime would return all
            return {}
        try:
            values = self._run(fetched, dict(feeds))
        except Exception as error:
            raise QtoolError(f"onnxruntime could not run the model: {first_line(error)}") from error
        return dict(zip(self.output_names, values, strict=True))

    def _run(self, fetched: list[str], feeds: dict[str, Array]) -> Any:
        """Run; the main thread only waits, for a signal interrupts nothing inside onnxruntime."""
        if threading.current_thread() is not threading.main_thread():
            return self._session.run(fetched, feeds, self._run_options)
        with ThreadPoolExecutor(1, thread_name_prefix="qtool-run") as pool:
            running = pool.submit(self._session.run, fetched, feeds, self._run_options)
            try:
                return running.result()
            except KeyboardInterrupt:
                self.cancel()
                raise

    def cancel(self) -> None:
        """Make every run() that is under way, and every later one, fail as soon as it can."""
        self._run_options.terminate = True


def open_file(path: str, threads: int = 1) -> Any:
    """Return onnxruntime's own session of an .onnx file.

    Raises:
        ModelError: onnxruntime cannot load the model.
    """
    providers = ["CPUExecutionProvider"]
    try:
        return onnxruntime.InferenceSession(path, _options(threads, True), providers=providers)
    except Exception as error:
        raise ModelError(f"onnxruntime cannot load the model: {first_line(error)}") from error


def _options(threads: int, optimize: bool, arena: bool = True) -> Any:
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = arena
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimize:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    return options


def _open(loaded: ir.Model, options: Any) -> Any:
    providers = ["CPUExecutionProvider"]
    if _weight_bytes(loaded) <= INLINE_BYTES:
        content = ir.to_proto(_in_memory(loaded)).SerializeToString()
        return onnxruntime.InferenceSession(content, options, providers=providers)
    with tempfile.TemporaryDirectory(prefix="qtool-") as folder:
        path = Path(folder) / "model.onnx"
        ir.save(loaded.clone(), path, external_data="model.onnx.data")
        return onnxruntime.InferenceSession(str(path), options, providers=providers)


def _weight_bytes(loaded: ir.Model) -> int:
    weights = [v.const_value for v in loaded.graph.initializers.values()]
    return sum(w.nbytes for w in weights if w is not None)


def _unordered(
    loaded: ir.Model, names: Sequence[str], threads: int
) -> tuple[ir.Model, dict[str, str]]:
    """Return the model as onnxruntime optimizes it, and which of its tensors holds each named one.

    Where a ReorderOutput node makes a named tensor of a blocked one without padding, that is the
    blocked one: it has the same elements.
    """
    with tempfile.TemporaryDirectory(prefix="qtool-") as folder:
        options = _options(threads, optimize=True)
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        _open(loaded, options)
        optimized = ir.load(options.optimized_model_filepath)
        optimized = _in_memory(optimized)
    producers = {v.name: node for node in optimized.graph for v in node.outputs}
    found = {name: name for name in names}
    for name in names:
        node = producers.get(name)
        if node is None or node.op_type != "ReorderOutput" or not node.inputs[0]:
            continue
        if attribute(node, "channels", 0) % CHANNEL_BLOCK == 0:
            found[name] = node.inputs[0].name or name
    return prefix(optimized, list(dict.fromkeys(found.values()))), found


def _in_memory(loaded: ir.Model) -> ir.Model:
    """Return the model, or a copy with its external weights read when it has some."""
    values = loaded.graph.initializers.values()
    if not any(isinstance(v.const_value, ir.ExternalTensor) for v in values):
        return loaded
    read = loaded.clone()
    ir.external_data.load_to_model(read)
    return read


def first_line(error: Exception) -> str:
    """Return an error's text on one line, without onnxruntime's codes and its own source lines."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", text)
    text = re.sub(
        r"Non-zero status code returned while running (\w+) node. Name:('.*?') Status Message: ",
        r"node \2 (\1): ",
        text,
    )
    return re.sub(r"/\S+\.(?:cc|h):\d+ [^()]*(?:\([^()]*\))+(?: const)?[: ]*", "", text)
