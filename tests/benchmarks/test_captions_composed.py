from pathlib import Path

import numpy as np
import pytest
from benchmarks.captions import composed, faces
from benchmarks.captions.faces import Labelled

from facecap.schemas.attributes import ATTRIBUTES
from facecap.transforms.minors import looks_under_18
from facecap.transforms.models import ModelError

MAN = ("Male", "Black_Hair", "Smiling", "Eyeglasses", "High_Cheekbones", "Bangs")
WOMAN = ("Wavy_Hair", "Smiling")


def labelled(*label_sets: tuple[str, ...]) -> Labelled:
    rows = [[0.95 if name in labels else 0.05 for name in ATTRIBUTES] for labels in label_sets]
    names = tuple(f"face{i}" for i in range(len(rows)))
    return Labelled("made up", names, np.array(rows, np.float32))


def test_faces_with_few_labels_are_left_out() -> None:
    corpus = composed.compose(labelled(MAN, WOMAN), 6, real=False)
    assert [caption.name for caption in corpus.captions] == ["face0"]
    assert (corpus.kept, corpus.fewer_labels, corpus.rounds) == (1, 1, 1)
    caption = corpus.captions[0]
    assert caption.labels == set(MAN)
    assert caption.key == ("man", frozenset(caption.stated))


def test_more_captions_than_faces_are_in_other_words() -> None:
    corpus = composed.compose(labelled(MAN, WOMAN), 2, count=5, real=False)
    assert [caption.name for caption in corpus.captions] == [f"face{i}" for i in (0, 1, 0, 1, 0)]
    assert corpus.rounds == 3
    assert len({caption.text for caption in corpus.captions if caption.name == "face0"}) > 1


def test_what_may_not_be_said_is_counted() -> None:
    corpus = composed.compose(labelled(("Attractive",), WOMAN), 1, real=False)
    assert (corpus.kept, corpus.nothing_to_state) == (2, 1)


def test_the_rule_about_minors_is_in_effect_for_real_faces_only() -> None:
    made_up = labelled(*[("Young", "Bangs", "Smiling")] * 2)
    found = composed.compose(made_up, 1)
    expected = looks_under_18(made_up.probabilities[0])
    assert expected  # or the faces are no example
    assert found.under_18 == 2
    assert {caption.person for caption in found.captions} == {"person"}
    assert composed.compose(made_up, 1, real=False).under_18 is None


def test_the_attribute_file_is_read_as_sure(tmp_path: Path) -> None:
    (tmp_path / "celeba").mkdir()
    row = ["1" if name in MAN else "0" for name in ATTRIBUTES]
    lines = [",".join(["image_id", *ATTRIBUTES]), ",".join(["000001.jpg", *row])]
    (tmp_path / "celeba" / "attributes.csv").write_text("\n".join(lines) + "\n")
    found = faces.annotated(tmp_path)
    assert found.names == ("000001.jpg",)
    assert composed.compose(found, 6, real=False).captions[0].labels == set(MAN)


def test_real_faces_are_classified_once(test_data: Path, tmp_path: Path) -> None:
    small = tmp_path / "data"
    (small / "celeba" / "images").mkdir(parents=True)
    for image in sorted((test_data / "celeba" / "images").glob("*.jpg"))[:3]:
        (small / "celeba" / "images" / image.name).write_bytes(image.read_bytes())
    (small / "utkface").mkdir()
    found = faces.classified(small, tmp_path / "cache")
    assert found.probabilities.shape == (3, 40)
    kept = next((tmp_path / "cache").iterdir())
    before = kept.stat().st_mtime_ns
    again = faces.classified(small, tmp_path / "cache")
    assert np.array_equal(found.probabilities, again.probabilities)
    assert kept.stat().st_mtime_ns == before


def test_a_padded_chip_has_its_face_found(test_data: Path, tmp_path: Path) -> None:
    small = tmp_path / "data"
    (small / "celeba" / "images").mkdir(parents=True)
    (small / "utkface").mkdir()
    for folder in ("celeba/images", "utkface"):
        image = min((test_data / folder).rglob("*.jpg"))
        (small / folder / image.name).write_bytes(image.read_bytes())
    try:
        found = faces.classified(small, tmp_path / "cache")
    except ModelError as error:
        pytest.skip(str(error))
    assert len(found) + found.left_out == 2
    assert len(found) == 2
