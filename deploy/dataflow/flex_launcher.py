"""What a Flex Template runs: its parameters become those of `facecap build --runner dataflow`.

Google's launcher starts this file with the template's parameters (metadata.json) and with the
job's options under Beam's names, each as --NAME=VALUE.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import yaml

from facecap.pipeline.cli import run

SEPARATOR = ";"
_BUILD = ("input", "output", "limit")
_SETTINGS = {  # Beam's or the template's name: the setting in section dataflow
    "project": "project",
    "region": "region",
    "staging_location": "staging",
    "temp_location": "staging",
    "job_name": "job_name",
    "image": "image",
    "sdk_container_image": "image",
    "machine_type": "machine_type",
    "worker_machine_type": "machine_type",
    "num_workers": "workers",
    "max_num_workers": "max_workers",
    "threads": "threads",
    "number_of_worker_harness_threads": "threads",
    "disk_gb": "disk_gb",
    "disk_size_gb": "disk_gb",
    "gpu_type": "gpu_type",
    "gpu_driver": "gpu_driver",
    "service_account_email": "service_account",
    "network": "network",
    "subnetwork": "subnetwork",
}


def build_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments for facecap. What is neither a parameter nor a known option of the job is
    left to Beam, such as --template_location, into which the launcher wants the job written."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for name in (*_BUILD, "set", *_SETTINGS, "runner"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--labels", "--label", action="append", default=[])
    parser.add_argument("--use_public_ips", nargs="?", const="true")
    parser.add_argument("--no_use_public_ips", nargs="?", const="true")
    given, beam = parser.parse_known_args(arguments)
    values = vars(given)
    made = ["build", "--runner", "dataflow", "--quiet"]
    for name in _BUILD:
        if values[name]:
            made += [f"--{name}", values[name]]
    chosen: dict[str, str] = {}
    for name, setting in _SETTINGS.items():  # the first name of a setting that is given counts
        if values[name]:
            chosen.setdefault(setting, values[name])
    if labels := _labels(given.labels):
        chosen["labels"] = yaml.safe_dump(labels, default_flow_style=True, width=10_000).strip()
    if given.no_use_public_ips == "true" or given.use_public_ips == "false":
        chosen["public_ips"] = "false"
    settings = [f"dataflow.{name}={value}" for name, value in chosen.items()]
    settings += filter(None, map(str.strip, (given.set or "").split(SEPARATOR)))
    for setting in settings:
        made += ["--set", setting]
    return [*made, "--", *beam] if beam else made


def _labels(given: Sequence[str]) -> dict[str, str]:
    """From KEY=VALUE, or from a JSON object, as Beam takes them."""
    labels: dict[str, str] = {}
    for text in given:
        if text.startswith("{"):
            labels.update(yaml.safe_load(text))
        else:
            key, _, value = text.partition("=")
            labels[key] = value
    return labels


if __name__ == "__main__":
    sys.exit(run(build_arguments(sys.argv[1:])))
