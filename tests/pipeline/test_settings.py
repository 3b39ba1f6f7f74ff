"""Settings: one YAML, one line for every mistake, and what the fingerprint is made of."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from facecap.pipeline.errors import UsageError
from facecap.pipeline.settings import (
    Settings,
    content_settings,
    fields,
    fingerprint,
    load_settings,
    resolve_models,
    to_yaml,
)
from facecap.transforms.models import locate

OTHER: dict[str, Any] = {
    "build.rows_per_shard": 7,
    "build.reject_samples": 0,
    "build.min_success_rate": 0.5,
    "build.workers": 3,
    "input.url_column": "link",
    "input.caption_column": "words",
    "input.hash_column": "md5",
    "input.where": "punsafe < 0.5",
    "input.sample_ids": "ids.npy",
    "input.id_column": "number",
    "screen.block_urls": "urls.txt",
    "screen.block_domains": "domains.txt",
    "screen.block_hashes": "hashes.txt",
    "screen.unavailable": False,
    "screen.unavailable_hashes": "hashes.txt",
    "download.allow_private_hosts": ["127.0.0.1:80"],
    "download.max_bytes": 1000,
    "download.max_redirects": 0,
    "download.respect_robots": False,
    "download.user_agent": "mybot/2",
    "download.contact": "me@example.org",
    "download.timeout_s": 5.5,
    "download.dns_timeout_s": 5,
    "download.retries": 0,
    "download.concurrency": 4,
    "download.per_host": 1,
    "download.prefetch_bytes": 9,
    "download.lookahead_rows": 0,
    "decode.max_pixels": 1_000_000,
    "detect.model": "scrfd-10g",
    "detect.model_path": "a model: #1.onnx",
    "detect.provider": "cuda",
    "detect.min_face": 20,
    "crop.min_side": 96,
    "crop.min_score": 0.9,
    "crop.margin": 0.0,
    "crop.max_faces": 1,
    "crop.outside": "pad",
    "crop.shape": "aligned",
    "crop.aligned_size": 224,
    "crop.jpeg_quality": 90,
    "attributes.model_path": "~/model.onnx",
    "attributes.labels": ["No", "null", "5"],
    "attributes.mean": [127.5, 127.5, 127.5],
    "attributes.std": [1e-5, 1, 128],
    "attributes.activation": "sigmoid",
    "attributes.template": [[1, 1], [2, 1], [1.5, 2], [1, 3], [2, 3]],
    "attributes.width": 64,
    "attributes.height": 64,
    "attributes.provider": "cuda",
    "attributes.min_probability": 0.5,
    "attributes.min_labels": 1,
    "caption.seed": 1,
    "attributes.minors": "keep",
    "caption.policy": "paper",
    "caption.per_face": 3,
    "caption.text": "alt_text",
    "caption.gender": "neutral",
    "caption.hedge_below": 0.9,
    "caption.grammar": "grammar.yaml",
    "rewrite.backend": "transformers",
    "rewrite.model": "folder",
    "rewrite.temperature": 0.0,
    "rewrite.top_p": 1.0,
    "rewrite.max_tokens": 50,
    "rewrite.seed": 1,
    "rewrite.prompts": "prompts.yaml",
    "rewrite.styles": ["brief"],
    "rewrite.structured": "never",
    "rewrite.base_url": "https://example.org/v1",
    "rewrite.api_key_env": "KEY",
    "rewrite.concurrency": 1,
    "rewrite.timeout_s": 5.5,
    "rewrite.retries": 0,
    "rewrite.min_answered": 0.5,
    "rewrite.reuse": 2,
    "rewrite.block_shards": 3,
    "rewrite.batch_size": 2,
    "rewrite.device": "cuda:1",
    "rewrite.dtype": "float32",
    "rewrite.revision": "main",
    "spark.job_server_jar": "server.jar",
    "spark.conf": ["spark.executor.memory=4g"],
    "flink.job_server_jar": "server.jar",
    "flink.version": "2.0",
    "prism.location": "prism",
    "dataflow.project": "project",
    "dataflow.region": "us-east1",
    "dataflow.staging": "gs://bucket/staging",
    "dataflow.image": "gcr.io/project/image:1",
    "dataflow.job_name": "job",
    "dataflow.machine_type": "n1-standard-8",
    "dataflow.workers": 2,
    "dataflow.max_workers": 3,
    "dataflow.threads": 4,
    "dataflow.disk_gb": 60,
    "dataflow.disk_type": "pd-ssd",
    "dataflow.gpu_type": "nvidia-l4",
    "dataflow.gpu_count": 2,
    "dataflow.gpu_driver": "580",
    "dataflow.service_account": "a@b.example",
    "dataflow.network": "net",
    "dataflow.subnetwork": "regions/us-east1/subnetworks/x",
    "dataflow.public_ips": False,
    "dataflow.labels": {"team": "faces"},
}
"""Another allowed value of every setting that has one."""

ONE_CHOICE = {"attributes.model", "attributes.rule"}
TOGETHER = {"attributes.template", "attributes.width", "attributes.height"}

RUN = {
    "build.min_success_rate",
    "build.workers",
    "download.contact",
    "download.timeout_s",
    "download.dns_timeout_s",
    "download.retries",
    "download.concurrency",
    "download.per_host",
    "download.prefetch_bytes",
    "download.lookahead_rows",
    "detect.model_path",
    "attributes.model_path",
    "caption.grammar",
    "rewrite.prompts",
    "rewrite.base_url",
    "rewrite.api_key_env",
    "rewrite.concurrency",
    "rewrite.timeout_s",
    "rewrite.retries",
    "rewrite.min_answered",
    "rewrite.batch_size",
    "rewrite.device",
    "input.sample_ids",
    "screen.block_urls",
    "screen.block_domains",
    "screen.block_hashes",
    "screen.unavailable_hashes",
    *(name for name in OTHER if name.split(".")[0] in ("spark", "flink", "prism", "dataflow")),
}
"""What a build and its continuation may differ in."""

FIXED_NAMES = {
    "build": "rows_per_shard min_success_rate workers reject_samples",
    "input": "url_column caption_column",
    "download": "allow_private_hosts timeout_s concurrency per_host max_bytes retries "
    "respect_robots user_agent contact",
    "decode": "max_pixels",
    "detect": "model model_path provider",
    "crop": "min_side min_score margin max_faces",
    "attributes": "model model_path min_probability min_labels rule minors",
    "caption": "seed policy gender",
    "rewrite": "backend base_url model concurrency",
}

DEFAULTS = {
    "build.min_success_rate": 0.2,
    "download.allow_private_hosts": [],
    "download.respect_robots": True,
    "detect.model": "mtcnn",
    "detect.provider": "cpu",
    "crop.min_side": 128,
    "attributes.min_probability": 0.85,
    "attributes.min_labels": 6,
    "attributes.minors": "careful",
    "caption.policy": "careful",
    "rewrite.backend": "none",
}


def override(names: set[str]) -> list[str]:
    return [f"{n}={yaml.safe_dump(OTHER[n], default_flow_style=True)}" for n in sorted(names)]


REWRITING = load_settings(None, ["rewrite.backend=openai"])


def changed(name: str) -> Settings:
    given = [] if name == "rewrite.backend" else ["rewrite.backend=openai"]
    return load_settings(None, given + override(TOGETHER if name in TOGETHER else {name}))


def test_the_promised_names_and_defaults_are_there() -> None:
    there = {name: value for name, _, value, _ in fields(Settings())}
    fixed = {f"{section}.{n}" for section, names in FIXED_NAMES.items() for n in names.split()}
    assert fixed <= set(there)
    assert {name: there[name] for name in DEFAULTS} == DEFAULTS


def test_every_setting_is_described_and_tagged() -> None:
    for name, tag, _, description in fields(Settings()):
        assert description, name
        assert tag == ("run" if name in RUN else "content"), name
    assert set(OTHER) | ONE_CHOICE == {name for name, *_ in fields(Settings())}


@pytest.mark.parametrize("name", sorted(OTHER))
def test_the_fingerprint_changes_with_content_and_with_nothing_else(name: str) -> None:
    before, after = fingerprint(REWRITING, {}, {}), fingerprint(changed(name), {}, {})
    assert (after == before) == (name in RUN)
    assert (name in content_settings(REWRITING)) == (name not in RUN)


def test_settings_of_a_rewriting_that_does_not_take_place_are_no_content() -> None:
    rewriting = {name for name in content_settings(Settings()) if name.startswith("rewrite.")}
    assert rewriting == set()
    other = load_settings(None, ["rewrite.model=another"])
    assert fingerprint(other, {}, {}) == fingerprint(Settings(), {}, {})
    assert fingerprint(REWRITING, {}, {}) != fingerprint(Settings(), {}, {})


def test_a_base_gives_way_to_a_file_and_to_overrides(tmp_path: Path) -> None:
    base = {"crop.min_side": 50, "crop.margin": 0.5, "caption.seed": 9}
    (tmp_path / "c.yaml").write_text("crop:\n  min_side: 60\n")
    found = load_settings(tmp_path / "c.yaml", ["caption.seed=3"], base)
    assert (found.crop.min_side, found.crop.margin, found.caption.seed) == (60, 0.5, 3)


def test_the_fingerprint_changes_with_models_and_input() -> None:
    prints = {
        fingerprint(Settings(), models, source)
        for models in ({}, {"detect.model": "aa"}, {"detect.model": "bb"})
        for source in ({}, {"rows": 3}, {"rows": 4})
    }
    assert len(prints) == 9


@pytest.mark.parametrize("settings", [Settings(), load_settings(None, override(set(OTHER)))])
def test_what_is_shown_is_read_back(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(settings), encoding="utf-8")
    assert load_settings(path) == settings
    shown = yaml.safe_load(to_yaml(settings))
    assert sum(map(len, shown.values())) == len(list(fields(settings)))


@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=60))
def test_any_text_survives_the_yaml(text: str) -> None:
    settings = Settings.model_validate({"input": {"url_column": text}})
    assert yaml.safe_load(to_yaml(settings))["input"]["url_column"] == text


def test_set_wins_over_the_file_and_the_last_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("crop:\n  min_side: 50\n  margin: 0.1\ninput:\n")
    settings = load_settings(path, ["crop.min_side=60", "crop.min_side=70"])
    assert (settings.crop.min_side, settings.crop.margin) == (70, 0.1)
    path.write_text("")
    assert load_settings(path) == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crop.min_side", "write SECTION.NAME=VALUE"),
        ("min_side=3", "write SECTION.NAME=VALUE"),
        ("crop.=3", "write SECTION.NAME=VALUE"),
        ("", "write SECTION.NAME=VALUE"),
        ("crop.min_size=3", "crop.min_size: no such setting; known here: .*min_side"),
        ("crop.min_side.x=3", "crop.min_side.x: no such setting; known here: .*min_side"),
        ("corp.min_side=3", "corp: no such setting; known here: .*crop"),
        ("crop.min_side=[", "crop.min_side: '\\[' is not a YAML value"),
        ("caption.seed=2001-99-99", "caption.seed: '2001-99-99' is not a YAML value"),
        (f"caption.seed={'9' * 5000}", "caption.seed: .* is not a YAML value"),
        ("crop.min_side=", "crop.min_side: .*valid integer"),
        ("crop.min_side=big", "crop.min_side: .*valid integer"),
        ("crop.min_side=0", "crop.min_side: .*greater than or equal to 1"),
        ("crop.min_score=1.5", "crop.min_score: .*less than or equal to 1"),
        ("crop.max_faces=101", "crop.max_faces: .*less than or equal to 100"),
        ("crop.margin=.nan", "crop.margin: .*finite"),
        ("attributes.mean=[.nan, 0, 0]", "attributes.mean.0: .*finite"),
        ("attributes.std=[1, 0, 1]", "attributes.std: .*three positive numbers"),
        ("attributes.labels=[a, a]", "attributes.labels: .*different"),
        ("attributes.width=64", "attributes: .*set together or not at all"),
        ("attributes.rule=loose", "attributes.rule: "),
        ("caption.gender=guessed", "caption.gender: .*'inferred' or 'neutral'"),
        ("detect.model=yolo", "detect.model: .*choose one of mtcnn"),
        ("detect.provider=tpu", "detect.provider: .*choose one of cpu"),
        ("attributes.model=mtcnn", "attributes.model: .*choose one of celeba40"),
        ("download.user_agent=3/1", "download.user_agent: .*"),
        ('download.contact="a\\nb"', "download.contact: .*printable ASCII"),
        ("download.allow_private_hosts=a", "download.allow_private_hosts: "),
        ("download.allow_private_hosts=['http://a/']", "download.allow_private_hosts: "),
        ("build.workers=0", "build.workers: .*greater than or equal to 1"),
        ("build.rows_per_shard=1000001", "build.rows_per_shard: .*1000000"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        load_settings(None, [text])
    line = str(refused.value)
    assert "\n" not in line
    assert line.startswith("--set") or "known here" in line or "--show-config" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"crop: [", "not a YAML file"),
        (b"\xff\xfe\x00", "not a YAML file"),
        (b"crop: {min_side: 2001-99-99}", "not a YAML file"),
        (b"- crop", "expected sections"),
        (b"crop", "expected sections"),
        (b"crop: 3", "crop: .*--show-config"),
        (b"crop: [3]", "crop: .*--show-config"),
        (b"3: {}", "3: no such setting|3: .*--show-config"),
        (b"crop: {3: 4}", "crop.3: "),
        (b"corp: {min_side: 3}", "corp: no such setting; known here"),
        (b"!!python/object/apply:os.getcwd []", "not a YAML file"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(text)
    with pytest.raises(UsageError, match=message) as refused:
        load_settings(path)
    assert "\n" not in str(refused.value)
    with pytest.raises(UsageError):
        load_settings(path, ["crop.min_side=3"])


@pytest.mark.parametrize(("name", "message"), [("none.yaml", "No such file"), ("", "directory")])
def test_an_unreadable_file_is_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=rf"^--config {tmp_path}.*{message}"):
        load_settings(tmp_path / name)


def test_resolving_fills_in_the_score_and_names_every_models_hash() -> None:
    settings, hashes = resolve_models(Settings())
    assert settings.crop.min_score is not None
    assert {n: len(h) for n, h in hashes.items()} == {
        "detect.model": 64,
        "attributes.model": 64,
        "caption.grammar": 64,
        "attributes.minors": 64,
    }
    kept, _ = resolve_models(load_settings(None, ["crop.min_score=0.5"]))
    assert kept.crop.min_score == 0.5


@pytest.mark.parametrize("name", ["detect.model_path", "attributes.model_path", "caption.grammar"])
@pytest.mark.parametrize("content", [None, b"", b"not a model", b"\x08\x07\x12\x04abcd"])
def test_a_missing_or_damaged_file_is_one_line(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        resolve_models(load_settings(None, [f"{name}={path}"]))
    line = str(refused.value)
    assert "\n" not in line and str(path) in line
    if content is None:
        assert name in line


def test_a_model_that_does_something_else_is_refused(tmp_path: Path) -> None:
    classifier = locate("celeba40")
    with pytest.raises(UsageError, match=classifier.name):
        resolve_models(load_settings(None, [f"detect.model_path={classifier}"]))
    with pytest.raises(UsageError, match=r"attributes\.model_path"):
        resolve_models(load_settings(None, [f"attributes.model_path={locate('mtcnn')}"]))
    with pytest.raises(UsageError, match=r"attributes\.labels"):
        resolve_models(load_settings(None, ["attributes.labels=[Smiling]"]))


def test_a_model_that_is_not_fetched_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mtcnn = locate("mtcnn")
    monkeypatch.setenv("FACECAP_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="run: facecap models fetch mtcnn"):
        resolve_models(Settings())
    data = bytearray(mtcnn.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / mtcnn.name).write_bytes(data)
    with pytest.raises(UsageError, match="damaged: delete it, then run: facecap models fetch"):
        resolve_models(Settings())
    shutil.copyfile(mtcnn, tmp_path / mtcnn.name)
    resolve_models(Settings())
    with pytest.raises(UsageError, match=r"scrfd-10g is not there .*fetch scrfd-10g"):
        resolve_models(load_settings(None, ["detect.model=scrfd-10g"]))
    with pytest.raises(
        UsageError, match=r"^detect.provider: cuda is not there: .*set the provider to cpu"
    ):
        resolve_models(load_settings(None, ["detect.provider=cuda"]))
