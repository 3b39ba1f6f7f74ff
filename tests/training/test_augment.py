import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: torch")

from facecap.training.augment import augment  # noqa: E402


def faces(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 109, 89, 3), np.uint8)


def test_shape_dtype_and_range() -> None:
    result = augment(faces(16), torch.Generator().manual_seed(0))
    assert result.shape == (16, 3, 109, 89)
    assert result.dtype == torch.float32
    assert 0 <= float(result.min()) < float(result.max()) <= 255


def test_same_seed_same_result_and_input_untouched() -> None:
    images = faces(16)
    before = images.copy()
    first = augment(images, torch.Generator().manual_seed(1))
    assert torch.equal(first, augment(images, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, augment(images, torch.Generator().manual_seed(2)))
    assert np.array_equal(images, before)


def test_a_face_stays_in_place_up_to_jitter_and_about_half_are_mirrored() -> None:
    image = np.zeros((109, 89, 3), np.uint8)
    image[50:60, 20:30] = 255  # off centre: its mirror image is at 59..68
    result = augment(np.repeat(image[None], 200, 0), torch.Generator().manual_seed(3)).mean(1)
    result = result - result.amin((1, 2), keepdim=True)
    total = result.sum((1, 2))
    x = (result.sum(1) * torch.arange(89)).sum(1) / total
    y = (result.sum(2) * torch.arange(109)).sum(1) / total
    assert float((y - 54.5).abs().max()) < 12
    distance = torch.minimum((x - 24.5).abs(), (x - 63.5).abs())
    assert float(distance.max()) < 12
    assert 70 < int((x > 44).sum()) < 130
