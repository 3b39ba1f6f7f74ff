"""CelebA at half size: images 000001.jpg ... 008000.jpg (89 wide, 109 high) and their 40 labels.

Expected under the data folder: `attributes.csv` (a header `image_id` and 40 names, then one row
of 0/1 for each image) and `images/`. There is no identity file, so the splits are plain ranges of
image numbers; the same person can be on both sides (see the model card).
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 109, 89
ATTRIBUTE_COUNT = 40

SPLITS: dict[str, range] = {
    "train": range(1, 6501),
    "validation": range(6501, 7001),  # for choosing settings and the temperature
    "test": range(7001, 8001),  # for the final figures only
}

ALIGNMENT_TEMPLATE: dict[str, tuple[float, float]] = {
    "left eye": (34.8, 56.0),
    "right eye": (54.1, 56.0),
    "nose": (44.2, 67.8),
    "left mouth corner": (36.3, 76.2),
    "right mouth corner": (52.6, 76.2),
}
"""Where the five landmarks lie in an aligned image: x, y in pixels from the top left corner.

Left and right are the viewer's, not the subject's.
"""


class DataError(ValueError):
    """The data folder is not what the recipe expects; the message is one line for the user."""


@dataclass(frozen=True)
class Faces:
    """Aligned faces of one split.

    images: uint8 [n, 109, 89, 3], RGB. labels: uint8 [n, 40], 0 or 1, columns in the order of
    `attributes`. numbers: the CelebA image number of each row.
    """

    numbers: tuple[int, ...]
    images: np.ndarray
    labels: np.ndarray
    attributes: tuple[str, ...]


def read_labels(data: Path) -> tuple[tuple[str, ...], dict[int, list[int]]]:
    """Returns the 40 attribute names in file order, and the labels (0/1) by image number.

    Raises DataError when the file is missing or is not a table of 40 binary columns.
    """
    path = data / "attributes.csv"
    if not path.is_file():
        raise DataError(f"--data: {path} not found; name the folder that holds it and images/")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if len(header) != ATTRIBUTE_COUNT + 1:
            raise DataError(f"--data: {path} must have image_id and {ATTRIBUTE_COUNT} columns")
        labels: dict[int, list[int]] = {}
        for row in reader:
            if len(row) != len(header) or not set(row[1:]) <= {"0", "1"}:
                raise DataError(f"--data: {path}, line {reader.line_num}: want 40 values 0 or 1")
            labels[int(Path(row[0]).stem)] = [int(value) for value in row[1:]]
    return tuple(header[1:]), labels


def load(data: Path, split: str) -> Faces:
    """Reads one split of SPLITS from the folder `data` into memory (29 KB an image).

    Raises DataError when an image or its labels are missing or an image has another size.
    """
    attributes, labels = read_labels(data)
    numbers = tuple(SPLITS[split])
    images = np.empty((len(numbers), HEIGHT, WIDTH, 3), np.uint8)
    for index, number in enumerate(numbers):
        path = data / "images" / f"{number:06d}.jpg"
        if number not in labels or not path.is_file():
            raise DataError(f"--data: {path} or its labels not found; the {split} split needs it")
        with Image.open(path) as image:
            if image.size != (WIDTH, HEIGHT):
                raise DataError(f"--data: {path} is {image.size}, want ({WIDTH}, {HEIGHT})")
            images[index] = np.asarray(image.convert("RGB"))
    table = np.array([labels[number] for number in numbers], np.uint8)
    return Faces(numbers, images, table, attributes)
