"""Graphs that one pass changes: name -> (pass, graph, weights, op counts after the pass)."""

# fmt: off
from __future__ import annotations

from typing import Any

import numpy as np

RNG = np.random.default_rng(7)


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> Any:
    return RNG.uniform(0.5, 2, shape).astype(np.float32)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


BN = {"g": positive(4), "b": normal(4), "m": normal(4), "v": positive(4)}
IMAGE = "g (float[N,3,8,8] x) => (float[N,4,H,W] y)"
FLAT = "g (float[N,6] x) => (float[N,4] y)"
SEQUENCE = "g (float[N,5,6] x) => (float[N,5,4] y)"
CONV = {"w": normal(4, 3, 3, 3), "c": normal(4)}
PADS = "pads=[1,1,1,1]"
HALF = np.float32(0.5)

CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, int]]] = {
    "identity": ("remove-identities", "g (float[N,3] x) => (float[N,3] y) "
        "{ a = Relu(x) b = Identity(a) y = Identity(b) }", {}, {"Relu": 1}),
    "identity of an input": ("remove-identities", "g (float[N,3] x) => (float[N,3] y) "
        "{ y = Identity(x) }", {}, {"Identity": 1}),
    "two outputs alike": ("remove-identities", "g (float[N,3] x) => (float[N,3] y, float[N,3] z) "
        "{ y = Relu(x) z = Identity(y) }", {}, {"Relu": 1, "Identity": 1}),
    "no-op layout": ("remove-identities", "g (float[N,3] x) => (float[N,3] y) { a = Relu(x) "
        "b = Reshape(a, s) c = Transpose<perm=[0,1]>(b) d = Flatten(c) e = Concat<axis=0>(d) "
        "f = Cast<to=1>(e) h = Slice(f, o, i) y = Pad(h, p) }",
        {"s": ints(0, -1), "o": ints(0), "i": ints(2**62), "p": ints(0, 0, 0, 0)}, {"Relu": 1}),
    "neutral constants": ("remove-identities", "g (float[N,3] x) => (float[N,3] y) "
        "{ a = Relu(x) b = Mul(a, u) c = Add(b, z) y = Div(c, u) }",
        {"u": np.ones((1, 3)), "z": np.zeros(1)}, {"Relu": 1}),
    "a neutral constant that widens": ("remove-identities", "g (float[N,1] x) => (float[N,3] y) "
        "{ y = Mul(x, u) }", {"u": np.ones(3)}, {"Mul": 1}),
    "a slice that cuts": ("remove-identities", "g (float[N,3] x) => (float[N,2] y) "
        "{ y = Slice(x, o, i, a) }", {"o": ints(0), "i": ints(-1), "a": ints(1)}, {"Slice": 1}),
    "transposes": ("merge-layout", "g (float[2,3,4] x) => (float[4,2,3] y) "
        "{ a = Transpose<perm=[1,2,0]>(x) y = Transpose<perm=[1,2,0]>(a) }", {},
        {"Transpose": 2}),
    "reshapes": ("merge-layout", "g (float[N,3,4] x) => (float[N,12] y) "
        "{ a = Reshape(x, s) y = Reshape(a, t) }", {"s": ints(0, 4, 3), "t": ints(0, -1)},
        {"Reshape": 2}),
    "unsqueeze, squeeze": ("merge-layout", "g (float[N,3] x) => (float[N,3] y) "
        "{ a = Relu(x) b = Unsqueeze(a, i) c = Squeeze(b, j) y = Relu(c) }",
        {"i": ints(1), "j": ints(-2)}, {"Relu": 2, "Unsqueeze": 1}),
    "unused": ("remove-unused", "g (float[N,3] x) => (float[N,3] y) "
        "{ y = Relu(x) a = Sigmoid(x) b = Tanh(a) }", {"w": normal(3)}, {"Relu": 1}),
    "constant": ("lift-constants", "g (float[N,3] x) => (float[N,3] y) "
        "{ c = Constant<value_floats=[1.0,2.0,3.0]>() y = Add(x, c) }", {}, {"Add": 1}),
    "constant expression": ("fold-constants", "g (float[N,3] x) => (float[N,3] y) "
        "{ c = Sqrt(w) d = Transpose(c) y = MatMul(x, d) }", {"w": positive(3, 3)},
        {"MatMul": 1}),
    "split constant": ("fold-constants", "g (float[N,3] x) => (float[N,2] y) "
        "{ a, b = Split<axis=1>(w) c = MatMul(x, a) d = MatMul(x, b) y = Add(c, d) }",
        {"w": normal(3, 4)}, {"MatMul": 2, "Add": 1}),
    "large expansion": ("fold-constants", "g (float[N,1] x) => (float[N,400000] y) "
        "{ c = Expand(w, s) y = Add(x, c) }", {"w": normal(1, 1), "s": ints(1, 400000)},
        {"Expand": 1, "Add": 1}),
    "view of a batch": ("fold-shapes", "g (float[N,3,4] x) => (float[N,12] y) "
        "{ s = Shape(x) n = Gather<axis=0>(s, z) m = Unsqueeze(n, i) t = Concat<axis=0>(m, k) "
        "y = Reshape(x, t) }", {"z": np.int64(0), "i": ints(0), "k": ints(-1)},
        {"Shape": 1, "Gather": 1, "Unsqueeze": 1, "Concat": 1, "Reshape": 1}),
    "view of dims without a name": ("fold-shapes", "g (float[N,3,M] x) => (float[N,L,1] y) "
        "{ a = Conv<kernel_shape=[2]>(x, w) s = Shape(a) n = Slice(s, z, i) m = Slice(s, t, e) "
        "t2 = Concat<axis=0>(n, o, m) y = Reshape(a, t2) }",
        {"w": normal(1, 3, 2), "z": ints(0), "i": ints(1), "o": ints(1), "t": ints(2),
         "e": ints(3)}, {"Conv": 1, "Shape": 1, "Slice": 2, "Concat": 1, "Reshape": 1}),
    "fixed dims of a dynamic shape": ("fold-shapes", "g (float[N,3,4] x) => (float[N,6,2] y) "
        "{ s = Shape(x) a = Slice(s, o, i) b = Mul(a, k) c = Concat<axis=0>(q, b) "
        "d = Div(c, l) y = Reshape(x, d) }",
        {"o": ints(1), "i": ints(2), "k": ints(2), "q": ints(-1), "l": ints(1)},
        {"Shape": 1, "Reshape": 1}),
    "if": ("resolve-if", """g (float[N,3] x) => (float[N,3] y) {
        y = If(c) <then_branch = t () => (float[N,3] r) { a = Relu(x) r = Neg(a) },
                   else_branch = e () => (float[N,3] r) { r = Abs(x) }> }""",
        {"c": np.array(False)}, {"Abs": 1, "Identity": 1}),
    "if with names taken": ("resolve-if", """g (float[N,3] x) => (float[N,3] y) {
        a = If(c) <then_branch = t () => (float[N,3] r) { h = Relu(x) r = Neg(h) },
                   else_branch = e () => (float[N,3] r) { r = Abs(x) }>
        b = If(c) <then_branch = t () => (float[N,3] r) { h = Exp(x) r = Neg(h) },
                   else_branch = e () => (float[N,3] r) { r = Abs(x) }>
        y = Add(a, b) }""", {"c": np.array(True)},
        {"Relu": 1, "Exp": 1, "Neg": 2, "Add": 1}),
    "auto_pad": ("explicit-pads", "g (float[N,3,8,7] x) => (float[N,4,H,W] y) "
        '{ a = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w) '
        'y = MaxPool<auto_pad="SAME_LOWER", kernel_shape=[2,2]>(a) }', CONV,
        {"Conv": 1, "MaxPool": 1}),
    "valid": ("explicit-pads", f'{IMAGE} {{ y = Conv<auto_pad="VALID">(x, w) }}', CONV,
        {"Conv": 1}),
    "pad, conv": ("merge-pad", f"{IMAGE} {{ a = Pad(x, p) y = Conv<strides=[2,2]>(a, w) }}",
        {**CONV, "p": ints(0, 0, 0, 1, 0, 0, 1, 0)}, {"Conv": 1}),
    "pad, average pool": ("merge-pad", "g (float[N,3,8,8] x) => (float[N,3,H,W] y) "
        "{ a = Pad(x, p) y = AveragePool<kernel_shape=[3,3]>(a) }",
        {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}, {"AveragePool": 1}),
    "pad, average pool that leaves its pads out": ("merge-pad",
        "g (float[N,3,8,8] x) => (float[N,3,H,W] y) "
        "{ a = Pad(x, p) y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(a) }",
        {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}, {"Pad": 1, "AveragePool": 1}),
    "pad with ones": ("merge-pad", f"{IMAGE} {{ a = Pad(x, p, u) y = Conv(a, w) }}",
        {**CONV, "p": ints(0, 0, 1, 1, 0, 0, 1, 1), "u": np.float32(1)}, {"Pad": 1, "Conv": 1}),
    "gemm with factors": ("plain-gemm", f"{FLAT} {{ y = Gemm<alpha=0.5, beta=2.0>(x, w, c) }}",
        {"w": normal(6, 4), "c": normal(4)}, {"Gemm": 1}),
    "sum of three": ("plain-sum", "g (float[N,3] x, float[1,3] z) => (float[N,3] y) "
        "{ y = Sum(z, x, x) }", {}, {"Add": 2}),
    "conv, bn": ("fold-affine", f"{IMAGE} {{ a = Conv<{PADS}>(x, w) "
        "y = BatchNormalization(a, g, b, m, v) }", {**CONV, **BN}, {"Conv": 1}),
    "conv with bias, bn": ("fold-affine", f"{IMAGE} {{ a = Conv(x, w, c) "
        "y = BatchNormalization<epsilon=0.1>(a, g, b, m, v) }", {**CONV, **BN}, {"Conv": 1}),
    "grouped conv, mul, add": ("fold-affine", "g (float[N,4,8] x) => (float[N,6,8] y) "
        "{ a = Conv<group=2, pads=[1,1]>(x, w) b = Mul(k, a) y = Add(b, c) }",
        {"w": normal(6, 2, 3), "k": normal(6, 1), "c": normal(1, 6, 1)}, {"Conv": 1}),
    "conv, sub, div": ("fold-affine", f"{IMAGE} {{ a = Conv(x, w, c) b = Sub(k, a) "
        "y = Div(b, v) }", {**CONV, "k": normal(1), "v": positive(4, 1, 1)}, {"Conv": 1}),
    "conv transpose, bn": ("fold-affine", "g (float[N,6,4,4] x) => (float[N,4,H,W] y) "
        "{ a = ConvTranspose<group=2>(x, w) y = BatchNormalization(a, g, b, m, v) }",
        {"w": normal(6, 2, 3, 3), **BN}, {"ConvTranspose": 1}),
    "mul, conv transpose": ("fold-affine", "g (float[N,6,4,4] x) => (float[N,4,H,W] y) "
        "{ a = Mul(x, k) y = ConvTranspose<group=2>(a, w) }",
        {"w": normal(6, 2, 3, 3), "k": normal(6, 1, 1)}, {"ConvTranspose": 1}),
    "bn, conv without pads": ("fold-affine", "g (float[N,4,8,8] x) => (float[N,5,6,6] y) "
        "{ a = BatchNormalization(x, g, b, m, v) y = Conv(a, w, c) }",
        {**BN, "w": normal(5, 4, 3, 3), "c": normal(5)}, {"Conv": 1}),
    "bn, padded conv": ("fold-affine", "g (float[N,4,8,8] x) => (float[N,5,8,8] y) "
        f"{{ a = BatchNormalization(x, g, b, m, v) y = Conv<{PADS}>(a, w) }}",
        {**BN, "w": normal(5, 4, 3, 3)}, {"BatchNormalization": 1, "Conv": 1}),
    "mul, add, padded conv": ("fold-affine", "g (float[N,4,8,8] x) => (float[N,5,8,8] y) "
        f"{{ a = Mul(x, k) b = Add(a, l) y = Conv<{PADS}>(b, w) }}",
        {"k": positive(4, 1, 1), "l": normal(4, 1, 1), "w": normal(5, 4, 3, 3)},
        {"Add": 1, "Conv": 1}),
    "matmul, add": ("fold-affine", f"{FLAT} {{ a = MatMul(x, w) y = Add(a, c) }}",
        {"w": normal(6, 4), "c": normal(1, 4)}, {"Gemm": 1}),
    "matmul, mul, add": ("fold-affine", f"{FLAT} {{ a = MatMul(x, w) b = Mul(a, k) "
        "y = Add(c, b) }", {"w": normal(6, 4), "k": normal(4), "c": normal(4)}, {"Gemm": 1}),
    "sequence matmul, add, mul": ("fold-affine", f"{SEQUENCE} {{ a = MatMul(x, w) "
        "b = Add(a, c) y = Mul(b, k) }", {"w": normal(6, 4), "k": normal(4), "c": normal(4)},
        {"MatMul": 1, "Add": 1}),
    "gemm, bn": ("fold-affine", f"{FLAT} {{ a = Gemm<transB=1>(x, w, c) "
        "y = BatchNormalization(a, g, b, m, v) }", {"w": normal(4, 6), "c": normal(1), **BN},
        {"Gemm": 1}),
    "bn, gemm": ("fold-affine", "g (float[N,4] x) => (float[N,3] y) "
        "{ a = BatchNormalization(x, g, b, m, v) y = Gemm(a, w) }", {"w": normal(4, 3), **BN},
        {"Gemm": 1}),
    "conv read twice": ("fold-affine", "g (float[N,3,8,8] x) => (float[N,4,6,6] y) "
        "{ a = Conv(x, w) b = Mul(a, k) y = Add(a, b) }", {**CONV, "k": HALF},
        {"Conv": 1, "Mul": 1, "Add": 1}),
    "tied weights": ("fold-affine", "g (float[N,3,8,8] x) => (float[N,4,6,6] y) "
        "{ a = Conv(x, w) b = Mul(a, k) c = Abs(x) d = Conv(c, w) y = Add(d, b) }",
        {"w": CONV["w"], "k": HALF}, {"Conv": 2, "Abs": 1, "Mul": 1, "Add": 1}),
    "tied weights, own bias": ("fold-affine", "g (float[N,3,8,8] x) => (float[N,4,6,6] y) "
        "{ a = Conv(x, w) b = Add(a, k) c = Abs(x) d = Conv(c, w) y = Add(d, b) }",
        {"w": CONV["w"], "k": normal(4, 1, 1)}, {"Conv": 2, "Abs": 1, "Add": 1}),
    "a constant over pixels": ("fold-affine", "g (float[N,3,8,8] x) => (float[N,4,6,6] y) "
        "{ a = Conv(x, w) y = Add(a, k) }", {"w": CONV["w"], "k": normal(6, 6)},
        {"Conv": 1, "Add": 1}),
    "a constant that widens": ("fold-affine", "g (float[N,3,8,8] x) => (float[N,4,6,6] y) "
        "{ a = Conv(x, w) y = Mul(a, k) }", {"w": normal(1, 3, 3, 3), "k": normal(4, 1, 1)},
        {"Conv": 1, "Mul": 1}),
    "bn alone": ("lower-batchnorm", "g (float[N,4,8,8] x) => (float[N,4,8,8] y) "
        "{ a = Relu(x) h = BatchNormalization(a, g, b, m, v) y = Relu(h) }", BN,
        {"Relu": 2, "Conv": 1}),
    "flat bn alone": ("lower-batchnorm", "g (float[N,4] x) => (float[N,4] y) "
        "{ y = BatchNormalization(x, g, b, m, v) }", BN, {"Mul": 1, "Add": 1}),
    "hard sigmoid": ("fuse-hardsigmoid", "g (float[N,4] x) => (float[N,4] y) "
        "{ a = Add(x, t) b = Clip(a, z, s) y = Div(b, s) }",
        {"t": np.float32(3), "z": np.float32(0), "s": np.float32(6)},
        {"Add": 1, "Clip": 1, "HardSigmoid": 1}),
    "hard swish": ("fuse-hardswish", "g (float[N,4] x) => (float[N,4] y) "
        "{ a = HardSigmoid<alpha=0.16666667, beta=0.5>(x) y = Mul(a, x) }", {},
        {"HardSigmoid": 1, "HardSwish": 1}),
    "gelu": ("fuse-gelu", "g (float[N,4] x) => (float[N,4] y) "
        "{ a = Div(x, r) b = Erf(a) c = Add(b, u) d = Mul(x, c) y = Mul(d, h) }",
        {"r": np.float32(2**0.5), "u": np.float32(1), "h": HALF},
        {"Div": 1, "Erf": 1, "Add": 1, "Mul": 1, "Gelu": 1}),
    "gelu in another order": ("fuse-gelu", "g (float[N,4] x) => (float[N,4] y) "
        "{ h = Mul(k, x) a = Mul(x, r) b = Erf(a) c = Add(u, b) y = Mul(h, c) }",
        {"r": np.float32(0.5**0.5), "u": np.float32(1), "k": HALF},
        {"Mul": 2, "Erf": 1, "Add": 1, "Gelu": 1}),
    "gelu with tanh": ("fuse-gelu", "g (float[N,4] x) => (float[N,4] y) "
        "{ a = Pow(x, t) b = Mul(a, q) c = Add(x, b) d = Mul(c, r) e = Tanh(d) f = Add(e, u) "
        "i = Mul(h, x) y = Mul(i, f) }",
        {"t": np.float32(3), "q": np.float32(0.044715), "r": np.float32((2 / np.pi) ** 0.5),
         "u": np.float32(1), "h": HALF},
        {"Pow": 1, "Mul": 3, "Add": 2, "Tanh": 1, "Gelu": 1}),
    "softmax that was flattened": ("unflatten-softmax", "g (float[N,M,4] x) => (float[N,M,4] y) "
        "{ a = Flatten<axis=2>(x) b = Softmax<axis=-1>(a) s = Shape(x) y = Reshape(b, s) }", {},
        {"Flatten": 1, "Softmax": 2, "Shape": 1}),
    "softmax over two axes": ("unflatten-softmax", "g (float[N,M,4] x) => (float[N,M,4] y) "
        "{ a = Flatten<axis=1>(x) b = Softmax<axis=-1>(a) s = Shape(x) y = Reshape(b, s) }", {},
        {"Flatten": 1, "Softmax": 1, "Shape": 1, "Reshape": 1}),
    "layer norm": ("fuse-layernorm", "g (float[N,5,4] x) => (float[N,5,4] y) "
        "{ a = ReduceMean<axes=[-1]>(x) b = Sub(x, a) c = Pow(b, t) d = ReduceMean<axes=[2]>(c) "
        "e = Add(d, s) f = Sqrt(e) y = Div(b, f) }",
        {"t": np.float32(2), "s": np.float32(1e-5)},
        {"ReduceMean": 2, "Sub": 1, "Pow": 1, "Add": 1, "Sqrt": 1, "LayerNormalization": 1}),
}
# the full form of a LayerNormalization needs two passes
SEQUENCES = {
    "layer norm, mul, add": (("fuse-layernorm", "fold-into-layernorm", "remove-unused"),
        "g (float[N,5,4] x) => (float[N,5,4] y) { a = ReduceMean<axes=[-1]>(x) b = Sub(x, a) "
        "c = Mul(b, b) d = ReduceMean<axes=[-1]>(c) e = Add(d, s) f = Sqrt(e) h = Div(b, f) "
        "i = Mul(h, k) y = Add(i, l) }",
        {"s": np.float32(1e-5), "k": normal(4), "l": normal(4)}, {"LayerNormalization": 1}),
    "transposes": (("merge-layout", "remove-unused"), CASES["transposes"][1], {},
        {"Transpose": 1}),
    "hard swish": (("fuse-hardsigmoid", "fuse-hardswish", "remove-unused"),
        "g (float[N,4] x) => (float[N,4] y) "
        "{ a = Add(x, t) b = Clip(a, z, s) c = Mul(x, b) y = Div(c, s) }",
        {"t": np.float32(3), "z": np.float32(0), "s": np.float32(6)}, {"HardSwish": 1}),
}
