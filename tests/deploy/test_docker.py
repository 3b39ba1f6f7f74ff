"""The images: pinned to the launcher's versions, buildable from what git has, not root."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from facecap.pipeline.settings import Settings, fields
from tests.deploy.linters import DEPLOY, ROOT, lint, named_files, pins, set_options

DOCKER = DEPLOY / "docker"
DOCKERFILES = [DOCKER / "Dockerfile", DOCKER / "Dockerfile.cuda"]


def instructions(file: Path) -> list[tuple[str, str]]:
    """(instruction, its arguments) in order, with comments dropped and lines joined."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    split = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(words[0], words[1]) for words in split]


def arguments(file: Path) -> dict[str, str]:
    """The build arguments that have a default."""
    found = [text for name, text in instructions(file) if name == "ARG" and "=" in text]
    return {name: value.strip('"') for name, _, value in (text.partition("=") for text in found)}


def context_files(file: Path) -> list[str]:
    """What a Dockerfile takes from the build context, by COPY or by a mount."""
    found = []
    for name, text in instructions(file):
        if name == "COPY" and "--from=" not in text:
            found += text.split()[:-1]
        if name == "RUN":
            mounts = re.findall(r"--mount=(\S+)", text)
            found += [
                m.group(1)
                for mount in mounts
                if "from=" not in mount and (m := re.search(r"source=([^,]+)", mount))
            ]
    return found


@pytest.fixture(scope="module")
def project() -> dict[str, str]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_python_and_beam_are_the_launchers(file: Path, project: dict[str, str]) -> None:
    given = arguments(file)
    beam = pins(ROOT / "constraints.txt")["apache-beam"]
    assert given["BEAM_VERSION"] == beam
    tested = re.search(r"Python (3\.\d+)", (ROOT / "constraints.txt").read_text())
    assert tested and given["PYTHON_VERSION"] == tested.group(1)
    assert any(f"apache-beam>={beam.rsplit('.', 1)[0]}" in need for need in project["dependencies"])


def test_the_images_that_are_copied_from_have_those_versions_too() -> None:
    given = arguments(DOCKER / "Dockerfile")
    python, beam = given["PYTHON_VERSION"], given["BEAM_VERSION"]
    assert re.fullmatch(
        rf".*/python:{re.escape(python)}\.\d+-slim-\w+@sha256:[0-9a-f]{{64}}", given["BASE"]
    )
    assert given["BEAM_SDK"].endswith(f"/beam_python{python}_sdk:{beam}")
    assert given["BEAM_JOB_SERVER"].endswith(f"/beam_spark3_job_server:{beam}")
    assert f"/python{python.replace('.', '')}-template-launcher-base:" in given["FLEX_LAUNCHER"]
    for name in ("BEAM_SDK", "BEAM_JOB_SERVER", "FLEX_LAUNCHER", "JRE"):
        tag = given[name].rpartition(":")[2]
        assert re.search(r"\d", tag) and tag != "latest", f"{name} is not pinned"


def test_no_package_has_two_versions() -> None:
    launcher = pins(ROOT / "constraints.txt")
    for name, version in pins(DOCKER / "constraints-cuda.txt").items():
        assert launcher.get(name, version) == version, name


def test_the_cuda_image_pins_the_onnxruntime_it_installs() -> None:
    version = pins(DOCKER / "constraints-cuda.txt")["onnxruntime-gpu"]
    assert f"onnxruntime-gpu[cuda,cudnn]=={version}" in (DOCKER / "Dockerfile.cuda").read_text()


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_what_is_copied_is_there_and_not_ignored(file: Path) -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines, "all else must stay out of the build context"
    for name in context_files(file):
        assert (ROOT / name).exists(), f"{name} is not there"
        assert any(name == kept or name.startswith(f"{kept}/") for kept in let_in), name
    for name in let_in:
        assert (ROOT / name).exists(), f".dockerignore lets in {name}, which is not there"


def test_every_folder_that_the_package_links_to_is_copied() -> None:
    copied = context_files(DOCKER / "Dockerfile")
    for link in (ROOT / "src" / "facecap").iterdir():
        if link.is_symlink():
            assert link.resolve().relative_to(ROOT).as_posix() in copied


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_the_last_user_is_not_root(file: Path) -> None:
    users = [text for name, text in instructions(file) if name == "USER"]
    assert users[-1] == "${RUN_AS}"
    assert int(arguments(file)["RUN_AS"]) >= 10_000  # no user of a host
    steps = instructions(file)
    checked = next(
        i for i, (name, text) in enumerate(steps) if "check_image.py" in text and name == "RUN"
    )
    assert checked > steps.index(("USER", "${RUN_AS}")), "the check must run as the image's user"


def test_the_readmes_agree_on_root_on_dataflow() -> None:
    said = (
        "if the worker logs show that folders cannot be written, build with "
        "`--build-arg RUN_AS=0` (reported in 2022; not run here), the CUDA image too."
    )
    for folder in ("docker", "dataflow"):
        text = (DEPLOY / folder / "README.md").read_text()
        assert said in " ".join(text.split())
        assert text.count("RUN_AS=0") == 1


def test_beams_entry_point_is_the_images() -> None:
    found = [text for name, text in instructions(DOCKER / "Dockerfile") if name == "ENTRYPOINT"]
    assert found[0] == '["/opt/apache/beam/boot"]'


def test_hadolint_finds_nothing() -> None:
    lint("hadolint", *DOCKERFILES)


def test_the_readme_names_what_is_there() -> None:
    readme = DOCKER / "README.md"
    for path in named_files(readme):
        assert path.exists(), path
    known = {name for name, *_ in fields(Settings())}
    assert set_options(readme.read_text()) <= known
    for argument in re.findall(r"^\| (.*?) \|", readme.read_text().split("## Build arg")[1], re.M):
        for name in re.findall(r"`([A-Z_]+)`", argument):
            assert name in arguments(DOCKER / "Dockerfile")


# The check that a build runs inside the image.


def check_image(*options: str, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", str(DOCKER / "check_image.py"), *options],
        capture_output=True,
        text=True,
        check=False,
        env={"FACECAP_CACHE": str(cache), "PATH": ""},
    )


def test_an_image_of_another_beam_is_refused(tmp_path: Path) -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    result = check_image("--python", here, "--beam", "2.0.0", cache=tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith("not 2.0.0")  # Beam may warn of its own


def test_an_image_of_another_python_is_refused(tmp_path: Path) -> None:
    result = check_image("--python", "3.9", "--beam", "2.77.0", cache=tmp_path)
    assert result.returncode == 1
    assert "not 3.9" in result.stderr


@pytest.mark.parametrize("case", ["good", "unlisted", "missing", "changed"])
def test_models_of_ones_own_are_checked_by_hash(case: str, tmp_path: Path) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("check_image", DOCKER / "check_image.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    digest = hashlib.sha256(b"weights").hexdigest()
    (tmp_path / ".gitignore").write_text("*")
    (tmp_path / "SHA256SUMS").write_text(
        f"# mine\n{digest}  mine.onnx\n" if case != "unlisted" else ""
    )
    if case != "missing":
        (tmp_path / "mine.onnx").write_bytes(b"weights" if case != "changed" else b"others")
    if case == "good":
        assert module.check_own_models(tmp_path) == 1
    else:
        with pytest.raises(module.WrongImage, match=r"models/mine\.onnx"):
            module.check_own_models(tmp_path)
