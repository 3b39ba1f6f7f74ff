import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facecap.training import data

NAMES = [f"A{k}" for k in range(40)]


def write_faces(folder: Path, numbers: range, value: str = "1") -> None:
    (folder / "images").mkdir()
    with (folder / "attributes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", *NAMES])
        for number in numbers:
            writer.writerow([f"{number:06d}.jpg", *["0"] * 39, value])
            image = Image.new("RGB", (data.WIDTH, data.HEIGHT), (250, 0, 0))
            image.save(folder / "images" / f"{number:06d}.jpg")


def test_splits_are_disjoint_and_cover_the_images() -> None:
    numbers = [number for split in data.SPLITS.values() for number in split]
    assert sorted(numbers) == list(range(1, 8001))
    assert data.SPLITS["test"] == range(7001, 8001)


def test_load_returns_rgb_and_labels_in_file_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_faces(tmp_path, range(1, 4))
    monkeypatch.setitem(data.SPLITS, "few", range(2, 4))
    faces = data.load(tmp_path, "few")
    assert faces.numbers == (2, 3)
    assert faces.attributes == tuple(NAMES)
    assert faces.images.shape == (2, 109, 89, 3)
    assert faces.images.dtype == np.uint8
    assert faces.images[..., 0].min() > 200 > 50 > faces.images[..., 2].max()
    assert faces.labels.tolist() == [[0] * 39 + [1]] * 2


def test_missing_folder_and_missing_image_name_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(data.DataError, match=r"--data: .*attributes\.csv not found"):
        data.load(tmp_path, "test")
    write_faces(tmp_path, range(1, 3))
    monkeypatch.setitem(data.SPLITS, "few", range(1, 4))
    with pytest.raises(data.DataError, match=r"000003\.jpg"):
        data.load(tmp_path, "few")


def test_labels_other_than_0_and_1_are_refused(tmp_path: Path) -> None:
    write_faces(tmp_path, range(1, 2), value="-1")
    with pytest.raises(data.DataError, match="line 2"):
        data.read_labels(tmp_path)


def test_image_of_another_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_faces(tmp_path, range(1, 2))
    Image.new("RGB", (178, 218)).save(tmp_path / "images" / "000001.jpg")
    monkeypatch.setitem(data.SPLITS, "few", range(1, 2))
    with pytest.raises(data.DataError, match="178, 218"):
        data.load(tmp_path, "few")
