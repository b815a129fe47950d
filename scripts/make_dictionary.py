"""Made qtool/codecs/onnx.dictionary, which the codec `lz` copies from: once, as it is frozen.

    python scripts/make_dictionary.py qtool/codecs/onnx.dictionary

What many ONNX graphs have in common, as protobuf writes it: nodes and attributes of the usual
operators with their usual values, what qtool inserts, and words of exporters' names. The likelier
it is, the nearer to the end. It comes from the vocabulary of ONNX, not from a set of models.
"""

from __future__ import annotations

import sys
from pathlib import Path

from onnx import NodeProto, TensorProto, helper

WORDS = (
    "model_1/sequential/block_features.encoder.decoder.head.neck.embed_tokens.self_attn.q_proj"
    "k_proj.v_proj.out_proj.attention.query.key.value.dense.output.LayerNorm.weight.bias"
    "lstm.gru.rnn.hidden.cell.state.gamma.beta.moving_mean.moving_variance.running_mean.running_var"
    "squeeze.expand1x1.expand3x3.fire.depthwise.pointwise.separable.dw.pw.stem.mixer.pool.classifier"
    "se_block.shortcut.downsample.residual.branch.proj.project.expand.reduce.stage1.unit1."
    "/Constant_output_0/Unsqueeze_output_0/Reshape_output_0/Transpose_output_0/Concat_output_0"
    "/GlobalAveragePool_output_0/MaxPool_output_0/MatMul_output_0/Gemm_output_0/Flatten_output_0"
    "/Softmax_output_0/Sigmoid_output_0/Clip_output_0/Mul_output_0/Add_output_0/Relu_output_0"
    "__fused_const_0_batchnorm_StatefulPartitionedCall/model/conv2d_1/BiasAdd/ReadVariableOp:0"
    "Plus_Output_0_ReLU_Output_0_Convolution_Pooling_Times_Parameter_reshape_shape"
    "p2o.helper.batch_norm_0.w_0_conv2d_0.w_0_relu_0.tmp_0_elementwise_add_0_unk__0"
    "onnx::Conv_100onnx::Gemm_onnx::MatMul_onnx::Reshape_"
    "Conv__1_weights_fused_bn_bias_fused_bn/separable_conv2d_1/depthwise;/Relu6_dequant"
    "backbone.layer1.0.conv1.weightlayer1.0.bn1.biaslayer2.0.downsample.0.weightlayer3.1.conv2.bias"
    "features.0.conv.0.weightfc.weightfc.biaslinear.weightlinear.biasclassifier.1.weight"
    "/layer1/layer1.0/conv1/Conv_output_0/layer2/layer2.1/relu/Relu_output_0/layer3/layer3.0/"
    "bn1/BatchNormalization_output_0_bias/features/features.3/squeeze_activation/Relu_output_0"
    "data_0inputinput_1logitsprobabilitiesoutputoutput_0batch_sizebatchheightwidth"
    "0123456789101112131415161718192021222324252627282930313233343536373839404142434445464748495051"
)
DETAILS = (
    '"model":"","n_samples":1000,"shards":[],"source":"samples"},{"command":"prune","options":{'
    '"sparsity":0.5},"version":"0.1.0"},{"command":"cluster","options":{"bits":4},"version":"0.1.0"}'
    '{"source":null,\n{"source":"","history":[{"command":"freeze","options":{},"version":"0.1.0"},'
    '{"command":"calibrate","options":{"samples":1000,"source":"samples"},"version":"0.1.0"},'
    '{"command":"quantize","options":{},"version":"0.1.0"}],\n"preprocess":null,\n"preprocess":{'
    '"channels":"RGB","layout":"NCHW","mean":[0.485,0.456,0.406],"resize":[224,224],'
    '"std":[0.229,0.224,0.225]},\n"statistics":null}\n'
)


def attribute(name: str, value: object) -> bytes:
    """Return an attribute as a node holds it."""
    node = NodeProto(attribute=[helper.make_attribute(name, value)])
    return node.SerializeToString()


def window(kernel: int, stride: int, pad: int, **more: int) -> bytes:
    """Return the attributes of a window that moves over an image."""
    values = {"kernel_shape": [kernel] * 2, "pads": [pad] * 4, "strides": [stride] * 2}
    return b"".join(attribute(n, v) for n, v in sorted({**values, **more}.items()))


def node(op: str, inputs: list[str], output: str, *attributes: bytes) -> bytes:
    """Return a node; a graph has it with its length in front."""
    body = NodeProto(op_type=op, input=inputs, output=[output]).SerializeToString()
    body += b"".join(attributes)
    return b"\x0a" + (bytes([len(body)]) if len(body) < 128 else b"\xe0\x01") + body


def tensor(name: str, dtype: int, dims: list[int], row: str = "") -> bytes:
    """Return an initializer; one with a row is stored apart."""
    one = TensorProto(name=name, data_type=dtype, dims=dims)
    if row:
        one.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "tensors.bin"), ("offset", row)):
            one.external_data.add(key=key, value=value)
    else:
        one.raw_data = b"\0\0\x80\x3f" if dtype == TensorProto.FLOAT else b"\x80"
    body = one.SerializeToString()
    return b"\x2a" + bytes([len(body)]) + body


def pieces() -> list[bytes]:
    """Return what the dictionary consists of, the likeliest last."""
    ops = (
        "LayerNormalization Gather Slice Split Squeeze Unsqueeze Shape Cast Where Expand Resize "
        "Pad Exp Log Sqrt Pow Erf Tanh Gelu HardSwish HardSigmoid LeakyRelu PRelu Elu Div Sub "
        "ReduceMean LSTM GRU Dropout Identity Constant ConvTranspose InstanceNormalization Sigmoid "
        "Clip Mul Transpose Reshape Flatten Softmax LogSoftmax MatMul GlobalAveragePool "
        "AveragePool BatchNormalization Concat Gemm MaxPool Add Relu Conv"
    )
    conv = {"dilations": [1, 1], "group": 1}
    floats, int8, int32 = TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT32
    return [
        WORDS.encode(),
        *(b'"' + bytes([len(op)]) + op.encode() for op in ops.split()),
        attribute("epsilon", 1e-5), attribute("momentum", 0.9), attribute("alpha", 1.0),
        attribute("beta", 1.0), attribute("transA", 0), attribute("transB", 1),
        attribute("keepdims", 1), attribute("axes", [1]), attribute("perm", [0, 3, 1, 2]),
        attribute("perm", [0, 2, 3, 1]), attribute("to", 1), attribute("mode", "nearest"),
        attribute("coordinate_transformation_mode", "asymmetric"),
        attribute("nearest_mode", "floor"), attribute("allowzero", 0),
        attribute("auto_pad", "NOTSET"), attribute("auto_pad", "SAME_UPPER"),
        attribute("auto_pad", "VALID"), attribute("hidden_size", 128), attribute("axis", -1),
        attribute("ceil_mode", 0), attribute("count_include_pad", 1), attribute("storage_order", 0),
        tensor("bias", floats, [64], "0"), tensor("weight", floats, [64, 64, 3, 3], "1"),
        node("Relu", ["input"], "output"), node("Add", ["input", "other"], "output"),
        node("MaxPool", ["dq1"], "/maxpool/MaxPool_output_0", window(2, 2, 0)),
        window(7, 2, 3, **conv), window(5, 1, 2, **conv), window(1, 2, 0, **conv),
        window(3, 2, 1, **conv), window(1, 1, 0, **conv), window(3, 1, 1, **conv),
        b"\x3a\x04\x0a\x00\x10\x0d\x42\x04\x0a\x00\x10\x0d\x42\x04\x0a\x00\x10\x11",
        b"\x5a\x1f\x0a\x05input\x12\x16\x0a\x14\x08\x01\x12\x10\x0a\x02\x08\x01\x0a\x02\x08\x03",
        b"\x0a\x03\x08\xe0\x01\x0a\x03\x08\xe0\x01",
        b"\x62\x18\x0a\x06output\x12\x0e\x0a\x0c\x08\x01\x12\x08\x0a\x02\x08\x01\x0a\x02\x08\x0a",
        b"\x08\x08\x12\x07pytorch\x1a\x051.9.0\x08\x07\x12\x07tf2onnx\x3a\x0amain_graph\x12\x05qtool",
        node("DequantizeLinear", ["conv1.bias", "scale3"], "dq3", attribute("axis", 0)),
        node("DequantizeLinear", ["conv1.weight", "scale2"], "dq2", attribute("axis", 0)),
        node("Conv", ["dq1", "dq2", "dq3"], "conv1", window(3, 1, 1, **conv)),
        tensor("scale1", floats, []), tensor("zero1", TensorProto.UINT8, []),
        tensor("conv1.weight", int8, [32, 16, 3, 3], "10"), tensor("scale2", floats, [32], "11"),
        tensor("conv1.bias", int32, [32], "12"), tensor("scale3", floats, [32], "13"),
        node("QuantizeLinear", ["/conv1/Conv_output_0", "scale1", "zero1"], "q1"),
        node("DequantizeLinear", ["q1", "scale1", "zero1"], "dq1"),
        DETAILS.encode(),
    ]  # fmt: skip


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(b"".join(pieces()))
