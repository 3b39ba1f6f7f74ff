"""The manifest: made of the commit records alone, the same whoever writes it, or not at all."""

from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq

from facecap.pipeline.manifest import finish_dataset, make_manifest, read_failures, read_records
from facecap.pipeline.output import BuildFile
from facecap.schemas.commit import Counts
from facecap.transforms.store import Store
from facecap.transforms.write_shard import ShardResult


def test_it_adds_up_what_the_shards_hold(dataset: Store, build_file: BuildFile) -> None:
    manifest = json.loads(dataset.read("dataset.json"))
    faces = [pq.read_metadata(dataset.path(f"metadata/{n:06d}.parquet")).num_rows for n in range(3)]
    assert manifest["funnel"]["faces_kept"] == sum(faces)
    assert manifest["tars"] == [f"shards/{n:06d}.tar" for n in range(3) if faces[n]]
    assert [s["counts"]["rows"] for s in manifest["per_shard"]] == [10, 10, 5]
    assert Counts.model_validate(manifest["funnel"]).balanced
    assert manifest["settings"] == build_file.settings and manifest["models"] == build_file.models
    assert manifest["versions"]["apache-beam"].startswith("2.")


def test_the_same_records_give_the_same_bytes(dataset: Store) -> None:
    before = dataset.read("dataset.json")
    finish_dataset([], str(dataset.root))
    assert dataset.read("dataset.json") == before


def test_an_empty_tar_is_not_listed(dataset: Store, build_file: BuildFile) -> None:
    records = read_records(dataset, build_file)
    records[1] = records[1].model_copy(update={"counts": Counts(rows=10)})
    assert make_manifest(build_file, records, None)["tars"] == [
        "shards/000000.tar",
        "shards/000002.tar",
    ]


def test_without_all_shards_there_is_no_manifest_but_the_reasons(
    dataset: Store, build_file: BuildFile
) -> None:
    dataset.path("dataset.json").unlink()
    dataset.path("commits/000001.json").unlink()
    results = [
        ShardResult(0, error="lost a race, but the shard is there"),
        ShardResult(1, error="crop: TypeError 12"),
    ]
    assert finish_dataset(results, str(dataset.root)) == 2
    assert not dataset.exists("dataset.json")
    assert read_failures(dataset) == {"000001": "crop: TypeError 12"}
    assert set(read_records(dataset, build_file)) == {0, 2}
    assert finish_dataset([], str(dataset.root)) == 2
    assert read_failures(dataset) == {}


def test_no_log_is_no_failure(dataset: Store) -> None:
    shutil.rmtree(dataset.path("logs"))
    assert read_failures(dataset) == {}
