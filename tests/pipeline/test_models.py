"""`facecap models list`: every registered model, and whether it is here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from facecap.pipeline.models import print_models
from facecap.transforms.models import REGISTRY, locate


def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Model -> yes or no, as the table says."""
    monkeypatch.setenv("COLUMNS", "400")
    print_models()
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in line.split("│")] for line in lines]
    for name, kind, _, licence, source in cells:
        model = REGISTRY[name]
        assert (kind, licence, source) == (model.kind, model.licence, model.source)
    return {name: present for name, _, present, _, _ in cells}


def test_every_model_is_listed_as_here_or_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mtcnn = locate("mtcnn")
    monkeypatch.setenv("FACECAP_CACHE", str(tmp_path))
    nothing_fetched = {name: "yes" if model.bundled else "no" for name, model in REGISTRY.items()}
    assert here(capsys, monkeypatch) == nothing_fetched
    shutil.copyfile(mtcnn, tmp_path / mtcnn.name)
    assert here(capsys, monkeypatch) == nothing_fetched | {"mtcnn": "yes"}
    (tmp_path / mtcnn.name).write_bytes(b"damaged")
    assert here(capsys, monkeypatch) == nothing_fetched
