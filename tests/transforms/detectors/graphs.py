"""Small graphs in the form of a one-pass detector, to be looked at, spoilt and damaged."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from facecap.transforms.detectors.one_pass import STRIDES, Form


def one_pass_graph(form: Form) -> onnx.ModelProto:
    """A graph in this form, of constant weights, its input fixed to 64 x 64."""
    value, array = helper.make_tensor_value_info, onnx.numpy_helper.from_array
    names = iter(form.outputs or [f"out_{i}" for i in range(3 * len(form.widths))])
    nodes, outputs, constants = [], [], []
    for group, width in enumerate(form.widths):
        weight = np.full((form.anchors * width, 3, 1, 1), 0.01, np.float32)
        constants.append(array(np.array([-1, width]), f"rows{group}"))
        constants.append(array(weight, f"weight{group}"))
        for stride in STRIDES:
            name, out = f"{group}_{stride}", next(names)
            conv = ["x", f"weight{group}"], [f"conv{name}"]
            nodes += [
                helper.make_node("Conv", *conv, strides=[stride, stride]),
                helper.make_node("Transpose", conv[1], [f"t{name}"], perm=[2, 3, 0, 1]),
                helper.make_node("Reshape", [f"t{name}", f"rows{group}"], [out]),
            ]
            rows = form.anchors * (64 // stride) ** 2
            outputs.append(value(out, TensorProto.FLOAT, [rows, width]))
    inputs = [value("x", TensorProto.FLOAT, [1, 3, 64, 64])]
    graph = helper.make_graph(nodes, "one pass", inputs, outputs, constants)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


SPOILT = pytest.mark.parametrize(
    "how",
    ["no shape", "unknown type", "untyped input", "untyped outputs", "scalar shape",
     "other strides", "five channels"],
)  # fmt: skip


def spoil(model: onnx.ModelProto, how: str) -> None:
    graph = model.graph
    array = onnx.numpy_helper.from_array
    match how:
        case "no shape":
            reshape = next(node for node in graph.node if node.op_type == "Reshape")
            del reshape.input[1:]
        case "unknown type":
            graph.initializer[0].data_type = 99
        case "untyped input":
            graph.input[0].type.Clear()
        case "untyped outputs":
            graph.output[0].type.Clear()
        case "scalar shape":
            graph.initializer[0].CopyFrom(array(np.array(1), "rows0"))
        case "other strides":
            graph.node[0].attribute[0].ints[:] = [32, 32]
        case "five channels":
            graph.initializer[1].CopyFrom(array(np.zeros((2, 5, 1, 1), np.float32), "weight0"))
