"""Fixtures of real photographs: none lies in this repository."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builds import routes, write_list
from tests.servers import ImageServer


@pytest.fixture(scope="session")
def photographs() -> dict[str, bytes]:
    """Path -> bytes: a group of six, a portrait, pictures without faces, broken files."""
    from facecap.pipeline.demo import bodies

    return dict(bodies())


@pytest.fixture(scope="session")
def photo_server(photographs: dict[str, bytes]) -> Iterator[ImageServer]:
    """Serves `photographs` and some hostile answers on loopback."""
    with ImageServer(routes(photographs)) as server:
        yield server


@pytest.fixture(scope="session")
def photo_list(photo_server: ImageServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of 42 URLs over `photo_server`: seven shards of six."""
    return write_list(tmp_path_factory.mktemp("list") / "urls.parquet", photo_server, 42)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of optional test images; skips where FACECAP_TEST_DATA is unset."""
    return _folder("FACECAP_TEST_DATA")


@pytest.fixture(scope="session")
def test_models() -> Path:
    """The folder of optional test models; skips where FACECAP_TEST_MODELS is unset."""
    return _folder("FACECAP_TEST_MODELS")


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    return Path(value)
