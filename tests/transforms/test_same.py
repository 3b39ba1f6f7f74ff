"""A worker that would write other bytes says so before it writes any."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from facecap.transforms.same import Expected, Model, WorkerDiffers, versions


def test_this_process_is_like_itself() -> None:
    expected = Expected(tuple(versions().items()))
    pickle.loads(pickle.dumps(expected)).check()
    assert {"python", "facecap", "pillow", "pyarrow"} <= set(versions())


@pytest.mark.parametrize("name", ["facecap", "pillow", "python"])
def test_another_version_is_named(name: str) -> None:
    other = {**versions(), name: "1.2.3"}
    with pytest.raises(
        WorkerDiffers, match=rf"has {name} \S+, the launcher 1\.2\.3: give both one"
    ):
        Expected(tuple(other.items())).check()


def test_pythons_third_number_does_not_matter() -> None:
    found = versions()
    python = found["python"].rpartition(".")[0] + ".999"
    Expected(tuple({**found, "python": python}.items())).check()


def test_another_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"one")
    sha256 = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"  # of "one"
    model = Model("detect.model", "yunet", str(path), sha256)
    Expected((), (model,)).check()
    path.write_bytes(b"two")
    with pytest.raises(WorkerDiffers, match=r"detect\.model: this worker's file has sha256"):
        Expected((), (Model("detect.model", "yunet", str(path), sha256[::-1]),)).check()


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    gone = Model("detect.model", "yunet", str(tmp_path / "gone.onnx"), "0" * 64)
    with pytest.raises(WorkerDiffers, match=r"on this worker: .*gone\.onnx is not a file"):
        Expected((), (gone,)).check()
