"""What is handed out: the wheel and the source distribution."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from catdog import __version__

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The folder of both, as `make dist` builds them."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_the_wheel_holds_the_whole_package(dist):
    """Every file of it: the weights, the page's template, what tells type checkers to look."""
    (wheel,) = dist.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "catdog").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"catdog/py.typed", "catdog/weights/cats-and-dogs/model.keras"} <= files
    assert files <= inside
    assert not [name for name in inside if name.startswith(("tests", "benchmarks", "docs"))]


@pytest.mark.slow
def test_the_wheel_is_a_program(dist, tmp_path):
    """Installed where nothing of the source tree is, it says its version."""
    (wheel,) = dist.glob("*.whl")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(tmp_path), str(wheel)], check=True)
    code = "import catdog.cli, sys; assert catdog.__file__.startswith(sys.argv[1]), catdog.__file__"
    code += "; sys.exit(catdog.cli.main(['--version']))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = {"PYTHONPATH": str(tmp_path), "PATH": ""}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"catdog {__version__}\n"


@pytest.mark.slow
def test_the_source_distribution_can_be_tested(dist):
    """It holds what `make test` needs."""
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        inside = {name.partition("/")[2] for name in tar.getnames()}
    assert {"Makefile", "requirements.lock", "tests/conftest.py", "catdog/py.typed"} <= inside


@pytest.mark.parametrize("name", ["checks", "package"])
def test_workflows_run_what_there_is(name):
    """Each `make` of a workflow is a target of the Makefile."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    targets = [step.split()[1] for step in steps if step.startswith("make ")]
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    assert [each for each in targets if f"\n{each}:" not in makefile] == []
