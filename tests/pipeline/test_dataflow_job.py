"""The job as Dataflow would get it, made without an account or a network."""

from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions

from facecap.pipeline.dataflow_job import dry_run, write_template
from facecap.pipeline.errors import BuildFailed, UsageError
from tests.pipeline.test_dataflow import HINT, OUTPUT, made
from tests.pipeline.test_graph import web_scale_list
from tests.pipeline.test_graph_facts import add

pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's libraries are there, and whatever asks for an address fails the test."""
    try:
        found = importlib.util.find_spec("google.cloud.dataflow_v1beta3")
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip("apache-beam[gcp] is not installed")

    def lookup(*arguments: Any, **named: Any) -> None:
        pytest.fail(f"asked for the address of {arguments[:2]}")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


def add_fifty_million(pipeline: Any) -> None:
    add(pipeline, web_scale_list(), OUTPUT)


def test_a_gpu_job_of_fifty_million_urls() -> None:
    run = dry_run(
        add_fifty_million, made(provider="cuda", gpu_type="nvidia-tesla-t4", labels={"a": "b"})
    )
    assert run.facts.bytes < 1_000_000 and run.facts.environments == 1
    assert (run.facts.line[0], run.facts.line[-1]) == ("ReadRows", "WriteShard")
    assert run.facts.image == "us-docker.pkg.dev/my-project/facecap/facecap:1.0"
    job = run.job
    assert job["type"] == "JOB_TYPE_BATCH" and job["labels"] == {"a": "b"}
    assert job["name"].startswith("facecap-faces-")
    environment = job["environment"]
    assert environment["serviceOptions"] == [
        "worker_accelerator=type:nvidia-tesla-t4;count:1;install-nvidia-driver:5xx"
    ]
    assert "no_use_multiple_sdk_containers" in environment["experiments"]
    assert "use_multiple_sdk_containers" not in environment["experiments"]
    assert "use_runner_v2" in environment["experiments"]
    (pool,) = environment["workerPools"]
    assert (pool["machineType"], pool["numThreadsPerWorker"]) == ("n1-standard-4", 8)
    assert pool["diskSizeGb"] == 50
    assert pool["autoscalingSettings"] == {"maxNumWorkers": 16}
    (image,) = pool["sdkHarnessContainerImages"]
    assert image["containerImage"] == pool["workerHarnessContainerImage"] == run.facts.image
    # The request holds no graph, which is uploaded beside it: far from its limit of 20 MB.
    assert len(str(job)) < 50_000


def test_a_job_without_gpu_has_a_process_per_core() -> None:
    run = dry_run(add_fifty_million, made())
    environment = run.job["environment"]
    assert "use_multiple_sdk_containers" in environment["experiments"]
    assert "serviceOptions" not in environment
    assert environment["workerPools"][0]["numThreadsPerWorker"] == 2


def test_one_hint_for_the_whole_pipeline_keeps_one_environment() -> None:
    run = dry_run(add_fifty_million, made(HINT, provider="cuda"))
    assert run.facts.environments == 1
    assert run.facts.accelerator == "type:nvidia-l4;count:1;install-nvidia-driver"


def test_what_beam_refuses_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"^Beam: "):
        dry_run(add_fifty_million, made("--worker_region=us-east1", "--worker_zone=us-east1-b"))


def test_the_options_can_be_used_for_the_real_job_afterwards() -> None:
    options = made()
    before = options.get_all_options(drop_default=True)
    dry_run(add_fifty_million, options)
    assert options.get_all_options(drop_default=True) == before


def test_a_template_is_written_where_googles_launcher_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Uploads go to a folder here, in place of the bucket; all else is Beam's."""
    from apache_beam.runners.dataflow.internal import apiclient

    uploaded: dict[str, bytes] = {}

    def upload(self: Any, folder: str, name: str, source: Any, *rest: Any, **named: Any) -> None:
        data = Path(source).read_bytes() if isinstance(source, str) else source.read()
        uploaded[f"{folder}/{name}"] = data

    monkeypatch.setattr(
        apiclient.DataflowApplicationClient, "stage_file_with_retry", upload, raising=True
    )
    _without_looking_at_the_bucket(monkeypatch)
    location = "gs://my-bucket/launches/1/job_object"
    options = made(f"--template_location={location}", "--no_auth")
    assert write_template(add_fifty_million, options) == location
    job = json.loads(uploaded.pop(location))
    assert job["name"].startswith("facecap-faces-")
    staged = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    assert len(uploaded.pop(staged)) < 1_000_000
    assert not any("main_session" in name for name in uploaded), list(uploaded)


def test_where_no_template_is_asked_for_none_is_written() -> None:
    assert write_template(add_fifty_million, made()) is None


def test_without_an_account_a_template_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from google.auth.exceptions import DefaultCredentialsError

    def refuse(*arguments: Any, **named: Any) -> None:
        raise DefaultCredentialsError("no credentials\nwere found")

    monkeypatch.setattr("apache_beam.Pipeline.run", refuse)
    _without_looking_at_the_bucket(monkeypatch)
    with pytest.raises(BuildFailed, match=r"^Dataflow: no credentials were found$"):
        write_template(add_fifty_million, made("--template_location=gs://my-bucket/job"))


def _without_looking_at_the_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beam asks whether staging has a soft-delete policy."""
    monkeypatch.setattr(
        GoogleCloudOptions, "_warn_if_soft_delete_policy_enabled", lambda *arguments: None
    )
