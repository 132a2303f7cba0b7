"""The files of cluster/: valid, of one mind with the lock, the code and the command line."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from catdog import __version__
from catdog.cli import parsing
from catdog.runtime import dependencies
from catdog.runtime.ray_quirks import FAULT_DETECTION_SETTINGS

jsonschema = pytest.importorskip("jsonschema")

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SCHEMAS = ROOT.parent / "shared" / "schemas"
MANIFESTS = sorted(CLUSTER.glob("ray*.yaml"))
JOBS = sorted(CLUSTER.glob("rayjob-*.yaml"))
LOCK = (ROOT / "requirements.lock").read_text()
STOCK = CLUSTER / "rayjob-classify-install.yaml"


def locked(package):
    return re.search(rf"^{package}==(\S+)", LOCK, re.MULTILINE)[1]


def load(path):
    return yaml.safe_load(path.read_text())


def cluster_spec(manifest):
    spec = manifest["spec"]
    return spec.get("rayClusterSpec", spec)


def pods(manifest):
    spec = cluster_spec(manifest)
    return [
        group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])
    ]


def closed(schema):
    """The schema with unknown fields refused, as the API server refuses them in strict mode."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if (
        isinstance(schema.get("properties"), dict)
        and "additionalProperties" not in schema
        and not schema.get("x-kubernetes-preserve-unknown-fields")
    ):
        result["additionalProperties"] = False
    return result


def schema_of(kind):
    path = SCHEMAS / f"kuberay-{kind.lower()}-v1.json"
    if not path.exists():
        pytest.skip(f"KubeRay's schemas are not beside this checkout ({path})")
    return closed(json.loads(path.read_text()))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifest_is_valid(path):
    """KubeRay's own schema accepts each manifest, with no field that it does not know."""
    manifest = load(path)
    assert manifest["apiVersion"] == "ray.io/v1"
    jsonschema.Draft7Validator(schema_of(manifest["kind"])).validate(manifest)


def test_unknown_field_is_refused():
    """The check can fail: a misspelt field deep in a pod is found."""
    manifest = load(CLUSTER / "raycluster.yaml")
    validator = jsonschema.Draft7Validator(schema_of("RayCluster"))
    pods(manifest)[0]["containers"][0]["readinesProbe"] = {}
    assert "readinesProbe" in " ".join(error.message for error in validator.iter_errors(manifest))


@pytest.mark.slow
def test_launcher_file_is_valid():
    """Ray's own schema accepts the AWS file, and its node types hold together."""
    import ray.autoscaler

    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
    config = load(CLUSTER / "aws.yaml")
    jsonschema.Draft7Validator(schema).validate(config)
    assert config["head_node_type"] in config["available_node_types"]


@pytest.mark.parametrize("path", [*MANIFESTS, CLUSTER / "aws.yaml"], ids=lambda path: path.name)
def test_file_says_what_to_change(path):
    """Each file begins with a comment that a newcomer can follow."""
    comment = path.read_text().split("\napiVersion", 1)[0].split("\ncluster_name", 1)[0]
    assert all(line.startswith("#") for line in comment.splitlines())
    assert "# What to change:\n" in comment


@pytest.mark.parametrize("path", sorted(CLUSTER.iterdir()), ids=lambda path: path.name)
def test_versions_are_the_locked_ones(path):
    """Every image tag and Ray version in cluster/ is that of the lock."""
    text = path.read_text()
    tags = set(re.findall(r"catdog:([\w.-]+)", text))
    wanted = f"{__version__}-ray{locked('ray')}"
    assert tags <= {wanted, f"{wanted}-gpu"}
    assert set(re.findall(r'rayVersion: "?([\d.]+)', text)) <= {locked("ray")}
    assert set(re.findall(r"rayproject/ray:([\d.]+)", text)) <= {locked("ray")}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_pods_are_complete(path):
    """Every pod has an image, resources, probes, credentials from a secret, and ends in order."""
    for pod in pods(load(path)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["terminationGracePeriodSeconds"] > 30
        (container,) = pod["containers"]
        image = "rayproject/ray:" if path == STOCK else "registry.example.com/catdog:"
        assert container["image"].startswith(image)
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        assert "ray stop" in container["lifecycle"]["preStop"]["exec"]["command"][-1]
        assert container["envFrom"] == [{"secretRef": {"name": "catdog-s3", "optional": True}}]
        limits = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        if path == STOCK:
            assert container["securityContext"] == limits
            continue
        assert container["securityContext"] == limits | {"readOnlyRootFilesystem": True}
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        # With a read-only root, what is written lies on volumes; those of a pod are all mounted.
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert mounts == {"tmp": "/tmp", "home": "/home/ray"}
        assert [each["name"] for each in pod["volumes"]] == list(mounts)
        assert all(each["emptyDir"] == {} for each in pod["volumes"])


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_only_the_head_may_ask_kubernetes(path):
    """The autoscaler beside it does; a worker has no token of a service account."""
    head, *workers = pods(load(path))
    assert "automountServiceAccountToken" not in head
    assert all(pod["automountServiceAccountToken"] is False for pod in workers)


def test_the_waiting_cluster_keeps_its_state():
    """Its head's state lies on a volume; without work it costs no more."""
    options = cluster_spec(load(CLUSTER / "raycluster.yaml"))["gcsFaultToleranceOptions"]
    assert options["backend"] == "rocksdb"
    assert options["storage"]["deletionPolicy"] == "DeleteWithCluster"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_jobs_can_be_queued(path):
    """What docs/cluster.md says to change for Kueue is valid, and the job cleans up by itself."""
    manifest = load(path)
    spec = manifest["spec"]
    assert spec["shutdownAfterJobFinishes"] is True  # Kueue asks for it
    assert spec["ttlSecondsAfterFinished"] > 0
    manifest["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "user-queue"}
    spec["suspend"] = True
    spec["rayClusterSpec"]["enableInTreeAutoscaling"] = False
    (pool,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    pool["replicas"] = pool["minReplicas"] = pool["maxReplicas"]
    jsonschema.Draft7Validator(schema_of("RayJob")).validate(manifest)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_gpu_pools_have_gpus_and_their_image(path):
    """A pool asks for GPUs exactly where it runs the image that can use them."""
    for group in cluster_spec(load(path))["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        gpus = "nvidia.com/gpu" in container["resources"]["limits"]
        assert gpus == container["image"].endswith("-gpu") == (group["groupName"] == "gpu")


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_token_authentication_is_on(path):
    """Nothing that is shipped starts a cluster without a token, or offers it to the world."""
    spec = cluster_spec(load(path))
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_token_authentication_is_on_in_the_others():
    """The same of the launcher file and the local cluster, whose dashboards stay on loopback."""
    for name in ("aws.yaml", "local.sh"):
        text = (CLUSTER / name).read_text()
        assert "RAY_AUTH_MODE=token" in text
        assert re.findall(r"--dashboard-host[= ](\S+)", text) == ["127.0.0.1"]


def test_pools_grow_from_zero():
    """A cluster without work costs its head only. Classifying workers prefer spot nodes."""
    for path in (p for p in MANIFESTS if "train" not in p.name):
        spec = cluster_spec(load(path))
        assert spec["enableInTreeAutoscaling"] is True
        for group in spec["workerGroupSpecs"]:
            assert group["replicas"] == group["minReplicas"] == 0
            assert group["maxReplicas"] > 0
            assert "spot" in json.dumps(group["template"]["spec"]["affinity"])
    workers = load(CLUSTER / "aws.yaml")["available_node_types"]["cpu"]
    assert workers["min_workers"] == 0
    assert workers["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_fault_detection_is_the_same_on_every_pod(path):
    """Head and workers have the settings that the driver sets."""
    for pod in pods(load(path)):
        settings = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
        assert settings == FAULT_DETECTION_SETTINGS


def test_fault_detection_is_the_same_on_aws():
    """Likewise on the launcher's nodes."""
    options = load(CLUSTER / "aws.yaml")["docker"]["run_options"]
    settings = dict(
        option.removeprefix("--env ").split("=", 1) for option in options if "RAY_" in option
    )
    assert FAULT_DETECTION_SETTINGS.items() <= settings.items()


def test_each_setting_is_documented():
    """docs/cluster.md says of each variable of Ray that catdog sets who reads it."""
    page = (ROOT / "docs" / "cluster.md").read_text()
    for name in ("runtime/ray_quirks", "runtime/embedded", "training/fitting"):
        for variable in re.findall(r'"(RAY_\w+)"', (ROOT / f"catdog/{name}.py").read_text()):
            assert re.search(rf"`{variable}[`=]", page), variable


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_jobs_say_how_to_run_them_again(path):
    """A RayJob that has ended is not started by `apply`; nothing of its command hinders a second start."""
    assert f"kubectl replace --force -f cluster/{path.name}" in path.read_text().replace(
        "\n# ", " "
    )
    spec = load(path)["spec"]
    assert spec["backoffLimit"] > 0
    assert not {"--restart", "--discard"} & set(shlex.split(spec["entrypoint"]))


def program_of(spec):
    """What a job runs, and with which arguments."""
    program, arguments = re.fullmatch(
        r"(python -m catdog|catdog) (.*)", spec["entrypoint"]
    ).groups()
    return program, shlex.split(arguments)


def test_stock_image_installs_what_submit_installs():
    """The manifest for Ray's own image names the lock, and the options, of `submit --install`."""
    spec = load(STOCK)["spec"]
    asked = yaml.safe_load(spec["runtimeEnvYAML"])
    assert asked.pop("working_dir").endswith(".zip")
    there = dependencies.runtime_env("job", tensorflow=False)
    del there["env_vars"], there["uv"]["packages"][1:]
    assert asked == there


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_entrypoints_are_commands(path):
    """The real parser accepts each job's command, and no job runs without end."""
    spec = load(path)["spec"]
    program, arguments = program_of(spec)
    assert program == ("python -m catdog" if path == STOCK else "catdog")
    command = parsing.parse(arguments)
    assert command.images[0].startswith("s3://")
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["shutdownAfterJobFinishes"] is True


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_workers_fill_the_pool(path):
    """`--workers` of each job is the CPUs, or GPUs, of its pool when that has grown."""
    spec = load(path)["spec"]
    (pool,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    limits = pool["template"]["spec"]["containers"][0]["resources"]["limits"]
    command = parsing.parse(program_of(spec)[1])
    assert command.workers == pool["maxReplicas"] * int(limits.get("nvidia.com/gpu", limits["cpu"]))


def test_training_has_a_pod_for_each_worker():
    """`--workers` of the training job is what its pool starts."""
    spec = load(CLUSTER / "rayjob-train.yaml")["spec"]
    command = parsing.parse(shlex.split(spec["entrypoint"])[1:])
    (pool,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert command.workers == pool["minReplicas"] == pool["replicas"]


def test_commands_in_the_documents_are_commands():
    """Every `catdog submit` of the documents is one that the real parser accepts."""
    documents = [CLUSTER / "README.md", ROOT / "docs" / "cluster.md", ROOT / "docs" / "security.md"]
    found = 0
    for document in documents:
        text = document.read_text().replace("\\\n", " ")
        for line in re.findall(r"^\s*(catdog submit .+)$", text, re.MULTILINE):
            command = parsing.parse(shlex.split(line, comments=True)[1:])
            if command.attach is None:
                parsing.parse(parsing.job_arguments(command.command))
            found += 1
    assert found >= 3


def dockerfile(instruction):
    """The arguments of each such instruction."""
    text = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and line[0] != "#"]
    return [rest for name, rest in lines if name == instruction]


def test_image_has_a_supported_python():
    """The base image's Python is one that the package supports."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (image,) = dockerfile("FROM")
    version = re.fullmatch(r"python:(\d+\.\d+)-slim-\w+", image)[1]
    assert Version(version) in SpecifierSet(project["requires-python"])


def test_image_copies_what_exists_and_is_sent():
    """What is copied is in the repository, and .dockerignore lets it through."""
    allowed = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    for copy in dockerfile("COPY"):
        for source in copy.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source.removeprefix('./')}" in allowed


def test_image_has_the_locked_dependencies_and_is_not_root():
    """Dependencies come from the lock with hashes, and the last user is not root."""
    installs = " ".join(dockerfile("RUN"))
    assert "--require-hashes --requirement requirements.lock" in installs
    assert "--no-deps --no-build-isolation ." in installs
    assert dockerfile("USER")[-1] == "1000"


def test_local_script_is_careful():
    """The script parses, refuses what it does not know, and never ends another's Ray."""
    script = CLUSTER / "local.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    commands = [
        line for line in script.read_text().splitlines() if not line.lstrip().startswith("#")
    ]
    assert not any(re.search(r"\bray\"? stop|pkill|killall", line) for line in commands)
    for arguments in (["--bogus"], ["--workers"], ["--workers", "two"], ["--prometheus-port", "p"]):
        refused = subprocess.run(
            [str(script), *arguments], capture_output=True, text=True, check=False
        )
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--port", "--dashboard-port"])
def test_local_script_names_a_port_that_is_taken(option):
    """One line with the port and the option that takes another, before anything starts."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        refused = subprocess.run(
            [str(CLUSTER / "local.sh"), option, str(port)],
            env=os.environ | {"CATDOG_BIN": str(Path(sys.executable).parent)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert f"port {port}: " in refused.stderr
    assert f"`cluster/local.sh {option} N`" in refused.stderr
