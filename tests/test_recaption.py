"""Rewriting for real: builds that ask a server, and recaptions of a finished dataset, killed and
raced."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from facecap.pipeline import cli
from facecap.pipeline.verify import verify
from facecap.schemas.shard import SHARD_FILES, shard_file
from facecap.transforms.store import Store
from tests import builds
from tests.llm_server import LlmServer
from tests.servers import ImageServer

FACECAP = [sys.executable, "-m", "facecap.pipeline.cli"]
SHARDS = 7


@pytest.fixture(scope="module")
def llm() -> Iterator[LlmServer]:
    """A truthful server."""
    with LlmServer() as server:
        yield server


@pytest.fixture(scope="module")
def plain(
    photo_list: Path, photo_server: ImageServer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A dataset with the grammar's captions, two for each face."""
    output = tmp_path_factory.mktemp("plain") / "out"
    result = builds.run(
        builds.command(photo_list, output, photo_server, sets=["caption.per_face=2"])
    )
    assert result.returncode == 0, result.stderr
    return output


@pytest.fixture
def dataset(plain: Path, tmp_path: Path) -> Path:
    """A copy of `plain` to be recaptioned."""
    return Path(shutil.copytree(plain, tmp_path / "out"))


@pytest.fixture(scope="module")
def rewritten(plain: Path, llm: LlmServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`plain` with the server's captions."""
    output = Path(shutil.copytree(plain, tmp_path_factory.mktemp("rewritten") / "out"))
    result = recaption(output, llm)
    assert result.returncode == 0, result.stderr
    return output


def asking(server: LlmServer, *more: str) -> list[str]:
    return ["rewrite.backend=openai", f"rewrite.base_url={server.base_url}", *more]


def command(
    output: Path, server: LlmServer, *sets: str, more: tuple[str, ...] = (), workers: int = 1
) -> list[str]:
    flags = [flag for one in asking(server, *sets) for flag in ("--set", one)]
    return [*FACECAP, "recaption", str(output), *flags, "--workers", str(workers), *more]


def recaption(
    output: Path, server: LlmServer, *sets: str, more: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return builds.run(command(output, server, *sets, more=more))


def faults(output: Path) -> list[str]:
    return list(verify(Store(output)))


def metadata(output: Path) -> list[dict[str, Any]]:
    files = sorted((output / "metadata").iterdir())
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def members(output: Path, kind: str) -> dict[str, bytes]:
    found = {}
    for file in sorted((output / "shards").iterdir()):
        with tarfile.open(file) as tar:
            for name in tar.getnames():
                if name.endswith(kind):
                    found[name] = tar.extractfile(name).read()
    return found


def test_captions_change_and_nothing_else_does(plain: Path, rewritten: Path) -> None:
    assert faults(rewritten) == []
    before, after = metadata(plain), metadata(rewritten)
    ours = {"caption", "caption_source", "rewritten_caption", "rewrite_fault", "captions"}
    assert len(after) == len(before) >= 7
    for was, now in zip(before, after, strict=True):
        assert {k: v for k, v in was.items() if k not in ours} == {
            k: v for k, v in now.items() if k not in ours
        }
        assert now["caption_source"] == "rewrite" and now["caption"] == now["rewritten_caption"]
        assert [c["raw_caption"] for c in now["captions"]] == [
            c["raw_caption"] for c in was["captions"]
        ]
        first, second = now["captions"]
        assert first["rewrite"]["seed"] != second["rewrite"]["seed"]
        assert {first["rewrite"]["key"], second["rewrite"]["key"]} == {now["key"]}
    assert members(plain, ".jpg") == members(rewritten, ".jpg")
    texts = {f"{row['key']}.txt": row["caption"].encode() for row in after}
    assert members(rewritten, ".txt") == texts
    for name, data in members(rewritten, ".json").items():
        row = next(row for row in after if name == f"{row['key']}.json")
        assert json.loads(data)["captions"] == row["captions"]
    assert builds.ledger(plain) == builds.ledger(rewritten)
    manifest = json.loads((rewritten / "dataset.json").read_text())
    assert manifest["captions"] == {"rewrite": 2 * len(after)}
    assert {shard["generation"] for shard in manifest["per_shard"]} == {2}
    assert manifest["recaption"]["settings"]["rewrite.backend"] == "openai"


def test_a_build_that_asks_writes_the_same(
    rewritten: Path, photo_list: Path, photo_server: ImageServer, llm: LlmServer, tmp_path: Path
) -> None:
    sets = asking(llm, "caption.per_face=2", "rewrite.concurrency=3")
    result = builds.run(builds.command(photo_list, tmp_path / "out", photo_server, sets=sets))
    assert result.returncode == 0 and "captions: rewrite" in result.stderr, result.stderr
    assert faults(tmp_path / "out") == []
    assert metadata(tmp_path / "out") == metadata(rewritten)
    for kind in ("jpg", "json", "txt"):
        assert members(tmp_path / "out", kind) == members(rewritten, kind)


def test_the_same_command_again_asks_nothing(rewritten: Path, plain: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(plain, tmp_path / "out"))
    with LlmServer() as server:
        assert recaption(output, server).returncode == 0
        assert builds.dataset_bytes(output) == builds.dataset_bytes(rewritten)
        asked = len(server.requests())
        assert recaption(output, server).returncode == 0
        assert len(server.requests()) == asked
    assert builds.dataset_bytes(output) == builds.dataset_bytes(rewritten)


def test_every_caption_is_accounted_for_among_all_faults(dataset: Path) -> None:
    rates = ["429=0.1", "500=0.1", "reset=0.05", "malformed=0.1", "liar=0.1", "negator=0.1"]
    with LlmServer(rate=rates, draw_by="attempt") as server:
        result = recaption(dataset, server, "rewrite.retries=8")
    assert result.returncode == 0, result.stderr
    assert faults(dataset) == []
    counts: Counter[str] = Counter()
    for row in metadata(dataset):
        for caption in row["captions"]:
            fault = caption["rewrite_fault"]
            counts[f"grammar/{fault}" if fault else caption["caption_source"]] += 1
            if fault:
                assert caption["caption"] == caption["raw_caption"] and caption["rewrite"]["error"]
                assert caption["rewritten_caption"] is None
    assert counts["rewrite"] and json.loads((dataset / "dataset.json").read_text())[
        "captions"
    ] == dict(counts)


def test_other_settings_wait_for_the_first_to_end(
    dataset: Path, llm: LlmServer, capsys: pytest.CaptureFixture[str]
) -> None:
    first = recaption(dataset, llm, more=("--shards", "0,2-3"))
    assert first.returncode == 0, first.stderr
    (fault,) = faults(dataset)
    assert fault.startswith(
        "4 of 7 shards, the first 000001, have other captions than recaption 1's"
    )
    assert cli.run(command(dataset, llm, "rewrite.seed=1")[3:]) == 2
    said = "4 of 7 shards to do: rewrite.seed (was 0, is 1)"
    assert said in capsys.readouterr().err
    assert recaption(dataset, llm).returncode == 0
    assert faults(dataset) == []
    assert recaption(dataset, llm, "rewrite.seed=1").returncode == 0
    assert faults(dataset) == []
    assert (dataset / "recaptions/002.json").exists()
    assert json.loads((dataset / "commits/000000.3.json").read_text())["recaption"] == 2


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 2))])
def test_killed_and_continued_it_ends_in_the_same_bytes(
    dataset: Path, rewritten: Path, seed: int
) -> None:
    rng = random.Random(seed)
    with LlmServer(latency=60) as server:
        for _ in range(3):
            process = builds.start(command(dataset, server, "rewrite.concurrency=1", workers=2))
            time.sleep(rng.uniform(3.0, 7.0))
            builds.kill(process, group=bool(seed % 2))
            assert not [fault for fault in faults(dataset) if "is not what" in fault]
        result = recaption(dataset, server)
    assert result.returncode == 0, result.stderr
    assert faults(dataset) == []
    assert builds.dataset_bytes(dataset) == builds.dataset_bytes(rewritten)
    assert not (dataset / "_attempts").exists()


def test_two_at_once_end_in_the_same_bytes(dataset: Path, rewritten: Path) -> None:
    with LlmServer(latency=20) as server:
        both = [builds.start(command(dataset, server, workers=n)) for n in (1, 2)]
        assert [process.wait(120) for process in both] == [0, 0]
    assert faults(dataset) == []
    assert builds.dataset_bytes(dataset) == builds.dataset_bytes(rewritten)


def test_no_text_is_used_more_often_than_allowed(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LlmServer() as server:
        result = recaption(dataset, server, "rewrite.reuse=3", "rewrite.block_shards=4")
        assert result.returncode == 0, result.stderr
        calls = len(server.requests()) - 1
        flags = command(dataset, server, "rewrite.reuse=3", more=("--shards", "1"))
        assert cli.run(flags[3:]) == 2
        assert "go together" in capsys.readouterr().err
    rows = metadata(dataset)
    used = Counter(
        (c["rewrite"]["key"], n, row["key"][:6] >= "000004")
        for row in rows
        for n, c in enumerate(row["captions"])
    )
    assert max(used.values()) == 3 and len(used) == calls < 2 * len(rows)
    assert faults(dataset) == []


def test_a_shard_that_fails_holds_up_those_it_shares_with(dataset: Path) -> None:
    """Or the counting would begin elsewhere in the next run."""
    rejects = dataset / "rejects/000001.tar"
    sound = rejects.read_bytes()
    with LlmServer() as server:
        sets = ("rewrite.reuse=3", "rewrite.block_shards=4")
        rejects.write_bytes(sound + b"x")
        result = recaption(dataset, server, *sets)
        assert result.returncode == 1, result.stderr
        assert "shard 000001 keeps its captions: rejects/000001.tar is not what" in result.stderr
        assert "shard 000003 keeps its captions: shares rewrites with shard 000001" in result.stderr
        rejects.write_bytes(sound)
        assert recaption(dataset, server, *sets).returncode == 0
    used = Counter(
        (c["rewrite"]["key"], n) for row in metadata(dataset) for n, c in enumerate(row["captions"])
    )
    assert max(used.values()) == 3 and faults(dataset) == []


def test_another_text_is_chosen_without_asking_and_the_rest_stays(
    rewritten: Path, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(rewritten, tmp_path / "out"))
    plain = [*FACECAP, "recaption", str(output), "--workers=1", "--set"]
    result = builds.run([*plain, "caption.text=alt_text"])  # there is no server any more
    assert result.returncode == 0, result.stderr
    assert faults(output) == []
    before, after = metadata(rewritten), metadata(output)
    for was, now in zip(before, after, strict=True):
        assert now["caption"] == now["source_caption"] and now["caption_source"] == "alt_text"
        assert now["rewritten_caption"] == was["rewritten_caption"]
        assert [c["rewrite"] for c in now["captions"]] == [c["rewrite"] for c in was["captions"]]
    assert builds.run([*plain, "caption.text=rewrite"]).returncode == 0
    assert metadata(output) == before
    again = builds.run([*plain, "caption.text=rewrite"])
    assert again.returncode == 0 and "already" in again.stderr


def test_one_that_was_not_begun_in_earnest_or_is_abandoned_gives_way(
    dataset: Path, llm: LlmServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with LlmServer(force=["500=."]) as broken:
        result = recaption(dataset, broken, "rewrite.retries=0", "rewrite.concurrency=50")
        assert result.returncode == 1
    committed = len(list((dataset / "commits").glob("*.2.json")))
    assert 0 < committed < SHARDS, "three captions of a shard may fail"
    assert cli.run(command(dataset, llm, "rewrite.seed=1")[3:]) == 2
    assert "--abandon" in capsys.readouterr().err
    result = recaption(dataset, llm, "rewrite.seed=1", more=("--abandon",))
    assert result.returncode == 0, result.stderr
    assert faults(dataset) == []
    assert {row["caption_source"] for row in metadata(dataset)} == {"rewrite"}


@pytest.mark.parametrize("undone", [0, 1])
def test_what_was_killed_behind_a_commit_is_ended_by_the_same_command(
    dataset: Path, plain: Path, rewritten: Path, llm: LlmServer, undone: int
) -> None:
    """The last shard's record is there and its files have not moved; the manifest is the old one;
    `undone` shards have their old captions still."""
    for folder in ("commits", "recaptions", *builds.DATA_FOLDERS):
        shutil.copytree(rewritten / folder, dataset / folder, dirs_exist_ok=True)
    record = json.loads((dataset / "commits/000006.2.json").read_text())
    attempt = dataset / "_attempts" / record["attempt"]
    attempt.mkdir(parents=True)
    for kind, entry in record["files"].items():
        (dataset / entry["path"]).rename(attempt / kind)
        shutil.copy(plain / entry["path"], dataset / entry["path"])
    for number in range(undone):
        (dataset / f"commits/{number:06d}.2.json").unlink()
        for kind in SHARD_FILES:
            shutil.copy(plain / shard_file(kind, number), dataset / shard_file(kind, number))
    assert faults(dataset)
    result = recaption(dataset, llm)
    assert result.returncode == 0, result.stderr
    assert faults(dataset) == []
    assert builds.dataset_bytes(dataset) == builds.dataset_bytes(rewritten)


def test_a_missing_file_fails_its_own_shard(dataset: Path, llm: LlmServer) -> None:
    (dataset / "rejects/000001.tar").unlink()
    result = recaption(dataset, llm)
    assert result.returncode == 1 and "rejects/000001.tar" in result.stderr, result.stderr
    assert "6 of 7 shards have the new captions" in result.stderr


def test_nothing_is_asked_for_twice(
    rewritten: Path, plain: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Another text, half done; then a shard that was built anew; then the first text again."""
    output = Path(shutil.copytree(rewritten, tmp_path / "out"))
    with LlmServer() as server:
        text = ("caption.text=alt_text",)
        assert recaption(output, server, *text, more=("--shards=0-2",)).returncode == 0
        assert not server.requests()
        assert cli.run(command(output, server, "caption.text=grammar")[3:]) == 2
        assert "--abandon" in capfd.readouterr().err
        for path in (output / "commits").glob("000004*"):
            path.unlink()
        for folder in ("commits", *builds.DATA_FOLDERS):  # as a build of it alone leaves it
            for path in (plain / folder).glob("000004*"):
                shutil.copy(path, output / folder / path.name)
        assert recaption(output, server, *text).returncode == 0
        faces = [row for row in metadata(output) if row["key"].startswith("000004")]
        assert len(server.requests()) == 2 * len(faces) > 0
        result = recaption(output, server, "caption.text=rewrite")
        assert result.returncode == 0, result.stderr
        assert len(server.requests()) == 2 * len(faces)
    assert faults(output) == []
    assert metadata(output) == metadata(rewritten)


def test_a_key_is_nowhere(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "secretkeyzz123456"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with LlmServer(key=key) as server:
        assert recaption(dataset, server).returncode == 0
    for path in dataset.rglob("*"):
        assert path.is_dir() or key.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("schedule", "named"),
    [("401", "rewrite.api_key_env"), ("404_model", "rewrite.model"), ("reset", "rewrite.base_url")],
)
def test_a_server_that_will_not_do_changes_nothing(
    plain: Path, capsys: pytest.CaptureFixture[str], schedule: str, named: str
) -> None:
    before = builds.dataset_bytes(plain)
    with LlmServer(schedule=schedule) as server:
        assert cli.run(command(plain, server)[3:]) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1, said
    assert builds.dataset_bytes(plain) == before
    assert not (plain / "recaptions").exists()


def test_a_server_that_fails_leaves_the_old_captions(dataset: Path, plain: Path) -> None:
    with LlmServer(force=["500=The"]) as server:
        result = recaption(dataset, server, "rewrite.retries=0", "rewrite.concurrency=50")
    assert result.returncode == 1, result.stderr
    assert "rewrite.min_answered" in result.stderr and "keeps its captions" in result.stderr
    kept = {row["key"]: row["caption"] for row in metadata(plain)}
    failed = [r for r in metadata(dataset) if r["caption_source"] == "grammar"]
    assert failed and all(row["caption"] == kept[row["key"]] for row in failed)


@pytest.mark.parametrize(
    ("sets", "named"),
    [
        (["crop.min_side=99"], "crop.min_side: a recaption changes captions only"),
        (["attributes.minors=drop"], "attributes.minors"),
        (["rewrite.base_url=ftp://x/"], "rewrite.base_url"),
        (["rewrite.styles=[none]"], "rewrite.styles"),
        (["rewrite.prompts=none.yaml"], "rewrite.prompts"),
    ],
)
def test_what_is_no_caption_is_refused(
    plain: Path, llm: LlmServer, capsys: pytest.CaptureFixture[str], sets: list[str], named: str
) -> None:
    assert cli.run(command(plain, llm, *sets)[3:]) == 2
    said = capsys.readouterr().err
    assert named in said and said.count("\n") == 1
    assert not (plain / "recaptions").exists()


def test_reuse_is_not_for_builds(
    photo_list: Path,
    photo_server: ImageServer,
    llm: LlmServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sets = asking(llm, "rewrite.reuse=2")
    arguments = builds.command(photo_list, tmp_path / "out", photo_server, sets=sets)
    assert cli.run(arguments[3:]) == 2
    assert "rewrite.reuse" in capsys.readouterr().err
