"""What `facecap launch --plan` says: limits times processes, and an estimate with its source."""

from __future__ import annotations

import re

import pytest
import yaml

from facecap.pipeline import dataflow
from facecap.pipeline.launch import (
    Fleet,
    Work,
    dataflow_fleet,
    estimate,
    local_fleet,
    plan_text,
)
from facecap.pipeline.settings import load_settings
from facecap.transforms.detectors import DETECTORS
from tests.pipeline.test_dataflow import OUTPUT, options_of

FIFTY_MILLION = Work(50_000_000, 5_000, OUTPUT)


def gpu_fleet() -> Fleet:
    chosen = options_of(gpu_type="nvidia-tesla-t4", max_workers=50)
    made = dataflow.dataflow_options(chosen, OUTPUT, [], "cuda")
    return dataflow_fleet(chosen, "cuda", made)


def line(text: str, name: str) -> str:
    found = re.search(rf"^  {re.escape(name)} +(.*)$", text, re.MULTILINE)
    assert found, (name, text)
    return found[1]


def test_limits_are_told_times_the_number_of_worker_processes() -> None:
    settings = load_settings(overrides=["download.per_host=3", "download.concurrency=100"])
    text = plan_text(Fleet("spark", "spark://a:7077", 10, 4, 4), FIFTY_MILLION, settings)
    assert "3 x 40 processes = 120" in line(text, "per host")
    assert "100 x 40 processes = 4,000" in line(text, "all hosts")
    assert "up to 40 times per host" in line(text, "robots.txt")
    assert "spark://a:7077" in text
    settings = load_settings(overrides=["download.respect_robots=false"])
    assert "robots.txt" not in plan_text(local_fleet(2), FIFTY_MILLION, settings)


def test_a_rewriting_is_told_with_its_requests() -> None:
    fleet = Fleet("spark", "spark://a:7077", 10, 4, 4)
    settings = load_settings(overrides=["rewrite.backend=openai", "rewrite.concurrency=8"])
    text = line(plan_text(fleet, FIFTY_MILLION, settings), "rewriting")
    assert "8 x 40 processes = 320 requests" in text and "not in the estimate" in text
    assert "rewriting" not in plan_text(fleet, FIFTY_MILLION, load_settings())


def test_a_gpu_machine_has_one_process_whose_threads_share_the_model() -> None:
    text = plan_text(gpu_fleet(), FIFTY_MILLION, load_settings())
    assert line(text, "workers") == "50 processes, threads in each: 8"
    assert "nvidia-tesla-t4" in line(text, "machines") and "1 GPU" in line(text, "machines")
    assert line(text, "image") == options_of().image
    assert "--experiments=['no_use_multiple_sdk_containers']" in text
    assert "--project=my-project" in text


def test_a_machine_without_gpu_has_one_process_per_vcpu() -> None:
    chosen = options_of(machine_type="n2-standard-8", max_workers=3)
    made = dataflow.dataflow_options(chosen, OUTPUT, [], "cpu")
    fleet = dataflow_fleet(chosen, "cpu", made)
    assert (fleet.all_processes, fleet.threads, fleet.gpu) == (24, 2, False)


def test_the_estimate_is_the_measured_build_for_photographs_with_faces() -> None:
    # docs/benchmarks.md: 320 core-seconds for 12,000 URLs.
    found = estimate(12_000, local_fleet(2), "scrfd-500m")
    assert found is not None
    assert found.core_hours[1] * 3600 == pytest.approx(320, rel=0.01)
    assert found.hours[1] * 3600 == pytest.approx(160, rel=0.01)
    assert 0.5 < found.core_hours[0] / found.core_hours[1] < 0.8
    assert "EPYC" in found.source
    slower = estimate(12_000, local_fleet(2), "mtcnn")
    assert slower is not None
    assert slower.core_hours[1] - found.core_hours[1] == pytest.approx(12_000 * 12.4e-3 / 3600)


def test_a_gpu_can_take_the_detectors_time_at_the_least_and_none_at_the_most() -> None:
    fleet = gpu_fleet()
    with_gpu = estimate(1000, fleet, "mtcnn")
    without = estimate(1000, local_fleet(4), "mtcnn")
    assert with_gpu is not None and without is not None
    assert with_gpu.core_hours[1] == without.core_hours[1]
    assert with_gpu.core_hours[0] < without.core_hours[0]
    text = plan_text(fleet, FIFTY_MILLION, load_settings())
    assert "no build on a GPU was measured" in line(text, "GPU-hours")


def test_a_rate_of_ones_own_takes_the_place_of_the_measured_one() -> None:
    found = estimate(36_000, Fleet("local", "here", 1, 2, 2), "yunet", 10.0)
    assert found is not None
    assert found.core_hours == (1.0, 1.0)
    assert found.machine_hours == (0.5, 0.5)
    text = plan_text(local_fleet(2), Work(36_000, 4, "out"), load_settings(), 10.0)
    assert line(text, "core-hours") == "1"
    assert "as given" in text and "Your images differ" not in text


def test_what_was_not_measured_has_no_estimate() -> None:
    assert estimate(1000, local_fleet(2), "yunet") is None
    settings = load_settings(overrides=["detect.model=yunet"])
    text = plan_text(local_fleet(2), Work(1000, 2, "out"), settings)
    assert "yunet was not measured" in text and "--images-per-second-per-core" in text


def test_tars_have_no_downloads_and_no_estimate() -> None:
    text = plan_text(local_fleet(2), Work(None, 12, "out", downloads=False), load_settings())
    assert "per host" not in text and "network" not in text
    assert "No estimate" in text


def test_the_network_and_the_floor_of_the_limits() -> None:
    text = plan_text(Fleet("flink", "flink:8081", 10, 4, 4), FIFTY_MILLION, load_settings())
    assert line(text, "network") == "11 to 14 TB downloaded"
    # 50 million / (128 x 40) s, and 500,000 / (8 x 40) s.
    assert "2.7 h for all, 0.43 h for a host with 1% of the URLs" in line(text, "limits")


def test_too_few_shards_are_said() -> None:
    text = plan_text(local_fleet(8), Work(1000, 3, "out"), load_settings())
    assert "too few for 8 threads" in line(text, "shards")


def test_measured_detectors_exist() -> None:
    from importlib.resources import files

    measured = yaml.safe_load(files("facecap.pipeline").joinpath("measured.yaml").read_text())
    assert set(measured["detector_ms"]) <= set(DETECTORS)
