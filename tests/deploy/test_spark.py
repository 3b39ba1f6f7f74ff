"""Spark: manifests that Kubernetes takes and that agree with each other, settings that fit them."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.linters import DEPLOY, lint, named_files, set_options

SPARK = DEPLOY / "spark"
KUBERNETES = SPARK / "kubernetes"
MANIFESTS = [*sorted(KUBERNETES.glob("*.yaml")), SPARK / "launch.yaml"]
README = (SPARK / "README.md").read_text()
SPARK_VERSION = "3.5.0"
"""Of Beam 2.77's job server: the driver's and the cluster's must be equal."""


def objects() -> list[dict[str, Any]]:
    found = [
        document
        for file in MANIFESTS
        if file.name != "kustomization.yaml"
        for document in yaml.safe_load_all(file.read_text())
    ]
    assert all(found)
    return found


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [thing for thing in objects() if thing["kind"] in kinds]


def named(kind: str, name: str) -> dict[str, Any]:
    return next(thing for thing in of_kind(kind) if thing["metadata"]["name"] == name)


def pod(thing: dict[str, Any]) -> dict[str, Any]:
    template: dict[str, Any] = thing["spec"]["template"]
    return template


def pods() -> list[dict[str, Any]]:
    return [pod(thing) for thing in of_kind("StatefulSet", "Job")]


def containers() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(pod spec, container), sidecars too."""
    for template in pods():
        spec = template["spec"]
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            yield spec, container


def conf() -> dict[str, str]:
    lines = yaml.safe_load((SPARK / "facecap.yaml").read_text())["spark"]["conf"]
    return dict(line.split("=", 1) for line in lines)


def ports(policy: str) -> set[int]:
    rules = named("NetworkPolicy", policy)["spec"]
    found = itertools.chain.from_iterable(
        rule["ports"] for rule in rules.get("ingress") or rules.get("egress")
    )
    return {n for port in found for n in range(port["port"], port.get("endPort", port["port"]) + 1)}


def megabytes(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([mMgG])i?", text).groups()  # type: ignore[union-attr]
    return int(number) * (1024 if unit in "gG" else 1)


@pytest.mark.parametrize("version", ["1.29", "1.32", "1.35"])
def test_kubernetes_takes_every_manifest(version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for thing in objects():
        validator.validate(thing, version, strict=True)


def test_kustomize_finds_every_file_and_image() -> None:
    images = set()
    for folder in (KUBERNETES, SPARK):
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        assert kustomization["namespace"] == named("Namespace", "facecap")["metadata"]["name"]
        names = list(kustomization["resources"])
        for generator in kustomization.get("configMapGenerator", []):
            names += generator["files"]
        assert all((folder / name).is_file() for name in names)
        if folder == KUBERNETES:
            manifests = {f.name for f in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
            assert set(names) == manifests
        images |= {image["name"] for image in kustomization["images"]}
    ours = {c["image"] for _, c in containers() if not c["image"].startswith("docker.io/")}
    assert ours == images


def test_every_selector_finds_its_pods() -> None:
    labels = [template["metadata"]["labels"] for template in pods()]
    selectors = [thing["spec"]["selector"] for thing in of_kind("Service")]
    for thing in of_kind("StatefulSet", "PodDisruptionBudget"):
        selectors.append(thing["spec"]["selector"]["matchLabels"])
    for policy in of_kind("NetworkPolicy"):
        selectors.append(policy["spec"]["podSelector"].get("matchLabels", {}))
        for expression in policy["spec"]["podSelector"].get("matchExpressions", []):
            selectors += [{expression["key"]: value} for value in expression["values"]]
    for selector in selectors:
        assert any(selector.items() <= those.items() for those in labels), selector
    for thing in of_kind("StatefulSet"):
        assert named("Service", thing["spec"]["serviceName"])


def test_every_volume_account_and_secret_agrees() -> None:
    accounts = {thing["metadata"]["name"] for thing in of_kind("ServiceAccount")}
    for thing in of_kind("StatefulSet", "Job"):
        spec = pod(thing)["spec"]
        assert spec["serviceAccountName"] in accounts
        claims = [c["metadata"]["name"] for c in thing["spec"].get("volumeClaimTemplates", [])]
        there = {volume["name"] for volume in spec["volumes"]} | set(claims)
        used = {
            mount["name"]
            for container in [*spec.get("initContainers", []), *spec["containers"]]
            for mount in container["volumeMounts"]
        }
        assert used == there
    secrets = {
        source["secretRef"]["name"] for _, c in containers() for source in c.get("envFrom", [])
    }
    assert secrets == {"facecap-store"}
    assert "secret generic facecap-store" in (SPARK / "README.md").read_text()


def test_nothing_is_root_or_may_write_its_own_files() -> None:
    for spec, container in containers():
        security = spec["securityContext"] | container["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] > 0
        assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]


def test_our_image_runs_as_the_user_it_was_built_for() -> None:
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
    uid = int(re.search(r"ARG RUN_AS=(\d+)", dockerfile).group(1))  # type: ignore[union-attr]
    for spec, container in containers():
        if not container["image"].startswith("docker.io/"):
            assert (spec["securityContext"] | container["securityContext"])["runAsUser"] == uid


def test_spark_is_the_one_of_the_job_server() -> None:
    images = {c["image"] for _, c in containers() if c["image"].startswith("docker.io/")}
    assert images == {f"docker.io/apache/spark:{SPARK_VERSION}-scala2.12-java17-ubuntu"}
    assert f"**{SPARK_VERSION} with Scala 2.12**" in (SPARK / "README.md").read_text()
    jre = re.search(r"ARG JRE=\S+:(\d+)", (DEPLOY / "docker" / "Dockerfile").read_text())
    assert jre and jre.group(1) == "17"


def test_the_pool_is_where_executors_look_for_it() -> None:
    spec = pod(named("StatefulSet", "spark-worker"))["spec"]
    (pool,) = spec["initContainers"]
    assert pool["restartPolicy"] == "Always"  # that makes it a sidecar
    assert [*pool["command"], *pool["args"]] == ["facecap", "worker-pool", "--port", "50000"]
    assert pool["ports"][0]["containerPort"] == 50000
    assert all(
        "50000" in pool[probe]["exec"]["command"][2] for probe in ("startupProbe", "livenessProbe")
    )
    unit = (SPARK / "standalone" / "facecap-worker-pool.service").read_text()
    assert "facecap worker-pool --port 50000\n" in unit
    for policy in of_kind("NetworkPolicy"):
        if policy["metadata"]["name"].startswith("spark-"):
            assert 50000 not in ports(policy["metadata"]["name"])  # who reaches it can run code


def test_sparks_ports_are_open_and_only_they() -> None:
    settings = conf()
    tries = int(settings["spark.port.maxRetries"])
    wanted = {7077, 7078}
    for name in ("spark.driver.port", "spark.driver.blockManager.port", "spark.blockManager.port"):
        wanted |= set(range(int(settings[name]), int(settings[name]) + tries + 1))
    for policy in ("spark-in", "spark-out"):
        assert ports(policy) >= wanted
    readme = (SPARK / "README.md").read_text()
    assert "7077-7078, 7100-7116 and 7200-7236" in readme
    env = (SPARK / "standalone" / "spark-env.sh").read_text()
    assert "SPARK_MASTER_PORT=7077" in env and "SPARK_WORKER_PORT=7078" in env


def test_workers_reach_no_private_address() -> None:
    import ipaddress

    (rule,) = named("NetworkPolicy", "public-addresses")["spec"]["egress"]
    block = rule["to"][0]["ipBlock"]
    closed = [ipaddress.ip_network(text) for text in block["except"]]
    for text in (
        "10.1.2.3",
        "172.20.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "127.0.0.1",
        "100.64.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
    ):
        assert any(ipaddress.ip_address(text) in network for network in closed), text
    assert not any(ipaddress.ip_address("93.184.216.34") in network for network in closed)


def test_cores_tasks_and_python_workers_are_as_many() -> None:
    worker = pod(named("StatefulSet", "spark-worker"))["spec"]
    arguments = worker["containers"][0]["args"]
    cores = arguments[arguments.index("--cores") + 1]
    settings = conf()
    assert settings["spark.executor.cores"] == cores
    pool = worker["initContainers"][0]["resources"]
    assert pool["requests"]["cpu"] == cores
    assert megabytes(pool["limits"]["memory"]) >= 2048 * int(cores)
    config = yaml.safe_load((SPARK / "facecap.yaml").read_text())
    assert str(config["build"]["workers"]) == cores
    env = (SPARK / "standalone" / "spark-env.sh").read_text()
    assert f"SPARK_WORKER_CORES:-{cores}" in env


def test_one_executor_fits_a_worker() -> None:
    worker = pod(named("StatefulSet", "spark-worker"))["spec"]["containers"][0]
    offered = megabytes(worker["args"][worker["args"].index("--memory") + 1])
    heap = megabytes(conf()["spark.executor.memory"])
    assert heap <= offered
    # The daemon's heap, the executor's, and the rest of two JVMs.
    assert heap + 512 + 1024 <= megabytes(worker["resources"]["limits"]["memory"])


def test_executors_are_kept() -> None:
    settings = conf()
    assert settings["spark.dynamicAllocation.enabled"] == "false"
    seconds = {
        name: int(settings[name].removesuffix("s"))
        for name in ("spark.executor.heartbeatInterval", "spark.network.timeout")
    }
    assert seconds["spark.executor.heartbeatInterval"] * 4 <= seconds["spark.network.timeout"]
    timeouts = set()
    for file in (
        KUBERNETES / "master.yaml",
        KUBERNETES / "worker.yaml",
        SPARK / "standalone" / "spark-env.sh",
    ):
        timeouts |= set(re.findall(r"spark\.worker\.timeout=(\d+)", file.read_text()))
    assert len(timeouts) == 1  # a worker that beats slower than its master waits is dead
    assert "recoveryMode=FILESYSTEM" in (KUBERNETES / "master.yaml").read_text()


def master_recovery(script: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Sources spark-env.sh and prints the folder that the master is told."""
    return subprocess.run(
        ["bash", "-ec", f'. "{script}"; echo "${{SPARK_MASTER_OPTS##*recoveryDirectory=}}"'],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "SPARK_RECOVERY_DIR": str(folder)},
    )


def test_a_hosts_master_has_its_recovery_folder(tmp_path: Path) -> None:
    script = SPARK / "standalone" / "spark-env.sh"
    folder = tmp_path / "lib" / "spark" / "recovery"
    done = master_recovery(script, folder)
    assert folder.is_dir()
    assert (done.stdout.strip(), done.stderr) == (str(folder), "")
    (tmp_path / "file").touch()
    done = master_recovery(script, tmp_path / "file" / "recovery")  # which cannot be made
    assert "set SPARK_RECOVERY_DIR" in done.stderr and len(done.stderr.splitlines()) == 1
    default = re.search(r"SPARK_RECOVERY_DIR:-(\S+?)}", script.read_text())
    assert default and f"install -d -o spark -g spark {default[1]}`" in README


def test_a_pods_master_can_make_its_recovery_folder() -> None:
    spec = pod(named("StatefulSet", "spark-master"))["spec"]
    (master,) = spec["containers"]
    options = next(e["value"] for e in master["env"] if e["name"] == "SPARK_MASTER_OPTS")
    folder = re.search(r"recoveryDirectory=(\S+)", options)
    assert folder
    # Spark makes one level only, so the folder above it must be the volume.
    above = str(Path(folder[1]).parent)
    (mount,) = [m for m in master["volumeMounts"] if m["mountPath"] == above]
    claims = named("StatefulSet", "spark-master")["spec"]["volumeClaimTemplates"]
    assert mount["name"] in {claim["metadata"]["name"] for claim in claims}
    assert not mount.get("readOnly")
    security = spec["securityContext"]
    assert security["fsGroup"] == security["runAsGroup"] == security["runAsUser"]


def test_the_readme_warns_of_what_is_seen_and_of_what_is_not() -> None:
    text = " ".join(README.split())
    assert "Values of `spark.conf` are visible in the process list: no secrets there" in text
    assert "over NFS, only one launcher at a time may work on one OUT" in text


def test_every_spark_setting_has_its_reason() -> None:
    unexplained = 4  # a comment explains the few lines below it
    for line in (SPARK / "facecap.yaml").read_text().split("conf:\n")[1].splitlines():
        unexplained = 0 if line.strip().startswith("#") else unexplained + 1
        assert unexplained <= 4, line


def test_the_launcher_does_not_repeat_what_cannot_succeed() -> None:
    from facecap.pipeline import errors

    job = named("Job", "facecap-launch")["spec"]
    codes = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert codes["containerName"] == job["template"]["spec"]["containers"][0]["name"]
    assert errors.EXIT_USAGE in codes["values"] and errors.EXIT_FAILED not in codes["values"]


def test_the_launchers_jar_is_the_images() -> None:
    arguments = pod(named("Job", "facecap-launch"))["spec"]["containers"][0]["args"]
    (jar,) = [a.split("=")[2] for a in arguments if a.startswith("--set=spark.job_server_jar=")]
    assert f" {jar}\n" in (DEPLOY / "docker" / "Dockerfile").read_text()


def test_yamllint_finds_nothing() -> None:
    lint("yamllint", "--strict", "-c", SPARK / ".yamllint", SPARK)


def test_shellcheck_finds_nothing() -> None:
    lint("shellcheck", *sorted(DEPLOY.rglob("*.sh")))


def test_the_readme_names_what_is_there() -> None:
    for path in named_files(SPARK / "README.md"):
        assert path.exists(), path


def test_readmes_are_one_page() -> None:
    for folder in ("docker", "spark"):
        assert len((DEPLOY / folder / "README.md").read_text().splitlines()) <= 90


@pytest.mark.parametrize("file", ["launch.yaml", "README.md"])
def test_the_command_line_is_facecaps(file: str) -> None:
    """Every option is one of `facecap build`, or of Beam after the bare `--`."""
    from typer.main import get_command

    from facecap.pipeline.cli import app

    text = (SPARK / file).read_text()
    if file == "launch.yaml":
        given = pod(yaml.safe_load(text))["spec"]["containers"][0]["args"]
    else:
        block = re.search(r"\$ facecap build (.*?)```", text, re.DOTALL)
        assert block
        given = block.group(1).replace("\\\n", " ").split()
    ours = list(itertools.takewhile(lambda word: word != "--", given))
    options = {word.split("=")[0] for word in ours if word.startswith("--")}
    build = get_command(app).commands["build"]  # type: ignore[attr-defined]
    known = {name for parameter in build.params for name in parameter.opts}
    assert options <= known


def test_the_settings_load() -> None:
    from facecap.pipeline.settings import load_settings

    settings: Any = load_settings(SPARK / "facecap.yaml")
    assert dict(line.split("=", 1) for line in settings.spark.conf) == conf()


def test_the_readmes_settings_are_facecaps() -> None:
    from facecap.pipeline.settings import Settings, fields

    known = {name for name, *_ in fields(Settings())}
    for file in (SPARK / "README.md", SPARK / "launch.yaml"):
        assert set_options(file.read_text()) <= known
