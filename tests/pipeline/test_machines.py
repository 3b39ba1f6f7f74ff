"""Machine types by their names."""

from __future__ import annotations

import pytest

from facecap.pipeline.errors import UsageError
from facecap.pipeline.machines import GPUS, built_in_gpus, check_machine, vcpus


@pytest.mark.parametrize(
    ("machine_type", "cores", "gpus"),
    [
        ("n1-standard-4", 4, None),
        ("n2-highmem-16", 16, None),
        ("n1-custom-6-16384", 6, None),
        ("custom-6-16384", 6, None),
        ("n2-custom-2-32768-ext", 2, None),
        ("c3-standard-22-lssd", 22, None),
        ("g2-standard-8", 8, 1),
        ("g2-standard-96", 96, 8),
        ("a2-highgpu-1g", 12, 1),
        ("a2-megagpu-16g", 96, 16),
        ("a3-highgpu-8g", 208, 8),
        ("a3-highgpu-3g", None, 3),
        ("e2-medium", None, None),
        ("f1-micro", None, None),
        ("standard", None, None),
        ("", None, None),
    ],
)
def test_cores_and_gpus(machine_type: str, cores: int | None, gpus: int | None) -> None:
    assert (vcpus(machine_type), built_in_gpus(machine_type)) == (cores, gpus)


def test_every_gpus_default_machine_takes_it() -> None:
    for gpu in GPUS.values():
        assert gpu.machine_type.startswith(gpu.families)
        assert vcpus(gpu.machine_type)
        assert built_in_gpus(gpu.machine_type) in (None, 1)
        check_machine(None, next(name for name in GPUS if GPUS[name] is gpu), 1, True)


@pytest.mark.parametrize(
    "machine_type", ["t2a-standard-4", "c4a-standard-8-lssd", "n4a-highmem-8", "a4x-highgpu-4g"]
)
def test_arm_is_refused(machine_type: str) -> None:
    with pytest.raises(UsageError, match=r"^dataflow\.machine_type: .* ARM cores .*; give one"):
        check_machine(machine_type, None, 1, uses_gpu=False)
    check_machine("t2d-standard-4", None, 1, uses_gpu=False)
