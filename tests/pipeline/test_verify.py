"""Verify: a sound dataset has no fault; every damage has its own line, and only it."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from facecap.pipeline.errors import UsageError
from facecap.pipeline.verify import verify
from facecap.transforms.store import Store


def faults(store: Store) -> list[str]:
    return list(verify(store))


def edit_json(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def forge(store: Store, number: int, kind: str, data: bytes) -> None:
    """Replace a file of a shard, and make its record agree with the new bytes."""
    record_path = store.path(f"commits/{number:06d}.json")
    path = json.loads(record_path.read_text())["files"][kind]["path"]
    store.path(path).write_bytes(data)
    entry = store.entry(path, path).model_dump()
    edit_json(record_path, lambda record: record["files"].update({kind: entry}))


def forge_table(store: Store, number: int, kind: str, edit: Callable[[pa.Table], pa.Table]) -> None:
    table = pq.read_table(store.path(f"{kind}/{number:06d}.parquet"))
    buffer = io.BytesIO()
    pq.write_table(edit(table), buffer)
    forge(store, number, kind, buffer.getvalue())


def replace_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index), [values])


def test_a_sound_dataset_has_no_fault(dataset: Store) -> None:
    assert faults(dataset) == []


@pytest.mark.parametrize(
    "name",
    ["shards/000001.tar", "metadata/000001.parquet", "ledger/000001.parquet", "rejects/000001.tar"],
)
@pytest.mark.parametrize("how", ["flipped", "cut", "longer", "missing"])
def test_every_damaged_file_is_named(dataset: Store, name: str, how: str) -> None:
    path = dataset.path(name)
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
        expected = f"shard 000001: {name} is missing; give the build's command again"
    else:
        data[len(data) // 3] ^= 1
        path.write_bytes({"flipped": data, "cut": data[:-1], "longer": data + b"\0"}[how])
        expected = f"shard 000001: {name} is not what was committed: {path.stat().st_size} bytes"
    (fault,) = faults(dataset)
    assert fault.startswith(expected)


def test_an_uncommitted_shard_is_named(dataset: Store) -> None:
    dataset.path("commits/000002.json").unlink()
    (fault,) = faults(dataset)
    assert fault == "shard 000002: not committed; give the build's command again"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: r.update(shard=0), "is the record of shard 0"),
        (lambda r: r.update(attempt="../../x"), "not a commit record (attempt: "),
        (lambda r: r.pop("counts"), "not a commit record (counts: Field required)"),
    ],
)
def test_a_damaged_record_is_the_one_fault(dataset: Store, edit: Any, message: str) -> None:
    edit_json(dataset.path("commits/000001.json"), edit)
    (fault,) = faults(dataset)
    assert fault.startswith(f"commits/000001.json: {message}") and "restore it" in fault


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: r.update(fingerprint="g"), "was committed by a build with another fingerprint"),
        (lambda r: r["files"].pop("rejects"), "its record names ['ledger', 'metadata', 'tar']"),
        (
            lambda r: r["files"]["tar"].update(path="../outside.tar"),
            "its record names ../outside.tar for its tar",
        ),
        (lambda r: r["counts"].update(faces_kept=9), "the ledger counts "),
    ],
)
def test_a_wrong_record_is_said(dataset: Store, edit: Any, message: str) -> None:
    edit_json(dataset.path("commits/000001.json"), edit)
    found = faults(dataset)
    assert found[0].startswith(f"shard 000001: {message}")
    assert all(f.startswith(("shard 000001", "dataset.json")) for f in found)


@pytest.mark.parametrize(
    ("kind", "edit", "message"),
    [
        ("ledger", lambda t: t.slice(1), "the ledger does not hold the rows 10 to 19 once each"),
        ("ledger", lambda t: t.take([1, 0, *range(2, 10)]), "the ledger does not hold the rows"),
        ("ledger", lambda t: t.drop_columns(["faces"]), "the ledger has other columns"),
        (
            "ledger",
            lambda t: replace_column(t, "outcome", ["dropped"] * 10),
            "the ledger counts ",
        ),
        ("metadata", lambda t: t.slice(1), "the metadata holds "),
        ("metadata", lambda t: t.drop_columns(["box"]), "the metadata lacks ['box']"),
        (
            "metadata",
            lambda t: replace_column(t, "caption", pc.utf8_upper(t["caption"]).to_pylist()),
            "000001",
        ),
    ],
)
def test_forged_tables_with_matching_hashes_are_found(
    dataset: Store, kind: str, edit: Any, message: str
) -> None:
    forge_table(dataset, 1, kind, edit)
    assert any(fault.startswith(f"shard 000001: {message}") for fault in faults(dataset))


def test_a_forged_tar_is_found(dataset: Store) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w"):
        pass
    forge(dataset, 1, "tar", buffer.getvalue())
    assert faults(dataset)[0].startswith("shard 000001: the tar holds 0 members, expected ")


def swap(text: bytes) -> bytes:
    """The captions replaced by others of the same length."""
    return text.replace(b"The person is", b"The robot was")


def with_links(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(fileobj=buffer, mode="w") as new,
    ):
        for member in old.getmembers():
            if member.name.endswith(".txt"):
                member.type, member.linkname, member.size = tarfile.SYMTYPE, "nowhere", 0
            new.addfile(member, old.extractfile(member) if member.isreg() else None)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (swap, r"0000010000\d\d_0\d\.txt is not the caption in the metadata"),
        (lambda data: data.replace(b".jpg\0", b".png\0"), r"unreadable: |the tar holds 0 members"),
        (with_links, r"the tar holds \d+ members, expected \d+ \(or others\)"),
    ],
    ids=["caption", "headers", "links"],
)
def test_forged_members_are_found(dataset: Store, edit: Any, message: str) -> None:
    data = dataset.read("shards/000001.tar")
    assert edit(data) != data
    forge(dataset, 1, "tar", edit(data))
    assert re.match(f"shard 000001: ({message})", faults(dataset)[0])


def contradict(table: pa.Table) -> pa.Table:
    """The outcomes of a kept and of a dropped row exchanged: the counts stay as they were."""
    rows = table.to_pylist()
    kept = next(r for r in rows if r["outcome"] == "kept")
    dropped = next(r for r in rows if r["outcome"] == "dropped")
    for name in ("outcome", "stage", "reason", "error"):
        kept[name], dropped[name] = dropped[name], kept[name]
    return pa.Table.from_pylist(rows, schema=table.schema)


def test_a_row_that_contradicts_its_faces_is_found(dataset: Store) -> None:
    forge_table(dataset, 1, "ledger", contradict)
    found = [f for f in faults(dataset) if f.startswith("shard")]
    assert len(found) == 2
    assert all(
        re.fullmatch(r"shard 000001: the ledger's row 1\d is \w+, unlike its faces", f)
        for f in found
    )


@pytest.mark.parametrize(("name", "value"), [("url", "http://other/"), ("sha256", "0" * 64)])
@pytest.mark.parametrize("kind", ["ledger", "metadata"])
def test_tables_that_contradict_each_other_are_found(
    dataset: Store, kind: str, name: str, value: str
) -> None:
    forge_table(dataset, 1, kind, lambda t: replace_column(t, name, [value] * len(t)))
    found = [f for f in faults(dataset) if f.startswith("shard")]
    assert found and all(
        f.endswith(f": the metadata and the ledger differ in {name}") for f in found
    )


def without_faces(table: pa.Table) -> pa.Table:
    return pa.Table.from_pylist(
        [{**row, "faces": None} for row in table.to_pylist()], schema=table.schema
    )


def test_a_ledger_without_faces_is_found(dataset: Store) -> None:
    forge_table(dataset, 1, "ledger", without_faces)
    assert faults(dataset)[0] == "shard 000001: the ledger lacks faces that it counts"


@pytest.mark.parametrize(
    ("what", "name", "value"),
    [
        ("settings", "crop.min_side", 64),
        ("models", "detect.model", "0" * 64),
        ("input", "limit", 25),
    ],
)
def test_settings_edited_in_both_files_are_found(
    dataset: Store, what: str, name: str, value: Any
) -> None:
    for file in ("build.json", "dataset.json"):
        edit_json(dataset.path(file), lambda data: data[what].update({name: value}))
    assert faults(dataset) == ["build.json: its fingerprint does not agree with its settings"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dataset.json", "dataset.json: not readable (Is a directory)"),
        ("commits/000001.json", "commits/000001.json: not readable (Is a directory); restore it"),
        ("shards/000001.tar", "shard 000001: shards/000001.tar is not readable (Is a directory)"),
        ("ledger/000001.parquet", "shard 000001: ledger/000001.parquet is not readable (Is"),
    ],
)
def test_a_folder_in_place_of_a_file_is_one_fault(dataset: Store, name: str, message: str) -> None:
    dataset.path(name).unlink()
    dataset.path(name).mkdir()
    (fault,) = faults(dataset)
    assert fault.startswith(message)


def test_a_file_in_place_of_a_folder_is_named(dataset: Store) -> None:
    dataset.remove_tree("rejects")
    dataset.path("rejects").write_bytes(b"")
    assert faults(dataset)[-1] == "rejects: not readable (Not a directory)"


@pytest.mark.parametrize("kind", ["tar", "ledger", "metadata"])
def test_garbage_with_a_matching_hash_is_unreadable(dataset: Store, kind: str) -> None:
    forge(dataset, 1, kind, b"garbage" * 1000)
    assert faults(dataset)[0].startswith("shard 000001: unreadable: ")


def test_files_of_no_shard_are_named(dataset: Store) -> None:
    names = ("shards/000003.tar", "ledger/000001.parquet.bak", "commits/000099.json")
    for name in names:
        dataset.path(name).write_bytes(b"")
    assert faults(dataset) == [f"{name}: belongs to no shard of this build" for name in names]


def test_what_a_killed_commit_left_is_no_fault(dataset: Store) -> None:
    dataset.path("commits/.000001.json.0a").write_bytes(b"")
    assert faults(dataset) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "dataset.json: missing; give the build's command again"),
        ("{", "dataset.json: not JSON"),
        ("[]", "dataset.json: not a manifest"),
        ("[1]", "dataset.json: not a manifest"),
    ],
)
def test_an_unusable_manifest_is_said(dataset: Store, text: str | None, message: str) -> None:
    path = dataset.path("dataset.json")
    path.unlink() if text is None else path.write_text(text)
    assert faults(dataset) == [message]


@pytest.mark.parametrize(
    "name", ["funnel", "tars", "per_shard", "fingerprint", "settings", "input"]
)
def test_a_manifest_that_disagrees_is_named(dataset: Store, name: str) -> None:
    edit_json(dataset.path("dataset.json"), lambda m: m.update({name: None}))
    assert faults(dataset) == [f"dataset.json: {name} does not agree with the commit records"]


def test_the_manifest_may_come_from_other_versions(dataset: Store) -> None:
    edit_json(dataset.path("dataset.json"), lambda m: m.update(facecap="0.0.1", versions={}))
    assert faults(dataset) == []


def test_a_build_file_without_its_rows_is_a_fault(dataset: Store) -> None:
    edit_json(dataset.path("build.json"), lambda b: b.update(input={}))
    assert faults(dataset) == ["build.json: input.rows is no number; restore the file"]


def test_what_is_no_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no build\.json"):
        faults(Store(tmp_path))
