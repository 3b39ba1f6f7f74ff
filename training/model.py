"""The network: a small residual CNN (He et al., arXiv 1512.03385) for aligned faces of 89 x 109."""

from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from .data import ATTRIBUTE_COUNT, HEIGHT, WIDTH

INPUT_NAME, OUTPUT_NAME = "rgb_0_255", "prob"
MAX_BYTES = 4_000_000
OPSET = 17


def _conv(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
    )


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, stride)
        self.second = _conv(outputs, outputs, 1)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class AttributeNet(nn.Module):
    """float32 [n, 3, 109, 89], RGB 0-255, to logits float32 [n, 40].

    Faces are aligned, so beside the average over all positions the head keeps one learned
    average per channel (the global depthwise convolution of MobileFaceNet, arXiv 1804.07573):
    it knows where on the face a feature was seen.
    """

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _conv(3, 16, 2),  # 55 x 45
            nn.ReLU(),
            Block(16, 48, 2),  # 28 x 23
            Block(48, 96, 2),  # 14 x 12
            Block(96, 96, 1),
            Block(96, 192, 2),  # 7 x 6
        )
        self.placed = nn.Sequential(
            nn.Conv2d(192, 192, (7, 6), groups=192, bias=False), nn.BatchNorm2d(192)
        )
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(2 * 192, ATTRIBUTE_COUNT)

    def forward(self, rgb: Tensor) -> Tensor:
        maps = self.features((rgb - 127.5) / 64.0)
        pooled = torch.cat([maps.mean((2, 3)), self.placed(maps).flatten(1)], 1)
        return self.classify(self.dropout(pooled))


class Calibrated(nn.Module):
    """Divides logits by a temperature (Guo et al., arXiv 1706.04599) and applies the sigmoid."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, rgb: Tensor) -> Tensor:
        return torch.sigmoid(self.network(rgb) / self.temperature)


def export(network: nn.Module, temperature: float, attributes: tuple[str, ...], path: Path) -> None:
    """Writes one ONNX file: `rgb_0_255` float32 [n, 3, 109, 89] to `prob` float32 [n, 40].

    The attribute names are kept in the file's metadata as `labels`, separated by commas.
    Raises ValueError when the file would pass 4,000,000 bytes.
    """
    torch.onnx.export(
        Calibrated(network, temperature).eval(),
        (torch.zeros(1, 3, HEIGHT, WIDTH),),
        str(path),
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_axes={INPUT_NAME: {0: "n"}, OUTPUT_NAME: {0: "n"}},
        opset_version=OPSET,
        dynamo=False,  # the other exporter needs onnxscript and leaves BatchNorm unfolded
    )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"labels": ",".join(attributes)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path.name}: {size} bytes, the limit is {MAX_BYTES}")
