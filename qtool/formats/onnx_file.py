"""ONNX files <-> Model."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from typing import Any

import onnx_ir as ir

from qtool.errors import FormatError, QtoolError
from qtool.formats import external, manifest, mapping, onnx_proto, onnx_write, tensors, wire
from qtool.model import Json, Model

METADATA_KEY = "qtool"
MAX_BYTES = (1 << 31) - 1  # of a protobuf
MAPPED_BYTES = 1 << 23  # the weights of larger files are mapped, not read

log = logging.getLogger("qtool")


def load(path: str | os.PathLike[str]) -> Model:
    """Return the model of a .onnx file; large weights and external data are mapped, not read.

    Raises:
        FormatError: the file is damaged, or no ONNX model, or its external data is not there.
        ModelError, UnsupportedError: it breaks the rules of ONNX, or qtool's.
    """
    name = os.fspath(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise FormatError(f"{name}: is empty")
        if size > MAX_BYTES:
            raise FormatError(
                f"{name}: has {size} bytes; no ONNX model has over {MAX_BYTES}: larger ones keep "
                "their weights in external data"
            )
        data = mapping.map_file(file) if size > MAPPED_BYTES else memoryview(file.read())
    return _loads(data, name, os.path.dirname(name) or ".")


def loads(data: bytes, *, name: str, folder: str | os.PathLike[str]) -> Model:
    """Return the model of the bytes of an ONNX file; external data is looked for in folder."""
    return _loads(memoryview(data), name, folder)


def _loads(data: memoryview, name: str, folder: str | os.PathLike[str]) -> Model:
    files = external.ExternalFiles(folder)

    def place(location: str) -> memoryview:
        return data if location == wire.HERE else files.data(location)

    try:
        proto = wire.take_out(data) if len(data) > MAPPED_BYTES else bytes(data)
    except FormatError as error:
        raise onnx_proto.not_onnx(data, name) from error
    loaded = onnx_proto.parse(proto, name, lambda location: len(place(location)))

    def stored(tensor: ir.TensorProtocol) -> ir.TensorProtocol | None:
        if not isinstance(tensor, ir.ExternalTensor):
            return None
        length = tensors.n_bytes(tensor.dtype, tensor.shape.numpy())
        return tensors.StoredTensor(
            place(str(tensor.location)), tensor.offset or 0, length, tensor.dtype,
            tensor.shape, where=(name, tensor.name or ""), name=tensor.name,
            doc_string=tensor.doc_string, metadata_props=dict(tensor.metadata_props),
        )  # fmt: skip

    tensors.replace_tensors(loaded, stored)
    digest = hashlib.sha256()
    for piece in mapping.pieces(data, 0, len(data)):
        digest.update(piece)
    text = loaded.metadata_props.pop(METADATA_KEY, None)
    return from_metadata(loaded, text, name, digest.hexdigest())


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write the model, atomically; weights that do not fit a protobuf go into a file beside it.

    Statistics are dropped, which is said; history and preprocessing become metadata.

    Raises:
        QtoolError: the file cannot be written.
    """
    quantized = bool(model.history) and model.history[-1].command == "quantize"
    if (model.statistics is not None or model.batch_norm) and not quantized:  # which took them
        what = (
            "means and deviations of BatchNormalizations"
            if model.statistics is None
            else "statistics"
        )
        log.info("%s: an .onnx holds no %s; save a .qtm to keep them", os.fspath(path), what)
    onnx_write.save(with_metadata(model), path)


def dumps(model: Model) -> bytes:
    """Return the model as the bytes of one ONNX file; at most 2 GiB."""
    return onnx_write.dumps(with_metadata(model))


def with_metadata(model: Model) -> ir.Model:
    """Return a copy of the graph that carries what metadata() says."""
    clone = model.ir.clone()
    text = json.dumps(metadata(model), sort_keys=True, allow_nan=False)
    clone.metadata_props[METADATA_KEY] = text
    return clone


def metadata(model: Model) -> dict[str, Any]:
    """Return the JSON object that an ONNX file's metadata carries about the model."""
    return {
        "history": [step.to_json() for step in model.history],
        "preprocess": None if model.preprocess is None else dict(model.preprocess),
        "source": model.source,
    }


def from_metadata(loaded: ir.Model, text: str | None, name: str, source: str) -> Model:
    """Return the model with what metadata() said of it; damaged metadata is left out, and said.

    source is the hash of the file, which is the model's source where the text names none.
    """
    if text is None:
        return Model(loaded, source=source)
    where = f"{name}: metadata {METADATA_KEY!r}"
    try:
        known = manifest.Object(manifest.parse_json(text.encode(), where), where)
        history = manifest.steps(known.get("history", list), where)
        preprocess: Json = known.get("preprocess", dict, type(None))
        found = known.get("source", str, type(None)) if "source" in known.value else None
    except QtoolError as error:
        log.warning("%s; history and preprocessing are lost", error)
        return Model(loaded, source=source)
    return Model(loaded, preprocess=preprocess, history=history, source=found or source)
