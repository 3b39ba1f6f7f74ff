"""The Flex Template: Google's rules, our options, and the commands of its README."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import string
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from facecap.pipeline import cli
from facecap.pipeline.dataflow import DataflowOptions, dataflow_options
from facecap.pipeline.errors import UsageError
from facecap.pipeline.settings import load_settings
from facecap.transforms.models import REGISTRY

FOLDER = Path(__file__).parents[2] / "deploy" / "dataflow"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
VARIABLES = {
    "PROJECT": "my-project",
    "REGION": "us-central1",
    "BUCKET": "gs://my-bucket",
    "IMAGE": "us-docker.pkg.dev/my-project/facecap/facecap:1.0",
    "CUDA_IMAGE": "us-docker.pkg.dev/my-project/facecap/facecap:1.0-cuda",
}
VALUES = {  # what each parameter takes, and what it refuses
    "input": (["gs://my-bucket/laion/*.parquet", "gs://b/urls.txt.gz"], ["laion.parquet"]),
    "output": (["gs://my-bucket/faces"], ["gs://my-bucket", "/faces"]),
    "image": (
        [VARIABLES["IMAGE"], "europe-docker.pkg.dev/p/r/f@sha256:" + "0" * 64],
        ["facecap", "facecap:1.0"],
    ),
    "set": (
        [
            "download.contact=you@example.org",
            "detect.provider=cuda;input.where=punsafe < 0.5 AND NSFW = 'UNLIKELY'",
        ],
        ["contact", "download.contact"],
    ),
    "limit": (["10000"], ["0", "-1", "many"]),
    "gpu_type": (["nvidia-tesla-t4", "nvidia-l4"], ["t4"]),
    "gpu_driver": (["5xx", "580", "580.126.09", "default", "none"], ["true", "5xx;count:8"]),
    "threads": (["1", "64"], ["0", "65"]),
    "disk_gb": (["50", "2000"], ["0", "5"]),
}


def load(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


PARAMETERS = {parameter["name"]: parameter for parameter in load("metadata.json")["parameters"]}


@pytest.fixture(scope="module")
def launcher() -> ModuleType:
    spec = importlib.util.spec_from_file_location("flex_launcher", FOLDER / "flex_launcher.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings_of(arguments: list[str]) -> tuple[DataflowOptions, Any]:
    """Section dataflow, and all other settings, of a command's --set options."""
    given = [arguments[i + 1] for i, name in enumerate(arguments) if name == "--set"]
    settings = load_settings(overrides=given)
    return settings.dataflow, settings


def check(arguments: list[str]) -> None:
    """Raises UsageError, as the build would, on settings that cannot be right."""
    chosen, others = settings_of(arguments)
    output = arguments[arguments.index("--output") + 1]
    dataflow_options(chosen, output, [], others.detect.provider)


def test_the_metadata_keeps_googles_rules() -> None:
    metadata = load("metadata.json")
    assert set(metadata) == {"name", "description", "streaming", "parameters"}
    assert metadata["streaming"] is False
    assert len(PARAMETERS) == len(metadata["parameters"])
    for name, parameter in PARAMETERS.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert parameter["label"] and parameter["helpText"]
        assert isinstance(parameter["isOptional"], bool)
    required = {name for name, parameter in PARAMETERS.items() if not parameter["isOptional"]}
    assert required == {"input", "output", "image"}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_patterns_take_what_is_right(name: str) -> None:
    taken, refused = VALUES[name]
    (pattern,) = PARAMETERS[name]["regexes"]
    for value in taken:
        assert re.fullmatch(pattern, value), value
    for value in refused:
        assert not re.fullmatch(pattern, value), value


@pytest.mark.cluster
def test_googles_own_types_take_the_template() -> None:
    types = pytest.importorskip(
        "google.cloud.dataflow_v1beta3", reason="apache-beam[gcp] is not installed"
    )
    spec = types.ContainerSpec.from_json((FOLDER / "template.json").read_text(encoding="utf-8"))
    assert spec.sdk_info.language == types.SDKInfo.Language.PYTHON
    assert {p.name for p in spec.metadata.parameters} == set(PARAMETERS)
    assert {p.param_type.name for p in spec.metadata.parameters} <= {
        "TEXT",
        "NUMBER",
        "GCS_WRITE_FOLDER",
    }


def test_the_template_holds_the_metadata() -> None:
    template = load("template.json")
    assert set(template) == {"image", "sdkInfo", "metadata", "defaultEnvironment"}
    assert template["metadata"] == load("metadata.json")
    assert template["sdkInfo"] == {"language": "PYTHON"}


def build_options(command: str) -> set[str]:
    """The command's options, as the command line has them."""
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    return {name for parameter in commands[command].params for name in parameter.opts}


def test_every_parameter_is_an_option_or_a_setting(launcher: ModuleType) -> None:
    for name in PARAMETERS:
        is_option = f"--{name}" in build_options("build")
        assert is_option or name in DataflowOptions.model_fields, name
    # ... and the launcher knows each: none is left to Beam.
    made = launcher.build_arguments([f"--{name}={VALUES[name][0][0]}" for name in PARAMETERS])
    assert "--" not in made
    for setting in launcher._SETTINGS.values():
        assert setting in DataflowOptions.model_fields


def launched(**changes: str) -> list[str]:
    """What Google's launcher passes on: parameters, and the job's options under Beam's names."""
    given = {
        "input": "gs://my-bucket/laion.parquet",
        "output": "gs://my-bucket/faces",
        "image": VARIABLES["IMAGE"],
        "set": "detect.provider=cuda; download.contact=you@example.org",
        "gpu_type": "nvidia-tesla-t4",
        "runner": "DataflowRunner",
        "project": "my-project",
        "region": "us-central1",
        "job_name": "facecap-faces",
        "staging_location": "gs://my-bucket/staging",
        "temp_location": "gs://my-bucket/temp",
        "max_num_workers": "20",
        "machine_type": "n1-standard-4",
        "template_location": "gs://dataflow-staging/template_launches/1/job_object",
        **changes,
    }
    return [f"--{name}={value}" for name, value in given.items()]


def test_a_driver_arrives(launcher: ModuleType) -> None:
    for driver in ("5xx", "580", "580.65", "none"):
        made = launcher.build_arguments(launched(gpu_driver=driver))
        assert settings_of(made)[0].gpu_driver == driver
        check(made)


def test_the_launcher_makes_a_command_that_is_right(launcher: ModuleType) -> None:
    made = launcher.build_arguments(launched())
    assert made[:3] == ["build", "--runner", "dataflow"]
    assert made[made.index("--output") + 1] == "gs://my-bucket/faces"
    assert made[-2:] == [
        "--",
        "--template_location=gs://dataflow-staging/template_launches/1/job_object",
    ]
    chosen, others = settings_of(made)
    assert chosen == DataflowOptions(
        project="my-project",
        region="us-central1",
        staging="gs://my-bucket/staging",
        image=VARIABLES["IMAGE"],
        job_name="facecap-faces",
        machine_type="n1-standard-4",
        max_workers=20,
        gpu_type="nvidia-tesla-t4",
    )
    assert others.detect.provider == "cuda"
    assert others.download.contact == "you@example.org"
    check(made)


def test_a_setting_with_spaces_and_commas_arrives(launcher: ModuleType) -> None:
    where = "NSFW IN ('UNLIKELY', 'UNSURE') AND punsafe < 0.5"
    _, others = settings_of(launcher.build_arguments(launched(set=f"input.where={where}")))
    assert others.input.where == where


def test_labels_and_addresses_arrive(launcher: ModuleType) -> None:
    for labels in (['--labels={"a": "b", "c": "7"}'], ["--label=a=b", "--label=c=7"]):
        made = launcher.build_arguments([*launched(), *labels, "--no_use_public_ips"])
        assert "dataflow.labels={a: b, c: '7'}" in made
        assert "dataflow.public_ips=false" in made
    made = launcher.build_arguments([*launched(), "--use_public_ips=true"])
    assert not any("public_ips" in argument for argument in made)


def test_what_a_template_is_given_wrongly_is_refused(launcher: ModuleType) -> None:
    with pytest.raises(UsageError, match=r"dataflow\.machine_type: n2-standard-4 cannot have a"):
        check(launcher.build_arguments(launched(machine_type="n2-standard-4")))


def commands_of(program: str) -> list[list[str]]:
    text = string.Template(SHELL.replace("\\\n", " ")).substitute(VARIABLES)
    words = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [line for line in words if line[: len(program.split())] == program.split()]


@pytest.mark.parametrize("command", commands_of("facecap build"), ids=lambda c: c[-1])
def test_the_readmes_builds_are_right(command: list[str]) -> None:
    check(command)
    used = {argument for argument in command if argument.startswith("--")}
    assert used <= build_options("build"), used - build_options("build")


def test_the_readmes_gpu_builds_have_an_image_and_models_for_it() -> None:
    assert load("template.json")["image"] == VARIABLES["CUDA_IMAGE"]
    built: dict[str, dict[str, str]] = {}
    for command in commands_of("docker build"):
        given = [command[i + 1] for i, word in enumerate(command) if word == "--build-arg"]
        built[command[command.index("-t") + 1]] = dict(text.split("=", 1) for text in given)
        assert (command[3] == "deploy/docker/Dockerfile.cuda") == ("BASE" in built[command[-2]])
    pushed = {command[2] for command in commands_of("docker push")}
    fetched = {command[3] for command in commands_of("facecap models fetch")}
    on_gpu = [settings_of(command) for command in commands_of("facecap build")]
    on_gpu = [(chosen, others) for chosen, others in on_gpu if chosen.gpu_type]
    assert {chosen.gpu_type for chosen, _ in on_gpu} == {"nvidia-tesla-t4", "nvidia-l4"}
    for chosen, others in on_gpu:
        assert others.detect.provider == others.attributes.provider == "cuda"
        assert chosen.image in pushed and chosen.gpu_driver == "5xx"
        models = built[built[chosen.image]["BASE"]]["MODELS"].split()
        assert others.detect.model in models and others.detect.model in fetched
        assert models[0] == "mtcnn"  # check_image.py insists on the default
        assert others.detect.model != "mtcnn"  # docs/gpu.md: the slowest there is
        assert REGISTRY[others.detect.model].licence.startswith("MIT")


def test_the_readmes_template_is_given_what_it_takes() -> None:
    (run,) = commands_of("gcloud dataflow flex-template run")
    given: dict[str, str] = {}
    for position, word in enumerate(run):
        if word == "--parameters":
            given.update(part.split("=", 1) for part in run[position + 1].split(","))
    required = {name for name, parameter in PARAMETERS.items() if not parameter["isOptional"]}
    assert required <= set(given) <= set(PARAMETERS)
    for name, value in given.items():
        assert re.fullmatch(PARAMETERS[name]["regexes"][0], value), (name, value)
    settings = load_settings(overrides=[text.strip() for text in given["set"].split(";")])
    assert settings.detect.provider == settings.attributes.provider == "cuda"
    assert given["image"] == VARIABLES["CUDA_IMAGE"] and settings.detect.model == "yunet"


def test_the_readmes_commands_pass_shellcheck(tmp_path: Path) -> None:
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed")
    script = tmp_path / "readme.sh"
    script.write_text("#!/bin/sh\n" + SHELL, encoding="utf-8")
    done = subprocess.run([program, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_readme_names_files_that_are_there() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (FOLDER / target).exists(), target
    for path in re.findall(r"deploy/[\w./-]+", SHELL):
        assert (FOLDER.parents[1] / path).exists(), path
    assert len(README.splitlines()) < 100
