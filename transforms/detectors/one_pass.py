"""What the detectors that look at an image once have in common (SCRFD, YuNet): a graph freed of
its fixed input size, the canvases it is given, one or many at once, and tiles that bound the memory
of a large image."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from facecap.transforms.detectors.detections import Detections
from facecap.transforms.models import ModelError
from facecap.transforms.onnx_session import ORT_ERRORS, load_onnx, onnx_session

STRIDES = (8, 16, 32)

Floats = npt.NDArray[np.float32]
RGB = npt.NDArray[np.uint8]
Decode = Callable[[list[Floats], int], Detections]

CORE = 1536
"""Side of the squares, in pixels, that a larger image is cut into."""
MARGIN = 320
"""Pixels seen around a square, so that a face whose centre is in it is seen whole: the largest
faces that these detectors find are about 500 pixels wide."""

CALLS: dict[str, tuple[tuple[int, int], ...]] = {
    "cpu": (),
    "cuda": ((256, 32), (512, 8), (1024, 2), (CORE + 2 * MARGIN, 1)),
}
"""By provider, the calls of a network, as (side of the square canvases, images in a call); where
there are none, one image at a time lies on the smallest canvas of 32-pixel steps that holds it.

Since 1.20 ONNX Runtime plans each convolution for CUDA again whenever its input has another shape
than the last time (microsoft/onnxruntime#23006). So there are few shapes, one session for each, and
a call that is not full has its full shape, too. The call that an image belongs to follows from its
size alone, and the kernels from the call: they do not depend on the images beside it."""

_STEP = 32

_BAD_GRAPH = (IndexError, KeyError, OverflowError, TypeError, ValueError)
"""What reading a foreign graph and its constants raises: inputs that are not there, tensors of
types and sizes that cannot be."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a detector's graph looks. Its outputs, for each of `widths` one per stride, are
    [n, cells * anchors, width]; `outputs` are their names, in this order (none: by place).
    Pixels enter as (value - mean) * scale, colours in the order `channels` of RGB."""

    name: str
    widths: tuple[int, ...]
    anchors: int
    outputs: tuple[str, ...] | None
    mean: float
    scale: float
    channels: tuple[int, int, int]


class OnePass:
    """A detector's network over images of any size.

    Raises ModelError when the file is not of this form or the provider is missing.
    """

    def __init__(self, path: Path, provider: str, form: Form) -> None:
        model = load_onnx(path.read_bytes(), str(path))
        try:
            free_input_size(model, form.widths)
        except _BAD_GRAPH as error:
            raise ModelError(f"{path} is no {form.name}: {_line(error)}") from None
        data = model.SerializeToString()
        self._calls = CALLS.get(provider, ())
        sides = [side for side, _ in self._calls] or [0]
        self._sessions = {side: onnx_session(data, provider, str(path)) for side in sides}
        self._input = model.graph.input[0].name
        self._form = form
        self._outputs = None if form.outputs is None else list(form.outputs)
        self._local = threading.local()
        if form.outputs and {output.name for output in model.graph.output} != set(form.outputs):
            raise ModelError(f"{path} is no {form.name}: outputs of other names")
        try:
            outputs = self._run(sides[0], np.zeros((1, 3, 64, 128), np.float32))
        except ORT_ERRORS as error:
            raise ModelError(f"{path} cannot be run: {_line(error)}") from None
        cells = [64 * 128 // stride**2 for stride in STRIDES]
        expected = [(1, form.anchors * n, width) for width in form.widths for n in cells]
        if [np.shape(output) for output in outputs] != expected:
            raise ModelError(f"{path} is no {form.name}: outputs of other shapes")

    def look(self, images: Sequence[RGB], decode: Decode) -> list[Detections]:
        """What `decode` makes of the outputs [cells * anchors, width] for each image uint8
        [h, w, 3], which lies in the top left of a black canvas, and of the canvas' width in pixels,
        a multiple of 32. No side of an image is longer than that of the largest tile."""
        found = [Detections.none()] * len(images)
        for side, shape, chosen in self._grouped(images):
            canvases = self._canvases([images[i] for i in chosen], shape)
            outputs = self._run(side, canvases)
            for place, i in enumerate(chosen):
                found[i] = decode([output[place] for output in outputs], shape[2])
        return found

    def _grouped(
        self, images: Sequence[RGB]
    ) -> Iterator[tuple[int, tuple[int, int, int], list[int]]]:
        """Of each call: whose session it is, its images, height and width, and who is in it."""
        if not self._calls:
            for i, rgb in enumerate(images):
                height, width = (-(-length // _STEP) * _STEP for length in rgb.shape[:2])
                yield 0, (1, height, width), [i]
            return
        by_call: dict[tuple[int, int], list[int]] = {}
        for i, rgb in enumerate(images):
            call = next(call for call in self._calls if max(rgb.shape[:2]) <= call[0])
            by_call.setdefault(call, []).append(i)
        for (side, count), members in by_call.items():
            for start in range(0, len(members), count):
                yield side, (count, side, side), members[start : start + count]

    def _run(self, side: int, images: Floats) -> list[Floats]:
        return self._sessions[side].run(self._outputs, {self._input: images})

    def _canvases(self, images: Sequence[RGB], shape: tuple[int, int, int]) -> Floats:
        """The network's input: float32 [n, 3, h, w] of `shape` n, h, w. What lies behind the last
        image is anything; the thread's next call overwrites all of it."""
        count, height, width = shape
        size = count * 3 * height * width
        # The memory is kept: to get and clear fresh pages takes longer than all the rest here.
        buffer: Floats | None = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < size:
            self._local.buffer = buffer = np.zeros(size, np.float32)
        canvases = buffer[:size].reshape(count, 3, height, width)
        for canvas, rgb in zip(canvases, images, strict=False):
            height, width = rgb.shape[:2]
            for plane, channel in zip(canvas, self._form.channels, strict=True):
                plane[:height, :width] = rgb[:, :, channel]
            canvas[:, height:] = 0
            canvas[:, :height, width:] = 0
            if self._form.mean:
                canvas -= np.float32(self._form.mean)
            if self._form.scale != 1:
                canvas *= np.float32(self._form.scale)
        return canvases


def detect_in_tiles(
    images: Sequence[RGB], detect: Callable[[list[RGB]], list[Detections]]
) -> list[Detections]:
    """What `detect` finds in each image uint8 [h, w, 3], looked at as a whole where it is small,
    else in overlapping tiles, of each the faces whose centre is in its core. `detect` is given all
    of them at once."""
    tiles = [
        [(row, column) for row in _spans(rgb.shape[0]) for column in _spans(rgb.shape[1])]
        for rgb in images
    ]
    parts = [
        rgb[row.seen, column.seen]
        for rgb, of_image in zip(images, tiles, strict=True)
        for row, column in of_image
    ]
    found = iter(detect(parts))
    return [
        Detections.joined([_own(next(found), row, column) for row, column in of_image])
        if len(of_image) > 1
        else next(found)
        for of_image in tiles
    ]


def _own(found: Detections, row: _Span, column: _Span) -> Detections:
    """The faces of a tile whose centre is in its core, in the image's pixels."""
    found = found.moved(column.seen.start, row.seen.start)
    x, y = ((found.boxes[:, :2] + found.boxes[:, 2:]) / 2).T
    inside = (x >= column.first) & (x < column.past) & (y >= row.first) & (y < row.past)
    return found.take(inside)


@dataclass(frozen=True, slots=True)
class _Span:
    """One tile along one axis: what is seen, and where the centres of its own faces lie."""

    seen: slice
    first: float
    past: float


def _spans(length: int) -> Iterator[_Span]:
    if length <= CORE + 2 * MARGIN:
        yield _Span(slice(0, length), -np.inf, np.inf)
        return
    count = -(-length // CORE)
    for i in range(count):
        start, stop = i * CORE, min((i + 1) * CORE, length)
        seen = slice(max(0, start - MARGIN), min(length, stop + MARGIN))
        yield _Span(seen, start if i else -np.inf, stop if i + 1 < count else np.inf)


def free_input_size(model: onnx.ModelProto, widths: tuple[int, ...]) -> None:
    """Edit the graph in place so that batch, height and width are free.

    The exports differ: some have 640 x 640 baked into their Resize nodes and batch 1 into
    their Reshapes; some move the batch behind height and width; some are free already. Raises
    ValueError when the graph has not one output of each of `widths` for each stride.
    """
    graph = model.graph
    wanted = [width for width in widths for _ in STRIDES]
    if len(graph.input) != 1 or len(graph.output) != len(wanted):
        raise ValueError(
            f"{len(graph.input)} inputs and {len(graph.output)} outputs, not 1 and {len(wanted)}"
        )
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
    found = [output.type.tensor_type.shape.dim[2].dim_value for output in graph.output]
    if sorted(found) != sorted(wanted):
        raise ValueError(f"outputs of widths {found}, not {wanted}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
