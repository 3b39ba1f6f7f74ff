"""Dataflow's options: every mistake is one line that names the setting and the remedy."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)
from pydantic import ValidationError

from facecap.pipeline.dataflow import (
    DataflowEngine,
    DataflowOptions,
    dataflow_options,
    job_name,
)
from facecap.pipeline.dataflow_job import dry_run
from facecap.pipeline.errors import UsageError

OUTPUT = "gs://my-bucket/faces"
WORKER_ACCELERATOR = "--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1"
EXPERIMENT = WORKER_ACCELERATOR.replace("dataflow_service_options", "experiments")
HINT = "--resource_hint=accelerator=type:nvidia-l4;count:1;install-nvidia-driver"


def options_of(**changes: Any) -> DataflowOptions:
    return DataflowOptions(
        **{
            "project": "my-project",
            "region": "us-central1",
            "staging": "gs://my-bucket/staging",
            "image": "us-docker.pkg.dev/my-project/facecap/facecap:1.0",
            **changes,
        }
    )


def made(
    *extra: str, provider: str = "cpu", output: str = OUTPUT, **changes: Any
) -> PipelineOptions:
    return dataflow_options(options_of(**changes), output, extra, provider)


def refusal(*extra: str, **changes: Any) -> str:
    with pytest.raises(UsageError) as caught:
        made(*extra, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_code_is_in_the_image_and_nothing_is_staged_besides() -> None:
    options = made()
    cloud, worker = options.view_as(GoogleCloudOptions), options.view_as(WorkerOptions)
    assert (cloud.project, cloud.region) == ("my-project", "us-central1")
    assert cloud.staging_location == cloud.temp_location == "gs://my-bucket/staging"
    assert cloud.dataflow_service_options is None
    assert worker.sdk_container_image == "us-docker.pkg.dev/my-project/facecap/facecap:1.0"
    assert (worker.machine_type, worker.disk_size_gb) == ("n2-standard-4", 50)
    assert (worker.num_workers, worker.max_num_workers) == (None, 16)
    assert worker.use_public_ips is True
    setup = options.view_as(SetupOptions)
    assert (setup.sdk_location, setup.save_main_session) == ("container", False)
    assert options.view_as(StandardOptions).runner == "DataflowRunner"
    # One process per vCPU, each with its model.
    assert options.view_as(DebugOptions).number_of_worker_harness_threads == 2
    assert not options.view_as(DebugOptions).experiments


@pytest.mark.parametrize(
    ("gpu", "machine", "threads"),
    [
        ("nvidia-tesla-t4", "n1-standard-4", 8),
        ("nvidia-l4", "g2-standard-8", 16),
        ("nvidia-tesla-a100", "a2-highgpu-1g", 24),
        ("nvidia-h100-80gb", "a3-highgpu-1g", 52),
    ],
)
def test_a_gpus_machine_has_one_process_with_threads_for_its_cores(
    gpu: str, machine: str, threads: int
) -> None:
    options = made(provider="cuda", gpu_type=gpu)
    assert options.view_as(WorkerOptions).machine_type == machine
    assert options.view_as(GoogleCloudOptions).dataflow_service_options == [
        f"worker_accelerator=type:{gpu};count:1;install-nvidia-driver:5xx"
    ]
    debug = options.view_as(DebugOptions)
    assert debug.experiments == ["no_use_multiple_sdk_containers"]
    assert debug.number_of_worker_harness_threads == threads
    assert not options.view_as(StandardOptions).resource_hints


def test_every_setting_reaches_beam() -> None:
    options = made(
        "--experiments=upload_graph",
        provider="cuda",
        gpu_type="nvidia-tesla-t4",
        gpu_count=1,
        gpu_driver="none",
        machine_type="n1-highmem-8",
        workers=2,
        max_workers=9,
        threads=5,
        disk_gb=80,
        disk_type="pd-ssd",
        job_name="my-job",
        service_account="facecap@my-project.iam.gserviceaccount.com",
        network="faces",
        subnetwork="regions/us-central1/subnetworks/faces",
        public_ips=False,
        labels={"team": "faces", "cost-centre": "7"},
    )
    cloud, worker = options.view_as(GoogleCloudOptions), options.view_as(WorkerOptions)
    assert cloud.dataflow_service_options == ["worker_accelerator=type:nvidia-tesla-t4;count:1"]
    assert (worker.machine_type, worker.num_workers, worker.max_num_workers) == (
        "n1-highmem-8",
        2,
        9,
    )
    debug = options.view_as(DebugOptions)
    assert debug.number_of_worker_harness_threads == 5
    assert sorted(debug.experiments) == ["no_use_multiple_sdk_containers", "upload_graph"]
    assert worker.disk_size_gb == 80 and worker.disk_type.endswith("/diskTypes/pd-ssd")
    assert (cloud.job_name, cloud.labels) == ("my-job", ["team=faces", "cost-centre=7"])
    assert cloud.service_account_email == "facecap@my-project.iam.gserviceaccount.com"
    assert (worker.network, worker.subnetwork) == (
        "faces",
        "regions/us-central1/subnetworks/faces",
    )
    assert worker.use_public_ips is False


@pytest.mark.parametrize("name", ["project", "region", "staging", "image"])
def test_what_must_be_set(name: str) -> None:
    assert refusal(**{name: None}).startswith(f"dataflow.{name}: not set; give ")


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("project", "123456789", "not its number"),
        ("project", "My Project", "the project's id"),
        ("region", "us-central1-a", "not a zone"),
        ("staging", "/tmp/staging", "gs://BUCKET/FOLDER"),
        ("staging", "s3://my-bucket/staging", "gs://BUCKET/FOLDER"),
        ("staging", "gs://My_Bucket/staging", "gs://BUCKET/FOLDER"),
        ("image", "facecap:1.0", "REGISTRY/PATH:TAG"),
        ("image", "us-docker.pkg.dev/my-project/facecap/facecap", "REGISTRY/PATH:TAG"),
        ("job_name", "My_Job", "a letter first"),
        ("disk_type", "ssd", "pd-ssd"),
        ("service_account", "me@example.org", "gserviceaccount.com"),
        ("network", "a/b", "network's name"),
        ("subnetwork", "faces", "regions/REGION/subnetworks/NAME"),
        ("subnetwork", "regions/europe-west4/subnetworks/faces", "dataflow.region"),
        ("labels", {"Team": "faces"}, "a letter first"),
        ("labels", {"team": "Faces!"}, "'_' and '-'"),
        ("workers", 17, "dataflow.max_workers 16"),
        ("machine_type", "e2-medium", "shared cores"),
        ("machine_type", "c4a-standard-4", "amd64"),
        ("gpu_count", 2, "more of them by dataflow.max_workers"),
        ("gpu_driver", "newest", "a version such as 5xx"),
        ("gpu_driver", "5xx;count:8", "a version such as 5xx"),
        ("machine_type", "g2-standard-8", "would stay idle"),
    ],
)
def test_values_that_cannot_be_right(name: str, value: Any, remedy: str) -> None:
    message = refusal(**{name: value})
    assert message.startswith(f"dataflow.{name}: ")
    assert remedy in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threads", 0),
        ("threads", 65),
        ("disk_gb", 10),
        ("max_workers", 0),
        ("gpu_count", 0),
        ("zone", "us-central1-a"),
    ],
)
def test_bounds_are_checked_when_settings_are_read(name: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        options_of(**{name: value})


@pytest.mark.parametrize("output", ["faces", "/data/faces", "s3://my-bucket/faces", "gs://bucket"])
def test_the_output_must_be_in_a_bucket(output: str) -> None:
    message = refusal(output=output)
    assert message.startswith(f"--output {output}: ") and "gs://BUCKET/NAME" in message


@pytest.mark.parametrize(
    ("gpu", "machine", "begins"),
    [
        ("nvidia-tesla-t4", "n2-standard-8", "n1-"),
        ("nvidia-tesla-t4", "g2-standard-8", "n1-"),
        ("nvidia-l4", "n1-standard-8", "g2-"),
        ("nvidia-tesla-a100", "a2-ultragpu-1g", "a2-highgpu-"),
        ("nvidia-h100-80gb", "a2-highgpu-1g", "a3-highgpu-"),
    ],
)
def test_machines_that_cannot_have_the_gpu(gpu: str, machine: str, begins: str) -> None:
    message = refusal(provider="cuda", gpu_type=gpu, machine_type=machine)
    assert message.startswith(f"dataflow.machine_type: {machine} cannot have a {gpu}")
    assert begins in message


ONE_PROCESS = "a machine's one process uses one GPU"


@pytest.mark.parametrize("machine", ["g2-standard-24", "a2-megagpu-16g"])
def test_a_machine_that_always_has_more_gpus(machine: str) -> None:
    for extra, gpu in (([], "nvidia-l4"), ([WORKER_ACCELERATOR], None)):
        message = refusal(*extra, provider="cuda", gpu_type=gpu, machine_type=machine)
        assert message.startswith(f"dataflow.machine_type: {machine} has ")
        assert ONE_PROCESS in message


@pytest.mark.parametrize("extra", [WORKER_ACCELERATOR, EXPERIMENT, HINT])
@pytest.mark.parametrize("count", [2, 8, 10, 16])
def test_more_gpus_than_one_process_uses(extra: str, count: int) -> None:
    extra = extra.replace("count:1", f"count:{count}")
    message = refusal(extra, provider="cuda")
    assert "after --: " in message and ONE_PROCESS in message
    message = refusal(provider="cuda", gpu_type="nvidia-tesla-t4", gpu_count=count)
    assert message.startswith(f"dataflow.gpu_count: {count}: {ONE_PROCESS}")


@pytest.mark.parametrize(
    ("driver", "asked"),
    [
        ("none", ""),
        ("default", ";install-nvidia-driver"),
        ("5xx", ";install-nvidia-driver:5xx"),
        ("latest", ";install-nvidia-driver:latest"),
        (580, ";install-nvidia-driver:580"),  # as YAML reads it
    ],
)
def test_the_driver_has_a_version(driver: Any, asked: str) -> None:
    options = made(provider="cuda", gpu_type="nvidia-l4", gpu_driver=driver)
    assert options.view_as(GoogleCloudOptions).dataflow_service_options == [
        f"worker_accelerator=type:nvidia-l4;count:1{asked}"
    ]


def test_an_experiment_asks_for_a_gpu_too() -> None:
    assert refusal(EXPERIMENT).startswith("accelerator after --: detect.provider is cpu")
    options = made(EXPERIMENT, provider="cuda")
    assert sorted(options.view_as(DebugOptions).experiments) == [
        "no_use_multiple_sdk_containers",
        "worker_accelerator=type:nvidia-l4;count:1",
    ]


def test_an_unknown_gpu_can_be_given_beside_facecap() -> None:
    message = refusal(provider="cuda", gpu_type="nvidia-b200")
    assert message.startswith("dataflow.gpu_type: 'nvidia-b200'") and "after --" in message
    accelerator = "worker_accelerator=type:nvidia-b200;count:1;install-nvidia-driver"
    options = made(
        f"--dataflow_service_options={accelerator}",
        provider="cuda",
        machine_type="n1-standard-96",
        threads=64,
    )
    assert options.view_as(GoogleCloudOptions).dataflow_service_options == [accelerator]
    assert options.view_as(DebugOptions).experiments == ["no_use_multiple_sdk_containers"]


def test_a_gpu_and_the_provider_go_together() -> None:
    assert refusal(gpu_type="nvidia-tesla-t4").startswith("dataflow.gpu_type: detect.provider")
    assert refusal(HINT).startswith("accelerator after --: detect.provider is cpu")
    message = refusal(provider="cuda")
    assert message.startswith("dataflow.gpu_type: not set") and "nvidia-tesla-t4" in message


def test_one_hint_for_the_whole_pipeline_is_the_other_way() -> None:
    options = made(HINT, provider="cuda")
    assert options.view_as(StandardOptions).resource_hints == [HINT.partition("=")[2]]
    assert options.view_as(GoogleCloudOptions).dataflow_service_options is None
    assert options.view_as(WorkerOptions).machine_type is None  # the hint may say it
    assert options.view_as(DebugOptions).experiments == ["no_use_multiple_sdk_containers"]


@pytest.mark.parametrize(
    ("extra", "gpu"),
    [
        ([HINT], "nvidia-l4"),
        ([HINT, WORKER_ACCELERATOR], None),
        ([WORKER_ACCELERATOR], "nvidia-l4"),
        ([EXPERIMENT], "nvidia-l4"),
        ([HINT, EXPERIMENT], None),
        ([WORKER_ACCELERATOR, EXPERIMENT], None),
        (["--resource_hint=min_ram=16GB"], "nvidia-l4"),
        (["--dataflow_service_options=enable_prime"], "nvidia-l4"),
        (["--experiments=enable_prime"], "nvidia-l4"),
    ],
)
def test_never_two_ways_to_an_accelerator(extra: list[str], gpu: str | None) -> None:
    message = refusal(*extra, provider="cuda", gpu_type=gpu)
    assert "after --" in message and "dataflow.gpu_type" in message


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("--project=other", "--project after --: set dataflow.project instead"),
        ("--machine_type=n1-standard-1", "set dataflow.machine_type instead"),
        ("--worker_machine_type=n1-standard-1", "set dataflow.machine_type instead"),
        ("--no_use_public_ips", "set dataflow.public_ips instead"),
        ("--number_of_worker_harness_threads=9", "set dataflow.threads instead"),
        ("--label=a=b", "set dataflow.labels instead"),
        ("--dry_run=True", "facecap's own --dry-run"),
        ("--machine_typ=n1", "Beam knows no such option"),
        ("--experiments=disable_runner_v2", "runner v2"),
        ("--resource_hint=colour=red", "colour"),
        ("--flexrs_goal=SLOW", "Beam option: "),
        ("more.parquet", "quote a glob"),
    ],
)
def test_options_after_the_dashes_are_checked(extra: str, said: str) -> None:
    assert said in refusal(extra)


def test_several_processes_on_a_gpu_are_refused() -> None:
    message = refusal(
        "--experiments=use_multiple_sdk_containers", provider="cuda", gpu_type="nvidia-l4"
    )
    assert "its threads share the model" in message


def test_other_beam_options_pass() -> None:
    options = made("--worker_zone=us-central1-a", "--flexrs_goal=COST_OPTIMIZED")
    assert options.view_as(WorkerOptions).worker_zone == "us-central1-a"
    assert options.view_as(GoogleCloudOptions).flexrs_goal == "COST_OPTIMIZED"


def test_one_job_name_for_one_output() -> None:
    assert job_name("gs://bucket/Faces_2026/") == job_name("gs://bucket/Faces_2026")
    assert job_name("gs://bucket/a/faces") != job_name("gs://bucket/b/faces")
    for output in (OUTPUT, "gs://b/" + "x" * 200, "gs://b/---", "gs://b/ümläut"):
        made(job_name=job_name(output))


def test_without_googles_libraries_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    remedy = r"pip install 'facecap\[dataflow\]'"
    with pytest.raises(UsageError, match=remedy):
        dry_run(lambda pipeline: None, made())
    with pytest.raises(UsageError, match=remedy):
        DataflowEngine(options_of(), OUTPUT, [], "cpu")


def test_a_bare_bucket_is_enough_for_staging() -> None:
    options = made(staging="gs://my-bucket")
    assert options.view_as(GoogleCloudOptions).staging_location == "gs://my-bucket/"
