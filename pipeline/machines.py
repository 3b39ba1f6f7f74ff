"""Compute Engine's machine types and GPUs: what they have, and whether what is asked for fits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.resources import resource_hints_from_options

from facecap.pipeline.errors import UsageError

MACHINE_TYPE = "n2-standard-4"
"""Where none is asked for, and no GPU."""

_VCPUS = re.compile(
    r"(?:[a-z0-9]+-)?custom-(?P<custom>\d+)-\d+(?:-ext)?"
    r"|[a-z][a-z0-9]+-(?:standard|highmem|highcpu|megamem|ultramem)-(?P<number>\d+)(?:-lssd)?"
)
_ACCELERATED = {  # vCPUs by number of GPUs, which such a machine type always has
    "a2-highgpu": {1: 12, 2: 24, 4: 48, 8: 96},
    "a2-megagpu": {16: 96},
    "a2-ultragpu": {1: 12, 2: 24, 4: 48, 8: 96},
    "a3-highgpu": {1: 26, 2: 52, 4: 104, 8: 208},
}
_ARM = ("t2a", "c4a", "n4a", "a4x")
_G2_GPUS = {4: 1, 8: 1, 12: 1, 16: 1, 24: 2, 32: 1, 48: 4, 96: 8}

_ONE_GPU = (
    "a machine's one process uses one GPU, the others would be paid for and idle; take machines "
    "with one GPU, and more of them by dataflow.max_workers"
)


@dataclass(frozen=True)
class Gpu:
    """A GPU type: the machine types that take it, by how their names begin, and a default."""

    families: tuple[str, ...]
    machine_type: str


_N1 = Gpu(("n1-", "custom-"), "n1-standard-4")
GPUS = {
    "nvidia-tesla-t4": _N1,
    "nvidia-tesla-p4": _N1,
    "nvidia-tesla-p100": _N1,
    "nvidia-tesla-v100": _N1,
    "nvidia-l4": Gpu(("g2-",), "g2-standard-8"),
    "nvidia-tesla-a100": Gpu(("a2-highgpu-",), "a2-highgpu-1g"),
    "nvidia-a100-80gb": Gpu(("a2-ultragpu-",), "a2-ultragpu-1g"),
    "nvidia-h100-80gb": Gpu(("a3-highgpu-",), "a3-highgpu-1g"),
}
"""By Compute Engine's names."""


def vcpus(machine_type: str) -> int | None:
    """The number of vCPUs; None where the name does not tell, and for shared cores."""
    series, _, gpus = machine_type.rpartition("-")
    if series in _ACCELERATED and re.fullmatch(r"\d+g", gpus):
        return _ACCELERATED[series].get(int(gpus[:-1]))
    found = _VCPUS.fullmatch(machine_type)
    return int(found["custom"] or found["number"]) if found else None


def built_in_gpus(machine_type: str) -> int | None:
    """The number of GPUs that the machine type always has; None where that is free."""
    series, _, size = machine_type.rpartition("-")
    if series in _ACCELERATED and re.fullmatch(r"\d+g", size):
        return int(size[:-1])
    if series == "g2-standard" and size.isdecimal():
        return _G2_GPUS.get(int(size))
    return None


def asks_for_gpu(gpu_type: str | None, user: Mapping[str, Any], provider: str) -> bool:
    """Whether machines will have a GPU: by dataflow.gpu_type, or in the Beam options that the
    `user` gave by a service option, an experiment or one hint for the whole pipeline.

    Raises UsageError when more than one of them asks, for more than one GPU per machine, or when
    detect.provider disagrees.
    """
    experiments = [str(experiment) for experiment in user.get("experiments") or ()]
    services = [str(option) for option in user.get("dataflow_service_options") or ()]
    services += experiments  # Dataflow takes both names for the same
    hints = _hints(user)
    accelerators = [option for option in services if option.startswith("worker_accelerator=")]
    by_worker = bool(gpu_type or accelerators)
    if bool(gpu_type) + len(accelerators) > 1:
        raise UsageError(
            "worker_accelerator after --: given twice, or beside dataflow.gpu_type; keep one"
        )
    if hints and by_worker:
        # Any hint turns on "right fitting", which takes no worker_accelerator:
        # https://cloud.google.com/dataflow/docs/guides/right-fitting
        raise UsageError(
            "--resource_hint after --: Dataflow takes no hint beside worker_accelerator "
            "(dataflow.gpu_type); keep one of them"
        )
    if by_worker and "enable_prime" in services:
        raise UsageError(
            "enable_prime after --: Dataflow Prime takes no worker_accelerator; give "
            "--resource_hint=accelerator=... after -- instead of dataflow.gpu_type"
        )
    accelerators += [hint.decode() for urn, hint in hints.items() if "accelerator" in urn]
    uses_gpu = bool(gpu_type or accelerators)
    for accelerator in accelerators:
        if re.search(r"count:(?!0*1(?!\d))", accelerator):
            raise UsageError(f"{accelerator} after --: {_ONE_GPU}")
    if uses_gpu and "use_multiple_sdk_containers" in experiments:
        raise UsageError(
            "use_multiple_sdk_containers after --: with a GPU one process has the machine, and "
            "its threads share the model; drop it"
        )
    if uses_gpu and provider != "cuda":
        asked = "dataflow.gpu_type" if gpu_type else "accelerator after --"
        raise UsageError(
            f"{asked}: detect.provider is {provider}, so the GPU would stay idle; set "
            "detect.provider=cuda, or ask for no GPU"
        )
    if not uses_gpu and provider == "cuda":
        raise UsageError(
            "dataflow.gpu_type: not set, but detect.provider is cuda; set it, e.g. to "
            "nvidia-tesla-t4, or detect.provider=cpu"
        )
    return uses_gpu


def _hints(user: Mapping[str, Any]) -> dict[str, bytes]:
    given = [f"--resource_hint={hint}" for hint in user.get("resource_hints") or ()]
    try:
        return dict(resource_hints_from_options(PipelineOptions(given)))
    except (ValueError, AttributeError) as error:  # AttributeError: a hint without a value
        raise UsageError(f"--resource_hint after --: {error}") from None


def check_machine(
    machine_type: str | None, gpu_type: str | None, gpu_count: int, uses_gpu: bool
) -> None:
    """Raises UsageError when the machine type is unknown, or cannot have the one GPU."""
    if gpu_count != 1:
        raise UsageError(f"dataflow.gpu_count: {gpu_count}: {_ONE_GPU}")
    if (machine_type or "").startswith(tuple(f"{series}-" for series in _ARM)):
        raise UsageError(
            f"dataflow.machine_type: {machine_type} has ARM cores and the image is for amd64; "
            f"give one such as {MACHINE_TYPE}"
        )
    if machine_type and vcpus(machine_type) is None:
        raise UsageError(
            f"dataflow.machine_type: {machine_type!r} is none that is known here, or has shared "
            f"cores; give one such as {MACHINE_TYPE} or n1-standard-8"
        )
    has = built_in_gpus(machine_type or "")
    if has and not uses_gpu:
        raise UsageError(
            f"dataflow.machine_type: {machine_type} has a GPU that would stay idle; set "
            f"dataflow.gpu_type and detect.provider=cuda, or give one such as {MACHINE_TYPE}"
        )
    if has and has > 1:
        raise UsageError(f"dataflow.machine_type: {machine_type} has {has} GPUs: {_ONE_GPU}")
    if gpu_type is None:
        return
    gpu = GPUS.get(gpu_type)
    if gpu is None:
        raise UsageError(
            f"dataflow.gpu_type: {gpu_type!r} is none of {', '.join(GPUS)}; ask for a newer one "
            "by --dataflow_service_options=worker_accelerator=... after --"
        )
    machine_type = machine_type or gpu.machine_type
    if not machine_type.startswith(gpu.families):
        raise UsageError(
            f"dataflow.machine_type: {machine_type} cannot have a {gpu_type}; "
            f"give one that begins with {' or '.join(gpu.families)}"
        )
