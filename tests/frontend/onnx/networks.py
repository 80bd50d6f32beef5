"""Small networks as exporters write them: QONNX, QCDQ, straight-through arithmetic, NHWC."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from tests.frontend.onnx.models import QONNX, graph

FLOAT = TensorProto.FLOAT


def node(op, inputs, outputs, name="", domain="", **attributes):
    return helper.make_node(
        op, inputs.split(","), outputs.split(","), name, domain=domain, **attributes
    )


def _batch_norm(rng, channels, prefix):
    return {
        f"{prefix}_{name}": rng.random(channels).astype(np.float32) + np.float32(0.5)
        for name in "gbmv"
    }


def _names(prefix):
    return ",".join(f"{prefix}_{name}" for name in "gbmv")


def qonnx(batch=1, domain=QONNX, imported=True, seed=0):
    """Brevitas: Quant and BipolarQuant, a pool behind the signs, Reshape with a batch of 1."""
    rng = np.random.default_rng(seed)
    constants = {
        "s8": np.float32(1 / 64),
        "z": np.float32(0),
        "b8": np.float32(8),
        "one": np.float32(1),
        "w1": rng.standard_normal((32, 1, 3, 3)).astype(np.float32),
        "w2": rng.standard_normal((32, 32, 3, 3)).astype(np.float32),
        "w3": rng.standard_normal((10, 32 * 9)).astype(np.float32),
        "ws": np.float32(0.1),
        "s2": np.float32(0.5),
        "b2": np.float32(2),
        "shape": np.array([batch, -1], np.int64),
        **_batch_norm(rng, 32, "n1"),
        **_batch_norm(rng, 32, "n2"),
    }
    how = {"signed": 1, "narrow": 1, "rounding_mode": "ROUND"}
    nodes = [
        node("Quant", "x,s8,z,b8", "q", "/in", domain, **how),
        node("BipolarQuant", "w1,ws", "v1", "", domain),
        node("Conv", "q,v1", "c1", "/f.0/Conv"),
        node("BatchNormalization", f"c1,{_names('n1')}", "d1"),
        node("BipolarQuant", "d1,one", "a1", "", domain),
        node("BipolarQuant", "w2,ws", "v2", "", domain),
        node("Conv", "a1,v2", "c2", "/f.1/Conv", pads=[1, 1, 1, 1]),
        node("BatchNormalization", f"c2,{_names('n2')}", "d2"),
        node("Quant", "d2,s2,z,b2", "a2", "/act", domain, **how),
        node("MaxPool", "a2", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", "p,shape", "f"),
        node("BipolarQuant", "w3,ws", "v3", "", domain),
        node("Transpose", "v3", "t3", perm=[1, 0]),
        node("MatMul", "f,t3", "y", "/head/MatMul"),
    ]
    x = rng.random((1 if batch is None else batch, 1, 8, 8)).astype(np.float32)
    domains = {domain: 1} if imported else {}
    return graph(nodes, {"x": x}, constants, domains=domains, batch=batch), {"x": x}


def qcdq(seed=0):
    """QuantizeLinear, Clip, DequantizeLinear, for activations and weights; a dynamic batch."""
    rng = np.random.default_rng(seed)
    constants = {
        "w1": rng.standard_normal((32, 3, 3, 3)).astype(np.float32),
        "w2": rng.integers(-1, 2, (16, 32, 3, 3)).astype(np.int8),
        "ws": rng.random(16).astype(np.float32) + np.float32(0.1),
        "wz": np.zeros(16, np.int8),
        "s": np.float32(0.5),
        "z": np.int8(0),
        "lo": np.int8(-2),
        "hi": np.int8(1),
        "head": rng.standard_normal((10, 16)).astype(np.float32),
        "bias": rng.standard_normal(10).astype(np.float32),
    }
    nodes = [
        node("Conv", "x,w1", "c1", "stem", auto_pad="SAME_UPPER", strides=[2, 2]),
        node("QuantizeLinear", "c1,s,z", "q"),
        node("Clip", "q,lo,hi", "k"),
        node("DequantizeLinear", "k,s,z", "a"),
        node("DequantizeLinear", "w2,ws,wz", "v2", axis=0),
        node("Conv", "a,v2", "c2", "body", pads=[0, 1, 1, 0]),
        node("Relu", "c2", "r"),
        node("GlobalAveragePool", "r", "g"),
        node("Flatten", "g", "f"),
        node("Gemm", "f,head,bias", "y", "head", transB=1),
    ]
    x = rng.standard_normal((2, 3, 9, 9)).astype(np.float32)
    return graph(nodes, {"x": x}, constants, batch="N"), {"x": x}


def straight_through(seed=0):
    """torch.onnx of a ReActNet: expand_as through Shape, (hard - soft) + soft, a dynamic batch."""
    rng = np.random.default_rng(seed)
    constants = {
        "b": rng.standard_normal((1, 32, 1, 1)).astype(np.float32),
        "one": np.float32(1),
        "minus": np.float32(-1),
        "w1": rng.standard_normal((32, 3, 3, 3)).astype(np.float32),
        "w2": rng.standard_normal((32, 32, 3, 3)).astype(np.float32),
        "i0": np.int64(0),
        "ax": np.array([0], np.int64),
        "rest": np.array([-1], np.int64),
        "head": rng.standard_normal((10, 32 * 25)).astype(np.float32),
    }
    nodes = [
        node("Conv", "x,w1", "c1", "/stem/Conv", pads=[1, 1, 1, 1]),
        node("Shape", "c1", "sh"),
        node("Expand", "b,sh", "be"),
        node("Add", "c1,be", "m"),
        node("Sign", "m", "h"),
        node("Clip", "m,minus,one", "soft"),
        node("Sub", "h,soft", "d"),
        node("Add", "d,soft", "a"),
        node("Sign", "w2", "ws"),
        node("Abs", "w2", "wa"),
        node("ReduceMean", "wa", "wm", axes=[1, 2, 3], keepdims=1),
        node("Mul", "ws,wm", "v2"),
        node("Conv", "a,v2", "c2", "/conv/Conv", pads=[1, 1, 1, 1]),
        node("Shape", "c2", "s2"),
        node("Gather", "s2,i0", "n"),
        node("Unsqueeze", "n,ax", "nu"),
        node("Concat", "nu,rest", "fs", axis=0),
        node("Reshape", "c2,fs", "f"),
        node("Gemm", "f,head", "y", "/fc/Gemm", transB=1),
    ]
    x = rng.standard_normal((2, 3, 5, 5)).astype(np.float32)
    return graph(nodes, {"x": x}, constants, batch="N"), {"x": x}


def larq(seed=0, outputs=("y", "z")):
    """tf2onnx of a Larq network: NHWC, Sign(Sign(x) + 0.1), a pad of ones, two outputs."""
    rng = np.random.default_rng(seed)
    constants = {
        "eps": np.float32(0.1),
        "one": np.float32(1),
        "pads": np.array([0, 1, 1, 0, 0, 1, 1, 0], np.int64),
        "w1": rng.standard_normal((32, 1, 3, 3)).astype(np.float32),
        "w2": np.sign(rng.standard_normal((32, 32, 3, 3))).astype(np.float32),
        "w3": np.sign(rng.standard_normal((32 * 9, 10))).astype(np.float32),
        "flat": np.array([-1, 32 * 9], np.int64),
    }
    nodes = [
        node("Transpose", "image", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t,w1", "c1", "net/conv2d/Conv2D", auto_pad="VALID"),
        node("Transpose", "c1", "n1", perm=[0, 2, 3, 1]),
        node("Sign", "n1", "s1"),
        node("Add", "s1,eps", "e1"),
        node("Sign", "e1", "a1"),
        node("Pad", "a1,pads,one", "p1"),
        node("Transpose", "p1", "t1", perm=[0, 3, 1, 2]),
        node("Conv", "t1,w2", "c2", "net/quant_conv2d/Conv2D"),
        node("MaxPool", "c2", "m2", kernel_shape=[2, 2], strides=[2, 2]),
        node("Transpose", "m2", "n2", perm=[0, 2, 3, 1]),
        node("Reshape", "n2,flat", "f"),
        node("Sign", "f", "s2"),
        node("Add", "s2,eps", "e2"),
        node("Sign", "e2", "a2"),
        node("MatMul", "a2,w3", "y", "net/quant_dense/MatMul"),
        node("Softmax", "y", "z"),
    ]
    x = rng.standard_normal((2, 8, 8, 1)).astype(np.float32)
    return graph(nodes, {"image": x}, constants, outputs, batch="unk__75"), {"image": x}


NETWORKS = {"qonnx": qonnx, "qcdq": qcdq, "straight_through": straight_through, "larq": larq}
