"""The whole line, for real: a server, photographs, the detector, the classifier, the shards."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import tarfile
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests import builds
from tests.servers import ImageServer

EXPECTED = {
    "/group.jpg": None,
    "/astronaut.png": None,
    "/chelsea.png": ("detect", "no_face"),
    "/coffee.png": ("detect", "no_face"),
    "/rocket.jpg": ("detect", "no_face"),
    "/truncated.jpg": ("decode", "truncated"),
    "/page.html": ("decode", "not_an_image"),
    "/private": ("download", "private_address"),
    "/error": ("download", "server_error"),
    "/reserved.jpg": ("download", "opted_out"),
}


@pytest.fixture(scope="module")
def dataset(
    photo_list: Path, photo_server: ImageServer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The photographs built by one worker."""
    output = tmp_path_factory.mktemp("one") / "out"
    result = builds.run(builds.command(photo_list, output, photo_server, "--workers", "1"))
    assert result.returncode == 0, result.stderr
    assert "faces of" in result.stderr
    return output


def test_every_url_ends_in_the_ledger_with_the_true_reason(dataset: Path) -> None:
    rows = builds.ledger(dataset)
    assert [r["row"] for r in rows] == list(range(42))
    seen = set()
    for row in rows:
        name = "/" + str(row["url"]).split("/", 3)[3].partition("?")[0]
        seen.add(name)
        if name in EXPECTED:
            expected = EXPECTED[name]
            found = None if row["outcome"] == "kept" else (row["stage"], row["reason"])
            assert found == expected, row
    assert set(EXPECTED) <= seen


def test_metadata_agrees_with_the_shards(dataset: Path) -> None:
    faces = 0
    for number in range(7):
        table = pq.read_table(dataset / f"metadata/{number:06d}.parquet").to_pylist()
        with tarfile.open(dataset / f"shards/{number:06d}.tar") as tar:
            names = tar.getnames()
            assert names == [f"{r['key']}.{e}" for r in table for e in ("jpg", "json", "txt")]
            for row in table:
                crop = Image.open(io.BytesIO(tar.extractfile(f"{row['key']}.jpg").read()))
                assert crop.size == (row["crop_width"], row["crop_height"])
                about = json.loads(tar.extractfile(f"{row['key']}.json").read())
                assert about["caption"] == row["caption"]
                assert row["key"][:12] == f"{number:06d}{row['row'] - 6 * number:06d}"
                assert row["source_caption"] == f"alt text {row['row']}"
                assert row["input_caption"] == f"another column's caption {row['row']}"
                assert row["similarity"] == pytest.approx(row["row"] / 42)
                assert len(row["probabilities"]) == 40 and len(row["landmarks"]) == 5
                assert min(row["box"][2] - row["box"][0], row["box"][3] - row["box"][1]) >= 80
                assert row["faces_in_image"] > row["face_rank"] >= 0
                faces += 1
    assert faces >= 7


def test_the_manifest_counts_what_is_there(dataset: Path) -> None:
    manifest = json.loads((dataset / "dataset.json").read_text())
    rows = builds.ledger(dataset)
    assert manifest["funnel"]["rows"] == len(rows)
    assert manifest["funnel"]["rows_kept"] == sum(r["outcome"] == "kept" for r in rows)
    dropped = Counter(f"{r['stage']}/{r['reason']}" for r in rows if r["outcome"] == "dropped")
    assert manifest["funnel"]["rows_dropped"] == dict(dropped)
    assert manifest["shards"] == 7 and len(manifest["per_shard"]) == 7
    assert set(manifest["models"]) == {
        *("detect.model", "attributes.model", "attributes.minors"),
        *("caption.grammar", "screen.unavailable"),
    }
    footer = pq.read_schema(dataset / "metadata/000000.parquet").metadata[b"facecap"]
    assert json.loads(footer)["fingerprint"] == manifest["fingerprint"]


def test_rejects_can_be_looked_at(dataset: Path) -> None:
    reasons = set()
    for file in sorted((dataset / "rejects").iterdir()):
        with tarfile.open(file) as tar:
            for name in tar.getnames():
                data = tar.extractfile(name).read()
                if name.endswith(".jpg"):
                    assert max(Image.open(io.BytesIO(data)).size) <= 160
                else:
                    reasons.add(json.loads(data)["reason"])
    assert "no_face" in reasons


def test_verify_finds_it_sound_and_then_every_damage(dataset: Path, tmp_path: Path) -> None:
    import shutil

    verify = [*builds.command(Path(), Path(), _NoServer())[:3], "verify"]
    sound = builds.run([*verify, str(dataset)])
    assert (sound.returncode, sound.stdout) == (0, "sound: 7 shards\n"), sound
    for name in ("shards/000001.tar", "ledger/000002.parquet", "metadata/000000.parquet"):
        copy = tmp_path / name.replace("/", "-")
        shutil.copytree(dataset, copy)
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
        damaged = builds.run([*verify, str(copy)])
        assert damaged.returncode == 1 and name in damaged.stdout
    (copy / "commits/000003.json").unlink()
    (copy / "shards/000009.tar").write_bytes(b"")
    (copy / "dataset.json").write_text("{}")
    faults = builds.run([*verify, str(copy)]).stdout
    assert "shard 000003: not committed" in faults
    assert "shards/000009.tar: belongs to no shard" in faults
    assert builds.run([*verify, str(tmp_path)]).returncode == 2


class _NoServer:
    host_port = ""


def test_two_workers_write_the_same_bytes(
    dataset: Path, photo_list: Path, photo_server: ImageServer, tmp_path: Path
) -> None:
    result = builds.run(builds.command(photo_list, tmp_path / "out", photo_server, "--workers=2"))
    assert result.returncode == 0, result.stderr
    assert builds.dataset_bytes(tmp_path / "out") == builds.dataset_bytes(dataset)


def test_the_same_command_again_changes_nothing(
    dataset: Path, photo_list: Path, photo_server: ImageServer
) -> None:
    before = builds.dataset_bytes(dataset)
    asked = len(photo_server.requests)
    result = builds.run(builds.command(photo_list, dataset, photo_server, "--workers", "1"))
    assert result.returncode == 0, result.stderr
    assert "42 of 42 URLs are done" in result.stderr
    assert builds.dataset_bytes(dataset) == before
    assert len(photo_server.requests) == asked


def test_other_settings_are_refused_by_name(
    dataset: Path, photo_list: Path, photo_server: ImageServer
) -> None:
    before = builds.dataset_bytes(dataset)
    result = builds.run(builds.command(photo_list, dataset, photo_server, sets=["crop.margin=0.5"]))
    assert result.returncode == 2
    assert "crop.margin (was 0.2, is 0.5)" in result.stderr
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    assert builds.dataset_bytes(dataset) == before


def test_run_settings_may_change_between_runs(
    dataset: Path, photo_list: Path, photo_server: ImageServer
) -> None:
    result = builds.run(
        builds.command(photo_list, dataset, photo_server, sets=["download.timeout_s=9"])
    )
    assert result.returncode == 0, result.stderr


def test_decoy_folders_beside_the_user_are_harmless(
    dataset: Path, photo_list: Path, photo_server: ImageServer, tmp_path: Path
) -> None:
    for name in ("schemas", "transforms", "pipeline", "facecap_decoy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the decoy was imported')")
    result = builds.run(
        builds.command(photo_list, tmp_path / "out", photo_server, "--workers", "2"), cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert builds.dataset_bytes(tmp_path / "out") == builds.dataset_bytes(dataset)


def test_ctrl_c_stops_cleanly_and_the_same_command_continues(
    dataset: Path, photo_list: Path, photo_server: ImageServer, tmp_path: Path
) -> None:
    arguments = builds.command(photo_list, tmp_path / "out", photo_server, "--workers", "2")
    process = subprocess.Popen(
        arguments, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    commits = tmp_path / "out" / "commits"
    deadline = time.monotonic() + 60
    while not (commits.exists() and any(commits.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.01)
    # As a terminal sends it: to the workers, too; and an impatient person presses again.
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "give the same command to continue" in said and "URLs" in said
    assert "Traceback" not in said
    result = builds.run(arguments)
    assert result.returncode == 0, result.stderr
    assert builds.dataset_bytes(tmp_path / "out") == builds.dataset_bytes(dataset)
    assert not (tmp_path / "out" / "_attempts").exists()


def test_ctrl_c_before_the_build_starts_says_so(
    photo_list: Path, photo_server: ImageServer, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        builds.command(photo_list, tmp_path / "out", photo_server),
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command" in said and "Traceback" not in said


def test_limit_takes_the_first_rows(
    photo_list: Path, photo_server: ImageServer, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    result = builds.run(
        builds.command(photo_list, output, photo_server, "--limit", "8", "--workers", "1")
    )
    assert result.returncode == 0, result.stderr
    assert [r["row"] for r in builds.ledger(output)] == list(range(8))


def test_webdataset_reads_the_tars(dataset: Path) -> None:
    import webdataset as wds

    samples = wds.WebDataset(
        str(dataset / "shards/{000000..000006}.tar"), shardshuffle=False, empty_check=False
    )
    keys = []
    for sample in samples.decode("pil"):
        assert sample["jpg"].mode == "RGB" and sample["txt"] == sample["json"]["caption"]
        keys.append(sample["__key__"])
    assert keys == sorted(keys) and len(keys) == len(set(keys)) >= 7


def test_hugging_face_datasets_reads_the_tars(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    manifest = json.loads((dataset / "dataset.json").read_text())
    files = [str(dataset / tar) for tar in manifest["tars"]]
    loaded = datasets.load_dataset(
        "webdataset", data_files={"train": files}, split="train", cache_dir=str(tmp_path)
    )
    assert len(loaded) == manifest["funnel"]["faces_kept"]
    assert loaded[0]["jpg"].size[0] >= 80 and loaded[0]["txt"]


def test_duckdb_reads_the_parquet(dataset: Path) -> None:
    import duckdb

    sql = f"""
        SELECT count(*), count(DISTINCT key),
               (SELECT sum(len(list_filter(faces, lambda f: f.outcome = 'kept')))
                FROM '{dataset}/ledger/*.parquet')
        FROM '{dataset}/metadata/*.parquet'
    """
    rows, keys, kept = duckdb.connect().execute(sql).fetchone()
    assert rows == keys == kept >= 7
