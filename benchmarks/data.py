"""Where the photographs and the model are."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.server import SetupError

MODEL = "scrfd/scrfd_500m_bnkps.onnx"


def test_data() -> tuple[Path, Path]:
    """The folder of the photographs and the detector's file. Raises SetupError."""
    data, models = (_folder(name) for name in ("FACECAP_TEST_DATA", "FACECAP_TEST_MODELS"))
    for missing in (p for p in (data / "photos", models / MODEL) if not p.exists()):
        raise SetupError(f"{missing} does not exist")
    return data, models / MODEL


def _folder(name: str) -> Path:
    value = os.environ.get(name)
    if not value:
        raise SetupError(f"{name} is not set: it names the folder of the benchmark's data")
    return Path(value).resolve()
