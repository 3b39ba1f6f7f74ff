"""Dataflow's options, all checked before anything is started: a job that fails for a wrong name
does so after minutes, and a wrong machine costs money meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from apache_beam.options.pipeline_options import PipelineOptions

from facecap.pipeline.beam_options import beam_options, given
from facecap.pipeline.dataflow_job import need_gcp
from facecap.pipeline.errors import UsageError
from facecap.pipeline.machines import GPUS, MACHINE_TYPE, asks_for_gpu, check_machine, vcpus
from facecap.schemas.options import Options, run

ONE_PROCESS = "no_use_multiple_sdk_containers"
_MAX_THREADS = 64
"""A worker process keeps this many rows in flight apart (transforms/worker.py)."""


class DataflowOptions(Options):
    """The machines that Dataflow starts. Names are Google's."""

    project: str | None = run(None, "id of the Google Cloud project; must be set")
    region: str | None = run(None, "region of the job, such as us-central1; must be set")
    staging: str | None = run(
        None, "gs://BUCKET/FOLDER in that region for what a job needs to start; must be set"
    )
    image: str | None = run(
        None, "container image with facecap and its models, with its registry; must be set"
    )
    job_name: str | None = run(
        None, "name of the job; none: from OUT, so that two jobs on one OUT are refused"
    )
    machine_type: str | None = run(
        None, f"machine type; none: {MACHINE_TYPE}, or the smallest usual one for the GPU"
    )
    workers: int | None = run(None, "machines at the start; none: Dataflow decides", ge=1, le=4000)
    max_workers: int = run(
        16, "machines at most; download.per_host counts per worker process", ge=1, le=4000
    )
    threads: int | None = run(
        None,
        "threads per worker process (one process per vCPU, with a GPU one per machine); none: 2, "
        "with a GPU 2 per vCPU",
        ge=1,
        le=_MAX_THREADS,
    )
    disk_gb: int = run(50, "disk of a machine: the image, and one shard's crops", ge=30, le=65536)
    disk_type: str | None = run(None, "pd-standard, pd-balanced or pd-ssd; none: Dataflow's")
    gpu_type: str | None = run(
        None, f"GPU of every machine, for detect.provider=cuda: {', '.join(GPUS)}"
    )
    gpu_count: int = run(1, "GPUs of a machine; only 1: its one process uses one", ge=1, le=16)
    gpu_driver: str = run(
        "5xx",
        "NVIDIA driver that Dataflow installs on the machines: a version as Dataflow names it "
        "(5xx), default (Dataflow's choice) or none; the CUDA image needs 580 or newer",
        coerce_numbers_to_str=True,
    )
    service_account: str | None = run(
        None, "e-mail address of the machines' service account; none: the project's default"
    )
    network: str | None = run(None, "network of the machines; none: default")
    subnetwork: str | None = run(
        None, "subnetwork of the machines: regions/REGION/subnetworks/NAME, or its full URL"
    )
    public_ips: bool = run(
        True, "machines have public addresses; without them downloads need Cloud NAT"
    )
    labels: dict[str, str] = run({}, "labels of the job and its machines", max_length=60)


_BUCKET = r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"
_NAME = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PATTERNS = {
    # A domain and a colon stand before the ids of old projects.
    "project": (
        r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]",
        "give the project's id, such as my-project-123, not its number or title",
    ),
    "region": (r"[a-z]+-[a-z]+\d+", "give a region, such as us-central1, not a zone"),
    "staging": (rf"{_BUCKET}(?:/[^\r\n]*)?", "give gs://BUCKET/FOLDER"),
    "image": (
        r"[a-z0-9-]+(?:\.[a-z0-9-]+)+(?::\d+)?(?:/[a-z0-9._-]+)+"
        r"(?::\w[\w.-]{0,127}|@sha256:[0-9a-f]{64}|:\w[\w.-]{0,127}@sha256:[0-9a-f]{64})",
        "give REGISTRY/PATH:TAG, such as us-docker.pkg.dev/my-project/facecap/facecap:1",
    ),
    "job_name": (_NAME, "use at most 63 of a-z, 0-9 and '-', a letter first"),
    "disk_type": (r"pd-standard|pd-balanced|pd-ssd", "choose pd-standard, pd-balanced or pd-ssd"),
    "gpu_driver": (
        r"none|default|latest|\d[\dx]*(?:\.[\dx]+)*",
        "give a version such as 5xx, or default, or none",
    ),
    "service_account": (
        r"[a-z0-9][a-z0-9-]*@[a-z0-9.:-]+\.gserviceaccount\.com",
        "give its address, NAME@PROJECT.iam.gserviceaccount.com",
    ),
    "network": (_NAME, "give the network's name"),
    "subnetwork": (
        rf"(?:https://www\.googleapis\.com/compute/v1/projects/[^/]+/)?"
        rf"regions/[a-z0-9-]+/subnetworks/{_NAME}",
        "give regions/REGION/subnetworks/NAME, or its full URL",
    ),
}
_LABEL_KEY, _LABEL_VALUE = r"[a-z][a-z0-9_-]{0,62}", r"[a-z0-9_-]{0,63}"

_OURS = {  # Beam's names of what settings say: one name for one thing
    "project": "dataflow.project",
    "region": "dataflow.region",
    "staging_location": "dataflow.staging",
    "temp_location": "dataflow.staging",
    "sdk_container_image": "dataflow.image",
    "worker_harness_container_image": "dataflow.image",
    "job_name": "dataflow.job_name",
    "machine_type": "dataflow.machine_type",
    "num_workers": "dataflow.workers",
    "max_num_workers": "dataflow.max_workers",
    "number_of_worker_harness_threads": "dataflow.threads",
    "disk_size_gb": "dataflow.disk_gb",
    "disk_type": "dataflow.disk_type",
    "service_account_email": "dataflow.service_account",
    "network": "dataflow.network",
    "subnetwork": "dataflow.subnetwork",
    "use_public_ips": "dataflow.public_ips",
    "labels": "dataflow.labels",
    "runner": "facecap's own --runner",
    "dry_run": "facecap's own --dry-run",
}


def dataflow_options(
    settings: DataflowOptions, output: str, extra: Sequence[str], provider: str
) -> PipelineOptions:
    """Beam's options for a job that writes to `output`; `extra` are the ones given after `--`,
    `provider` is detect.provider.

    Raises UsageError, one line that names the setting and the remedy, on anything missing,
    misspelt or contradictory.
    """
    _check_names(settings)
    require_bucket("--output", output)
    user = given(extra)
    for option, ours in _OURS.items():
        if option in user:
            raise UsageError(f"--{option} after --: set {ours} instead")
    for experiment in user.get("experiments") or ():
        if experiment.startswith(("disable_runner_v2", "disable_portable_runner")):
            raise UsageError(
                f"{experiment} after --: Beam's Python runs on runner v2 only; drop it"
            )
    uses_gpu = asks_for_gpu(settings.gpu_type, user, provider)
    check_machine(settings.machine_type, settings.gpu_type, settings.gpu_count, uses_gpu)
    flags = [
        "--runner=DataflowRunner",
        f"--project={settings.project}",
        f"--region={settings.region}",
        f"--staging_location={_folder(settings.staging)}",
        f"--temp_location={_folder(settings.staging)}",
        f"--job_name={settings.job_name or job_name(output)}",
        f"--sdk_container_image={settings.image}",
        # The image has the code: nothing is installed or unpickled when a worker starts.
        "--sdk_location=container",
        "--no_save_main_session",
        f"--max_num_workers={settings.max_workers}",
        f"--number_of_worker_harness_threads={threads(settings, uses_gpu)}",
        f"--disk_size_gb={settings.disk_gb}",
        "--use_public_ips" if settings.public_ips else "--no_use_public_ips",
        *(f"--labels={key}={value}" for key, value in settings.labels.items()),
    ]
    optional = {
        "machine_type": machine_type(settings, uses_gpu),
        "num_workers": settings.workers,
        "disk_type": settings.disk_type
        and f"compute.googleapis.com/projects//zones//diskTypes/{settings.disk_type}",
        "service_account_email": settings.service_account,
        "network": settings.network,
        "subnetwork": settings.subnetwork,
    }
    flags += [f"--{name}={value}" for name, value in optional.items() if value is not None]
    if settings.gpu_type:
        drivers = {"none": "", "default": ";install-nvidia-driver"}
        driver = drivers.get(settings.gpu_driver, f";install-nvidia-driver:{settings.gpu_driver}")
        flags.append(
            "--dataflow_service_options=worker_accelerator="
            f"type:{settings.gpu_type};count:1{driver}"
        )
    if uses_gpu:
        flags.append(f"--experiments={ONE_PROCESS}")
    return beam_options(flags, extra)


class DataflowEngine:
    """Machines of Google's, for `pipeline.execution`. Raises UsageError as dataflow_options does,
    and where Google's libraries are missing."""

    runner = "DataflowRunner"
    workers_here = False
    replaces_workers = True

    def __init__(
        self, settings: DataflowOptions, output: str, extra: Sequence[str], provider: str
    ) -> None:
        self.options = dataflow_options(settings, output, extra, provider)
        need_gcp()

    @contextlib.contextmanager
    def started(self, log: Path) -> Iterator[PipelineOptions]:
        """Nothing runs here beside the graph."""
        yield self.options


def require_bucket(name: str, location: str) -> None:
    """Raises UsageError unless `location`, given as `name`, is a folder or file in a bucket."""
    if not re.fullmatch(rf"{_BUCKET}/[^/\s][^\r\n]*", location):
        raise UsageError(
            f"{name} {location}: not in a bucket; Dataflow's machines share no disk: "
            "give gs://BUCKET/NAME"
        )


def job_name(output: str) -> str:
    """One name for one output folder: Dataflow refuses a second running job of a name."""
    last = re.sub(r"[^a-z0-9]+", "-", output.rstrip("/").rpartition("/")[2].lower()).strip("-")
    digest = hashlib.sha256(output.rstrip("/").encode()).hexdigest()[:8]
    return f"facecap-{last[:40].strip('-')}-{digest}".replace("--", "-")


def machine_type(settings: DataflowOptions, uses_gpu: bool) -> str | None:
    """None where an accelerator given after `--` has to say it."""
    if settings.machine_type:
        return settings.machine_type
    if settings.gpu_type:
        return GPUS[settings.gpu_type].machine_type
    return None if uses_gpu else MACHINE_TYPE


def processes(settings: DataflowOptions, uses_gpu: bool) -> int:
    """Worker processes of one machine: one per vCPU, or one whose threads share the GPU's model,
    for every process would load it once more and hold a CUDA context of its own."""
    return 1 if uses_gpu else vcpus(machine_type(settings, uses_gpu) or "") or 1


def threads(settings: DataflowOptions, uses_gpu: bool) -> int:
    """Threads of one worker process: while one waits for the last downloads of its shards or
    for the GPU, the others decode."""
    per_core = 2
    if settings.threads is not None or not uses_gpu:
        return settings.threads or per_core
    cores = vcpus(machine_type(settings, uses_gpu) or "") or 4
    return min(per_core * cores, _MAX_THREADS)


def _check_names(settings: DataflowOptions) -> None:
    for name in ("project", "region", "staging", "image"):
        if not getattr(settings, name):
            remedy = _PATTERNS[name][1]
            raise UsageError(f"dataflow.{name}: not set; {remedy}")
    for name, (pattern, remedy) in _PATTERNS.items():
        value = getattr(settings, name)
        if value is not None and not re.fullmatch(pattern, value):
            raise UsageError(f"dataflow.{name}: {value!r} cannot be right; {remedy}")
    for key, value in settings.labels.items():
        if not re.fullmatch(_LABEL_KEY, key) or not re.fullmatch(_LABEL_VALUE, value):
            raise UsageError(
                f"dataflow.labels: {key}={value} cannot be right; use at most 63 of a-z, 0-9, "
                "'_' and '-', a letter first in the key"
            )
    if settings.subnetwork and f"regions/{settings.region}/" not in settings.subnetwork:
        raise UsageError(
            f"dataflow.subnetwork: {settings.subnetwork} is not in dataflow.region "
            f"{settings.region}; give one that is"
        )
    if settings.workers is not None and settings.workers > settings.max_workers:
        raise UsageError(
            f"dataflow.workers: {settings.workers} is more than dataflow.max_workers "
            f"{settings.max_workers}; raise that, or start with fewer"
        )


def _folder(location: str | None) -> str:
    """Beam takes no bare bucket."""
    assert location is not None
    return location if "/" in location.removeprefix("gs://") else location + "/"
