"""Checkpoint files: named weights that are bound to the inputs and initializers of a graph."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

import numpy as np
import onnx_ir as ir

from qtool.errors import FormatError, ModelError, QtoolError, UsageError
from qtool.model import Model, all_nodes
from qtool.passes.rewriting import Array
from qtool.passes.tensors import LAZY_BYTES, dims

ENDINGS = (".npz", ".safetensors")
PARAMETERS: dict[str, tuple[int, ...]] = {  # the inputs of an op that are learned
    "BatchNormalization": (1, 2, 3, 4),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "GRU": (1, 2, 3),
    "Gemm": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3, 7),
    "LayerNormalization": (1, 2),
    "MatMul": (1,),
    "PRelu": (1,),
    "RNN": (1, 2, 3),
}


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint, not read yet."""

    dtype: ir.DataType
    shape: tuple[int, ...]
    read: Callable[[], Array]


def bind_weights(model: Model, path: str | PathLike[str]) -> Model:
    """Return the model with the tensors of a checkpoint bound, by name.

    A bound input becomes a constant; a bound initializer gets the checkpoint's values. Every
    tensor of the file must have its place, and every learned parameter of the graph its tensor.

    Raises:
        ModelError: names or shapes do not match; lists those missing, unexpected, of other shape.
        FormatError: the file is damaged.
        UsageError: the file has another ending.
    """
    entries = open_checkpoint(path)
    places = {v.name: v for v in model.graph.inputs} | dict(model.graph.initializers)
    _check(model, entries, places, fspath(path))
    bound = model.copy()
    graph = bound.graph
    for name, entry in entries.items():
        value = graph.initializers.get(name)
        if value is None:
            value = next(v for v in graph.inputs if v.name == name)
        dtype = value.dtype or entry.dtype
        value.const_value = _tensor(name, entry, dtype)
        value.shape = ir.Shape(entry.shape)
        value.type = ir.TensorType(dtype)
        if value.is_graph_input():
            graph.inputs.remove(value)
        graph.register_initializer(value)
    bound.ir.ir_version = max(bound.ir.ir_version, 4)
    return bound


def _check(
    model: Model, entries: Mapping[str, Entry], places: Mapping[str | None, ir.Value], path: str
) -> None:
    unexpected = [name for name in entries if name not in places]
    missing = [name for name in parameters(model) if name not in entries]
    found = {name: entry for name, entry in entries.items() if name in places}
    wrong = [
        f"{name} is {list(entry.shape)}, the model needs {_dims(places[name])}"
        for name, entry in found.items()
        if not _fits(entry.shape, places[name])
    ]
    wrong += [
        f"{name} is {entry.dtype}, the model needs {places[name].dtype}"
        for name, entry in found.items()
        if not _castable(entry.dtype, places[name].dtype)
    ]
    problems = [
        f"{what}: {', '.join(names[:LISTED])}{_more(names)}"
        for what, names in (
            ("missing from the file", missing),
            ("not in the model", unexpected),
            ("of another shape or type", wrong),
        )
        if names
    ]
    if problems:
        raise ModelError(
            f"the weights of {path} do not fit the model: {'; '.join(problems)}; "
            "rename or add them in the file"
        )


LISTED = 8  # names per kind of problem


def _more(names: list[str]) -> str:
    return f" and {len(names) - LISTED} more" if len(names) > LISTED else ""


def parameters(model: Model) -> Iterable[str]:
    """Return the inputs and initializers of the graph that are learned, in order, once each."""
    slots = (
        node.inputs[index]
        for node in all_nodes(model)
        for index in PARAMETERS.get(node.op_type, ())
        if node.domain == "" and index < len(node.inputs)
    )
    return dict.fromkeys(
        value.name
        for value in slots
        if value is not None
        and value.name
        and value.graph is model.graph
        and (value.is_initializer() or (value.is_graph_input() and _static(value)))
    )


def _static(value: ir.Value) -> bool:
    return value.shape is not None and value.shape.is_static()


def _dims(value: ir.Value) -> list[object]:
    return [] if value.shape is None else [d if isinstance(d, int) else str(d) for d in value.shape]


def _fits(shape: tuple[int, ...], value: ir.Value) -> bool:
    if value.const_value is not None:
        return shape == dims(value.const_value)
    if value.shape is None:
        return True
    return len(shape) == len(value.shape) and all(
        not isinstance(d, int) or d == s for d, s in zip(value.shape, shape, strict=True)
    )


def _castable(have: ir.DataType, want: ir.DataType | None) -> bool:
    if want is None or have == want:
        return True
    return have.is_floating_point() and want.is_floating_point()


def _tensor(name: str, entry: Entry, dtype: ir.DataType) -> ir.TensorProtocol:
    def evaluate() -> ir.TensorProtocol:
        values = np.ascontiguousarray(entry.read()).astype(dtype.numpy(), copy=False)
        return ir.Tensor(values.reshape(entry.shape), dtype=dtype)

    if int(np.prod(entry.shape)) * dtype.itemsize <= LAZY_BYTES:
        return evaluate()
    return ir.LazyTensor(evaluate, dtype=dtype, shape=ir.Shape(entry.shape), name=name)


def open_checkpoint(path: str | PathLike[str]) -> dict[str, Entry]:
    """Return the tensors of a .npz or .safetensors file by name, without reading their values."""
    kind = Path(path).suffix.lower()
    if kind not in ENDINGS:
        raise UsageError(f"{fspath(path)}: a checkpoint ends in {' or '.join(ENDINGS)}")
    if not Path(path).is_file():
        raise QtoolError(f"cannot read {fspath(path)}: there is no such file")
    try:
        return _open_npz(path) if kind == ".npz" else _open_safetensors(path)
    except PermissionError as error:
        raise QtoolError(f"cannot read {fspath(path)}: {error.strerror}") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(f"{fspath(path)} is not a {kind[1:]} file: {error}") from error


def _open_npz(path: str | PathLike[str]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read_header = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read_header(file)
            if dtype.hasobject or name in entries:
                raise ValueError(f"array {name!r} holds Python objects or comes twice")
            if int(np.prod(shape)) * dtype.itemsize > member.file_size:
                raise ValueError(f"array {name!r} ends early")

            def read(name: str = name) -> Array:
                with np.load(path, allow_pickle=False) as arrays:
                    return np.asarray(arrays[name])

            entries[name] = Entry(ir.DataType.from_numpy(dtype.newbyteorder("=")), shape, read)
    return entries


def _open_safetensors(path: str | PathLike[str]) -> dict[str, Entry]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise QtoolError(
            "reading .safetensors needs the package safetensors: pip install 'qtool[safetensors]'"
        ) from error
    entries: dict[str, Entry] = {}
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                header = file.get_slice(name)

                def read(name: str = name) -> Array:
                    with safe_open(path, framework="np") as reopened:
                        return np.asarray(reopened.get_tensor(name))

                dtype = ir.DataType[DTYPES.get(header.get_dtype(), header.get_dtype())]
                entries[name] = Entry(dtype, tuple(header.get_shape()), read)
    except (SafetensorError, KeyError) as error:
        raise ValueError(str(error)) from error
    return entries


DTYPES = {  # names of safetensors -> names of ONNX
    "F64": "DOUBLE", "F32": "FLOAT", "F16": "FLOAT16", "BF16": "BFLOAT16",
    "I64": "INT64", "I32": "INT32", "I16": "INT16", "I8": "INT8",
    "U64": "UINT64", "U32": "UINT32", "U16": "UINT16", "U8": "UINT8",
}  # fmt: skip
