"""Write the files of tests/golden that do not exist yet; the only thing that ever writes them.

    python scripts/freeze_golden.py           # add what is missing
    python scripts/freeze_golden.py --check   # exit code 1 if a file is missing

A golden file is never changed: every later qtool must read it. What a new version of the format
needs is a new file. bad/ holds files that must be refused; golden_bad.py makes them.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from golden_bad import BAD
from onnx import TensorProto, helper

from qtool.formats import onnx_file, qtm_file
from qtool.model import (
    BatchNormStatistics,
    GramStatistics,
    Model,
    Statistics,
    Step,
    TensorStatistics,
    fingerprint,
)

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
DTYPES = {  # every element type that has bytes, and values that show its layout
    "float32": np.float32, "uint8": np.uint8, "int8": np.int8, "uint16": np.uint16,
    "int16": np.int16, "int32": np.int32, "int64": np.int64, "bool": np.bool_,
    "float16": np.float16, "float64": np.float64, "uint32": np.uint32, "uint64": np.uint64,
    "complex64": np.complex64, "complex128": np.complex128, "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2": ml_dtypes.float8_e5m2, "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "uint4": ml_dtypes.uint4, "int4": ml_dtypes.int4, "float4_e2m1fn": ml_dtypes.float4_e2m1fn,
    "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu, "uint2": ml_dtypes.uint2, "int2": ml_dtypes.int2,
}  # fmt: skip


def tiny() -> Model:
    """Return y = x + w, with one tensor in the table: the worked example of docs/qtm-format.md."""
    weights = np.arange(64, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    return _model(graph)


def dtypes() -> Model:
    """An initializer of each element type, of odd sizes; empty ones, scalars and strings."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "dtypes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None])],
    )
    model = _model(graph)
    for name, dtype in DTYPES.items():
        bits = ir.DataType.from_numpy(np.dtype(dtype)).bitwidth
        n_values = 256 * 8 // bits + 1  # just enough for the table, and odd
        values = (np.arange(n_values) % min(2**bits, 100)).astype(np.int32).astype(dtype)
        for suffix, array in (("", values), ("_one", values[3].reshape(())), ("_none", values[:0])):
            _add(model, name + suffix, ir.Tensor(array, name=name + suffix))
    strings = ir.StringTensor([b"", b"caf\xc3\xa9", b"\xff"], shape=ir.Shape([3, 1]), name="text")
    _add(model, "text", strings)
    return model


def full() -> Model:
    """Everything a model can carry: subgraphs, functions, custom ops, statistics, history."""
    rng = np.random.default_rng(0)
    shared = rng.integers(-99, 99, (8, 48)).astype(np.int8)
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Add", ["h", f"b_{name}"], [f"{name}_out"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [1, 96])],
            [onnx.numpy_helper.from_array(rng.random((1, 96), np.float32), f"b_{name}")],
        )
        for name in ("then", "else")
    }
    constant = onnx.numpy_helper.from_array(rng.random((1, 96), np.float32), "hidden")
    nodes = [
        helper.make_node("Constant", [], ["c"], name="constant", value=constant),
        helper.make_node("Twice", ["x"], ["t"], name="call", domain="local", gain=2.0),
        helper.make_node("Add", ["t", "c"], ["h"], name="add", doc_string="a node's words"),
        helper.make_node("If", ["flag"], ["i"], name="if", **branches),
        helper.make_node("Mystery", ["i", "", "w"], ["y"], domain="com.example", text="caf\u00e9",
                         numbers=[1, 2], reals=[0.5]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "full",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 96]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(shared, name) for name in ("w", "v")],
    )
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 21)], ["gain"],
    )  # fmt: skip
    model = _model(graph, functions=[function], domains=("local", "com.example"))
    initializers = model.graph.initializers
    initializers["v"].const_value = initializers["w"].const_value  # one tensor, two names
    return Model(
        model.ir,
        statistics=_statistics(fingerprint(model), rng),
        batch_norm={"h": BatchNormStatistics(rng.random(96, np.float32), np.ones(96, np.float32))},
        preprocess={"layout": "NCHW", "mean": [0.5], "resize": [32, 32]},
        history=(
            Step("freeze", {"set_dim": ["batch=1"]}, "0.1.0"),
            Step("calibrate", {"samples": 3, "ratio": 0.1, "note": "caf\u00e9"}, "0.1.0"),
        ),
        source="5e" * 32,
    )


def _statistics(model: str, rng: np.random.Generator) -> Statistics:
    counts = rng.integers(0, 2**40, 300) * (rng.random(300) < 0.3)
    counts[[0, -1]] = 1, 2**62
    tensors = {
        "h": TensorStatistics(-0.5, 96.25, int(counts.sum()), 7, -12, -150, counts),
        "empty": TensorStatistics(float("inf"), float("-inf"), 0, 0, 0, 0, np.zeros(0, np.int64)),
    }
    values = rng.integers(0, 2**63, (2, 6, 2)).astype(np.uint64)
    grams = {"w": GramStatistics(12, 2, 3, 40, values)}
    return Statistics(model, "samples", 12, ("2/8",), tensors, grams)


def _model(
    graph: onnx.GraphProto,
    *,
    functions: list[onnx.FunctionProto] = [],  # noqa: B006
    domains: tuple[str, ...] = (),
) -> Model:
    opsets = [helper.make_opsetid("", 21), *(helper.make_opsetid(d, 1) for d in domains)]
    proto = helper.make_model(
        graph, opset_imports=opsets, ir_version=10, functions=functions,
        producer_name="freeze_golden",
    )  # fmt: skip
    return Model(ir.serde.deserialize_model(proto))


def _add(model: Model, name: str, tensor: ir.TensorProtocol) -> None:
    value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype))
    value.shape = ir.Shape(tensor.shape.numpy())
    model.graph.register_initializer(value)


def codecs() -> Model:
    """Return a model with a tensor for each codec of packed files, and difficult values."""
    rng = np.random.default_rng(5)
    bell = np.rint(rng.normal(0, 9, (12, 8, 3, 3))).astype(np.int8)
    shared = rng.normal(0, 1, 31).astype(np.float32)[rng.integers(0, 31, 900)]
    odd = rng.integers(0, 256, 400, np.uint8).view(np.float32).copy()
    odd[:4] = [np.nan, -0.0, np.inf, -np.inf]
    pruned = (rng.normal(0, 1, 1500) * (rng.random(1500) < 0.25)).astype(np.float32)
    scales = rng.random(40).astype(np.float32)
    ramp = np.repeat(np.arange(40, dtype=np.int8), 20)[rng.permutation(800)]
    arrays = {
        "rans": bell, "codebook": shared, "planes": odd, "sparse": pruned, "scales": scales,
        "scaled": scales * np.float32(0.3), "bits": rng.integers(0, 2, 900).astype(np.uint8),
        "huffman": ramp, "arith": np.tile(np.arange(50, dtype=np.int8), 20),
        "blocks": np.zeros((1 << 20) + 5, np.float32),
        "half": bell.reshape(-1)[:300].astype(np.float16),
        "long": np.arange(100) * 1000,
    }  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "codecs",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [onnx.numpy_helper.from_array(values, name) for name, values in arrays.items()],
    )
    return _model(graph)


def packed(build: Callable[[], Model]) -> Callable[[], bytes]:
    """Return a maker of the packed file of a model."""

    def make() -> bytes:
        file = io.BytesIO()
        qtm_file.write_packed(build(), file, threads=1)
        return file.getvalue()

    return make


PACKED = {"tiny": tiny, "dtypes": dtypes, "full": full, "codecs": codecs}
GOOD: dict[str, Callable[[], Model]] = {"tiny": tiny, "dtypes": dtypes, "full": full}


def files() -> dict[str, Callable[[], bytes]]:
    """Return how to make each file, by its path in tests/golden."""
    made: dict[str, Callable[[], bytes]] = {}
    for name, build in GOOD.items():
        made[f"v1-{name}.qtm"] = lambda build=build: qtm_file.dumps(build())  # type: ignore[misc]
        made[f"{name}.onnx"] = lambda build=build: onnx_file.dumps(build())  # type: ignore[misc]
    for name, build in PACKED.items():
        made[f"v3-{name}.qtm"] = packed(build)
    for name, damage in BAD.items():
        made[f"bad/{name}"] = damage
    return made


def main() -> int:
    """Write what is missing, or with --check only name it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    only_check = parser.parse_args().check
    missing = {path: make for path, make in files().items() if not (GOLDEN / path).exists()}
    for path, make in missing.items():
        print(f"{'missing' if only_check else 'new'}: {path}")
        if not only_check:
            (GOLDEN / path).parent.mkdir(parents=True, exist_ok=True)
            (GOLDEN / path).write_bytes(make())
    return int(only_check and bool(missing))


if __name__ == "__main__":
    sys.exit(main())
