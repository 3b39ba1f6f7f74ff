"""SCRFD (Guo et al., "Sample and Computation Redistribution for Efficient Face Detection",
2021): insightface's exported graphs, freed of their fixed input size, and their decoding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from facecap.transforms.detectors.boxes import nms
from facecap.transforms.detectors.detections import Detections
from facecap.transforms.models import ModelError
from facecap.transforms.onnx_session import ORT_ERRORS, load_onnx, onnx_session

STRIDES = (8, 16, 32)
ANCHORS = 2
"""Anchors per cell: of two sizes around the same centre, which the decoding need not know."""
MIN_SCORE = 0.5
MAX_OVERLAP = 0.4

_CANVAS = 64
"""The canvas is a multiple of this (a stride of 32 is needed), so that there are few shapes."""


_BAD_GRAPH = (IndexError, KeyError, OverflowError, TypeError, ValueError)
"""What reading a foreign graph and its constants raises: inputs that are not there, tensors of
types and sizes that cannot be."""


class Scrfd:
    """Finds faces of about 16 pixels and more, whatever `min_face`: one pass, no pyramid.

    Raises ModelError when the file is not an SCRFD with landmarks or the provider is missing.
    """

    def __init__(self, path: Path, provider: str, min_face: int) -> None:
        model = load_onnx(path.read_bytes(), str(path))
        try:
            free_input_size(model)
        except _BAD_GRAPH as error:
            raise ModelError(f"{path} is no SCRFD with landmarks: {_line(error)}") from None
        self._session = onnx_session(model.SerializeToString(), provider, str(path))
        self._input = model.graph.input[0].name
        try:
            outputs = self._session.run(None, {self._input: np.zeros((1, 3, 64, 128), np.float32)})
        except ORT_ERRORS as error:
            raise ModelError(f"{path} cannot be run: {_line(error)}") from None
        cells = [8 * 16, 4 * 8, 2 * 4]
        if [np.shape(o) for o in outputs] != [
            (1, ANCHORS * n, k) for k in (1, 4, 10) for n in cells
        ]:
            raise ModelError(f"{path} is no SCRFD with landmarks: outputs of other shapes")

    def detect(self, rgb: npt.NDArray[np.uint8]) -> Detections:
        """All faces of `rgb` uint8 [h, w, 3], in its pixels: scores from 0.5 up, best first."""
        height, width = rgb.shape[:2]
        canvas = np.zeros((_round_up(height), _round_up(width), 3), np.float32)
        canvas[:height, :width] = rgb
        images = np.ascontiguousarray(((canvas - 127.5) / 128).transpose(2, 0, 1)[None])
        outputs = self._session.run(None, {self._input: images})
        found = decode([o[0] for o in outputs], canvas.shape[1])
        kept = nms(found.boxes, found.scores, MAX_OVERLAP, pixel=1)
        return Detections(found.boxes[kept], found.scores[kept], found.landmarks[kept])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _round_up(length: int) -> int:
    return -(-length // _CANVAS) * _CANVAS


def decode(outputs: list[npt.NDArray[np.float32]], canvas_width: int) -> Detections:
    """Boxes of at least MIN_SCORE before suppression, from the nine outputs of one image:
    scores [cells * 2, 1], edge distances [cells * 2, 4] and landmark offsets [cells * 2, 10],
    in strides from the cell's corner, each for the strides 8, 16 and 32."""
    parts = []
    for level, stride in enumerate(STRIDES):
        scores = outputs[level].reshape(-1)
        (anchor,) = np.nonzero(scores >= MIN_SCORE)
        cell = anchor // ANCHORS
        columns = canvas_width // stride
        centre = np.stack([cell % columns, cell // columns], axis=1).astype(np.float32) * stride
        distances = outputs[level + 3].reshape(-1, 4)[anchor] * stride
        offsets = outputs[level + 6].reshape(-1, 5, 2)[anchor] * stride
        boxes = np.concatenate([centre - distances[:, :2], centre + distances[:, 2:]], axis=1)
        parts.append((boxes, scores[anchor], centre[:, None] + offsets))
    boxes, scores, landmarks = (np.concatenate(p) for p in zip(*parts, strict=True))
    return Detections(boxes, scores, landmarks)


def free_input_size(model: onnx.ModelProto) -> None:
    """Edit the graph in place so that batch, height and width are free.

    The exports differ: some have 640 x 640 baked into their Resize nodes and batch 1 into
    their Reshapes; some move the batch behind height and width. Raises ValueError when the
    graph does not look like an SCRFD with landmarks.
    """
    graph = model.graph
    if len(graph.input) != 1 or len(graph.output) != 9:
        raise ValueError(f"{len(graph.input)} inputs and {len(graph.output)} outputs, not 1 and 9")
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)

    def new_constant(name: str, values: npt.NDArray[np.generic]) -> str:
        if all(tensor.name != name for tensor in graph.initializer):
            graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    for node in graph.node:
        if node.op_type == "Resize" and len(node.input) == 4 and node.input[3] in constants:
            # Both resizes of the feature pyramid double the size.
            twice = new_constant("facecap/twice", np.array([1, 1, 2, 2], np.float32))
            del node.input[2:]
            node.input.append(twice)
        elif node.op_type == "Transpose":
            for attribute in node.attribute:
                if list(attribute.ints) == [2, 3, 0, 1]:
                    attribute.ints[:] = [0, 2, 3, 1]
        elif node.op_type == "Reshape" and node.input[1] in constants:
            width = int(constants[node.input[1]][-1])
            node.input[1] = new_constant(f"facecap/rows_of_{width}", np.array([0, -1, width]))
    for value, names in (
        (graph.input[0], ["n", "", "h", "w"]),
        *((output, ["n", "anchors", ""]) for output in graph.output),
    ):
        shape = value.type.tensor_type.shape
        last = shape.dim[-1].dim_value
        channels = shape.dim[1].dim_value if len(shape.dim) == 4 else last
        del shape.dim[:]
        for name in names:
            dimension = shape.dim.add()
            if name:
                dimension.dim_param = name
            else:
                dimension.dim_value = channels
    del graph.value_info[:]
    widths = [output.type.tensor_type.shape.dim[2].dim_value for output in graph.output]
    if widths != [1, 1, 1, 4, 4, 4, 10, 10, 10]:
        raise ValueError(f"outputs of widths {widths}, not three each of 1, 4 and 10")
