from pathlib import Path

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: torch")

from torch import nn  # noqa: E402

from facecap.training.model import AttributeNet, Calibrated, export  # noqa: E402

NAMES = tuple(f"A{k}" for k in range(40))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    network = AttributeNet()
    for module in network.modules():  # statistics that folding must not lose
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def rgb(n: int) -> np.ndarray:
    pixels = np.random.default_rng(1).integers(0, 256, (n, 3, 109, 89))
    return pixels.astype(np.float32)


def test_shape_and_number_of_parameters(network: nn.Module) -> None:
    assert network(torch.from_numpy(rgb(2))).shape == (2, 40)
    assert sum(p.numel() for p in network.parameters()) < 1_000_000


def test_export_gives_the_same_probabilities(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export(network, 1.3, NAMES, path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert path.stat().st_size <= 4_000_000
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["labels"].split(",") == list(NAMES)
    with torch.no_grad():
        expected = Calibrated(network, 1.3)(torch.from_numpy(rgb(3))).numpy()
    result = session.run(["prob"], {"rgb_0_255": rgb(3)})[0]
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(result, expected, atol=1e-5)
