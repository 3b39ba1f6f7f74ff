import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the train extra: torch")

from facecap.training import data, train  # noqa: E402


def test_temperature_recovers_the_scale_of_overconfident_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2000, 40), generator=generator)
    labels = (torch.rand((2000, 40), generator=generator) < torch.sigmoid(logits)).float()
    assert train.fit_temperature(logits * 1.5, labels) == pytest.approx(1.5, abs=0.05)


def test_it_learns_brightness_and_repeats_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole run on made faces: every attribute is `the image is bright`."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    rows = ["image_id," + ",".join(f"A{k}" for k in range(40))]
    for number in range(1, 97):
        bright = number % 2
        pixels = rng.integers(0, 60, (109, 89, 3)) + 190 * bright
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / f"{number:06d}.jpg")
        rows.append(f"{number:06d}.jpg," + ",".join([str(bright)] * 40))
    (tmp_path / "attributes.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.setitem(data.SPLITS, "train", range(1, 65))
    monkeypatch.setitem(data.SPLITS, "validation", range(65, 97))
    hashes = []
    for output in (tmp_path / "one", tmp_path / "two"):
        command = f"train --data {tmp_path} --output {output} --epochs 4 --batch 8 --ema 0.8"
        monkeypatch.setattr(sys, "argv", [*command.split(), "--threads", "1"])
        train.main()
        record = json.loads((output / "training.json").read_text())
        assert record["history"][-1]["validation_mean_auc"] == 1.0
        assert str(tmp_path) not in json.dumps(record)
        hashes.append(record["sha256"])
    assert hashes[0] == hashes[1]
    session = onnxruntime.InferenceSession(
        tmp_path / "one" / "attributes.onnx", providers=["CPUExecutionProvider"]
    )
    faces = data.load(tmp_path, "validation")
    rgb = faces.images.transpose(0, 3, 1, 2).astype(np.float32)
    prob = session.run(["prob"], {"rgb_0_255": rgb})[0]
    assert ((prob > 0.5) == faces.labels).all()


def test_missing_data_is_one_line_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", f"train --data {tmp_path} --output {tmp_path}".split())
    with pytest.raises(SystemExit) as stop:
        train.main()
    assert stop.value.code == 2
    assert "attributes.csv not found" in capsys.readouterr().err
