"""ONNX files <-> Model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from qtool.errors import FormatError
from qtool.formats.atomic import replacing
from qtool.model import Model, Step

METADATA_KEY = "qtool"


def load(path: str | os.PathLike[str]) -> Model:
    """Return the model of a .onnx file; its weights in external data are mapped, not read."""
    try:
        loaded = ir.load(path)
    except Exception as error:
        raise FormatError(f"{os.fspath(path)} is not an ONNX model: {error}") from error
    known = json.loads(loaded.metadata_props.pop(METADATA_KEY, "{}"))
    return from_metadata(loaded, known)


def save(model: Model, path: str | os.PathLike[str]) -> None:
    """Write the model; statistics are dropped, history and preprocessing become metadata."""
    with replacing(path) as file:
        file.write(dumps(model))


def dumps(model: Model) -> bytes:
    """Return the model as the bytes of one ONNX file; at most 2 GiB."""
    proto = ir.to_proto(model.ir)
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(metadata(model), sort_keys=True)
    return bytes(proto.SerializeToString(deterministic=True))


def metadata(model: Model) -> dict[str, Any]:
    """Return the JSON object that an ONNX file's metadata carries about the model."""
    return {
        "history": [step.to_json() for step in model.history],
        "preprocess": None if model.preprocess is None else dict(model.preprocess),
    }


def from_metadata(loaded: ir.Model, known: Mapping[str, Any]) -> Model:
    """Return the model with the history and preprocessing that metadata() made known of."""
    steps = tuple(Step(s["command"], s["options"], s["version"]) for s in known.get("history", ()))
    return Model(loaded, preprocess=known.get("preprocess"), history=steps)
