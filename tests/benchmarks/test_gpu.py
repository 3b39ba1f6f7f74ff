import numpy as np
from benchmarks import gpu

from facecap.transforms.detectors import one_pass


def test_ratios_are_to_the_first_line_and_to_insightface() -> None:
    rows = [gpu.Row("detect, 1 in a call", 50), gpu.Row("detect, 8 in a call", 200, "57 %")]
    lines = gpu.shown([*rows, gpu.Row("insightface's loop", 40)]).splitlines()
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == [
        "detect, 8 in a call", "200.0", "4.00", "5.00", "57 %",
    ]  # fmt: skip
    assert "| 4.00 | - |" in gpu.shown(rows)


def test_what_nvidia_smi_says_is_read() -> None:
    seen = gpu.Utilisation()
    seen.read(["20, 1000\n", "[N/A], [N/A]\n", "60, 3000\n"])
    assert str(seen) == "40 %, 3000 MiB" and str(gpu.Utilisation()) == "-"


def test_the_calls_are_put_back() -> None:
    before = one_pass.CALLS["cpu"]
    with gpu.calls("cpu", ((64, 3),)):
        assert one_pass.CALLS["cpu"] == ((64, 3),)
    assert one_pass.CALLS["cpu"] == before


def test_the_classifier_is_measured() -> None:
    pictures = [np.zeros((50, 50, 3), np.uint8), np.zeros((120, 100, 3), np.uint8)]
    chips = gpu.chips_of(pictures, 5)
    assert chips.shape == (5, 109, 89, 3)
    rows = [*gpu.classify_rows("cpu", chips, (1, 4))]
    assert [row.name for row in rows] == ["classify, 1 in a call", "classify, 4 in a call"]
    assert all(row.per_second > 0 for row in rows)
