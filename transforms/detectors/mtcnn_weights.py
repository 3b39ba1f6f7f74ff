"""MTCNN's three networks as one ONNX file, made from the weights in facenet-pytorch's wheel.

The weights are files in PyTorch's legacy format: a run of pickles followed by the raw storages.
They are read without torch, by an unpickler that builds tensors and refuses everything else.
The networks are those of Zhang et al., "Joint Face Detection and Alignment using Multi-task
Cascaded Convolutional Networks" (2016), as laid out in facenet-pytorch 2.6.0, models/mtcnn.py.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Weights = Mapping[str, npt.NDArray[np.float32]]

NETWORKS = ("pnet", "rnet", "onet")

_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER
_PROTOCOL = 1001


class WeightsError(ValueError):
    """A weight file that is not a legacy PyTorch file of plain float32 tensors."""


class _Storage:
    """A named run of float32 values whose bytes follow the pickles."""

    def __init__(self, key: str, numel: int) -> None:
        self.key = key
        self.numel = numel


class _Tensor:
    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> None:
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride


class _FloatStorage:
    """Stands for torch.FloatStorage, which pickles name but never call."""


class _Unpickler(pickle.Unpickler):
    _allowed = {  # noqa: RUF012 - never changed
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
        ("torch", "FloatStorage"): _FloatStorage,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise WeightsError(f"the pickle asks for {module}.{name}, which is refused") from None

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", kind, str(key), "cpu", int(numel), None) if kind is _FloatStorage:
                return _Storage(key, numel)
        raise WeightsError("a storage that is not plain float32 on the CPU")


def read_torch_weights(data: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """Tensors by name from the bytes of a legacy-format PyTorch state dict.

    Raises WeightsError for anything else; no name outside a fixed list of three is looked up.
    """
    file = io.BytesIO(data)
    try:
        magic, protocol, _system = (_Unpickler(file).load() for _ in range(3))
        if magic != _MAGIC or protocol != _PROTOCOL:
            raise WeightsError("not a legacy PyTorch file")
        state = _Unpickler(file).load()
        keys = _Unpickler(file).load()
        storages = {key: _read_storage(file) for key in keys}
        return {str(name): _tensor(value, storages) for name, value in state.items()}
    except WeightsError:
        raise
    except (
        # What unpickling foreign bytes raises; pickle documents that the list is not complete,
        # and the objects built here are attacker-chosen, hence the type errors.
        pickle.UnpicklingError,
        AttributeError,
        EOFError,
        IndexError,
        KeyError,
        MemoryError,
        OverflowError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise WeightsError(f"not a legacy PyTorch state dict ({type(error).__name__})") from None


def _read_storage(file: io.BytesIO) -> npt.NDArray[np.float32]:
    (numel,) = struct.unpack("<q", file.read(8))
    left = file.getbuffer().nbytes - file.tell()
    if not 0 <= 4 * numel <= left:
        raise WeightsError("the file ends before its storages do")
    return np.frombuffer(file.read(4 * numel), "<f4")


def _tensor(value: Any, storages: Mapping[Any, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    if not isinstance(value, _Tensor) or not isinstance(value.storage, _Storage):
        raise WeightsError("a value that is not a tensor")
    flat = storages[value.storage.key]
    shape = tuple(int(n) for n in value.size)
    strides = tuple(int(n) for n in value.stride)
    last = int(value.offset) + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if min((*shape, *strides), default=0) < 1 or value.offset < 0 or last >= flat.size:
        raise WeightsError("a tensor that reaches outside its storage")
    if np.prod(shape, dtype=object) > flat.size:
        raise WeightsError("a tensor larger than its storage")
    # Not always contiguous: the weights were transposed when they came from Caffe.
    view = np.lib.stride_tricks.as_strided(
        flat[value.offset :], shape, [4 * s for s in strides], writeable=False
    )
    return np.ascontiguousarray(view, np.float32)


class _Graph:
    """Adds the nodes of one network to a graph, one after the other."""

    def __init__(self, network: str, weights: Weights) -> None:
        self.network = network
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.last = f"{network}/input"

    def add(self, op: str, name: str, parameters: tuple[str, ...] = (), **attributes: Any) -> None:
        output = f"{self.network}/{name}"
        inputs = [self.last, *(f"{self.network}/{p}" for p in parameters)]
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        self.last = output

    def constant(self, name: str, value: npt.NDArray[np.float32]) -> str:
        self.initializers.append(numpy_helper.from_array(value, f"{self.network}/{name}"))
        return name

    def conv(self, name: str, prelu: str | None) -> None:
        weight = self.constant(f"{name}.weight", self.weights[f"{name}.weight"])
        bias = self.constant(f"{name}.bias", self.weights[f"{name}.bias"])
        self.add("Conv", name, (weight, bias))
        if prelu:
            slope = self.weights[f"{prelu}.weight"].reshape(-1, 1, 1)
            self.add("PRelu", prelu, (self.constant(f"{prelu}.weight", slope),))

    def pool(self, name: str, kernel: int) -> None:
        self.add("MaxPool", name, kernel_shape=[kernel] * 2, strides=[2, 2], ceil_mode=1)

    def dense(self, name: str, prelu: str | None = None) -> None:
        weight = self.constant(f"{name}.weight", self.weights[f"{name}.weight"])
        bias = self.constant(f"{name}.bias", self.weights[f"{name}.bias"])
        self.add("Gemm", name, (weight, bias), transB=1)
        if prelu:
            slope = self.constant(f"{prelu}.weight", self.weights[f"{prelu}.weight"])
            self.add("PRelu", prelu, (slope,))

    def flatten(self) -> None:
        # The weights come from Caffe by way of MATLAB, which counts width before height.
        self.add("Transpose", "columns_first", perm=[0, 3, 2, 1])
        self.add("Flatten", "flat", axis=1)


def _pnet(g: _Graph) -> None:
    g.conv("conv1", "prelu1")
    g.pool("pool1", 2)
    g.conv("conv2", "prelu2")
    g.conv("conv3", "prelu3")
    trunk = g.last
    g.conv("conv4_1", None)
    g.add("Softmax", "probability", axis=1)
    g.last = trunk
    g.conv("conv4_2", None)
    g.add("Identity", "regression")


def _rnet(g: _Graph) -> None:
    g.conv("conv1", "prelu1")
    g.pool("pool1", 3)
    g.conv("conv2", "prelu2")
    g.pool("pool2", 3)
    g.conv("conv3", "prelu3")
    g.flatten()
    g.dense("dense4", "prelu4")
    trunk = g.last
    g.dense("dense5_1")
    g.add("Softmax", "probability", axis=1)
    g.last = trunk
    g.dense("dense5_2")
    g.add("Identity", "regression")


def _onet(g: _Graph) -> None:
    g.conv("conv1", "prelu1")
    g.pool("pool1", 3)
    g.conv("conv2", "prelu2")
    g.pool("pool2", 3)
    g.conv("conv3", "prelu3")
    g.pool("pool3", 2)
    g.conv("conv4", "prelu4")
    g.flatten()
    g.dense("dense5", "prelu5")
    trunk = g.last
    g.dense("dense6_1")
    g.add("Softmax", "probability", axis=1)
    g.last = trunk
    g.dense("dense6_2")
    g.add("Identity", "regression")
    g.last = trunk
    g.dense("dense6_3")
    g.add("Identity", "landmarks")


_SHAPES: dict[str, dict[str, list[int | str]]] = {
    "pnet": {
        "input": ["n", 3, "h", "w"],
        "probability": ["n", 2, "cells_y", "cells_x"],
        "regression": ["n", 4, "cells_y", "cells_x"],
    },
    "rnet": {"input": ["n", 3, 24, 24], "probability": ["n", 2], "regression": ["n", 4]},
    "onet": {
        "input": ["n", 3, 48, 48],
        "probability": ["n", 2],
        "regression": ["n", 4],
        "landmarks": ["n", 10],
    },
}


def build_onnx(weights: Mapping[str, Weights]) -> bytes:
    """One ONNX model that holds the three networks side by side, their names prefixed `pnet/`,
    `rnet/` and `onet/`; `network` takes one out. The same weights give the same bytes.

    Raises WeightsError when a tensor is missing.
    """
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    inputs: list[onnx.ValueInfoProto] = []
    outputs: list[onnx.ValueInfoProto] = []
    for network, build in zip(NETWORKS, (_pnet, _rnet, _onet), strict=True):
        graph = _Graph(network, weights[network])
        try:
            build(graph)
        except KeyError as missing:
            raise WeightsError(f"{network}: no tensor {missing.args[0]}") from None
        nodes += graph.nodes
        initializers += graph.initializers
        for name, shape in _SHAPES[network].items():
            names = [f"{network}_{n}" if isinstance(n, str) else n for n in shape]
            value = helper.make_tensor_value_info(f"{network}/{name}", TensorProto.FLOAT, names)
            (inputs if name == "input" else outputs).append(value)
    graph_proto = helper.make_graph(nodes, "mtcnn", inputs, outputs, initializers)
    model = helper.make_model(
        graph_proto,
        producer_name="facecap",
        ir_version=8,  # fixed, as is the opset: the bytes have a known hash
        opset_imports=[helper.make_opsetid("", 13)],
    )
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def network(model: onnx.ModelProto, name: str) -> bytes:
    """One of the NETWORKS of a model made by `build_onnx`, as a model of its own.

    Raises WeightsError when the model does not hold it.
    """
    prefix = f"{name}/"
    graph = model.graph
    parts = [
        [item for item in items if item.name.startswith(prefix)]
        for items in (graph.node, graph.input, graph.output, graph.initializer)
    ]
    expected = {prefix + value for value in _SHAPES[name]}
    if {value.name for value in (*parts[1], *parts[2])} != expected:
        raise WeightsError(f"the model has no network {name} with outputs {sorted(expected)}")
    single = helper.make_model(
        helper.make_graph(parts[0], name, parts[1], parts[2], parts[3]),
        ir_version=model.ir_version,
        opset_imports=list(model.opset_import),
    )
    return single.SerializeToString()
