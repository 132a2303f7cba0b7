"""The command line's edges: fast to start, one line for wrong input, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from catdog import __version__
from catdog.cli import main


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "catdog", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("module", ["catdog", "catdog.cli"])
def test_import_is_light(module):
    """Neither the package nor the command line imports Ray, TensorFlow, Keras or an S3 client."""
    code = (
        f"import {module}, sys; heavy = {{'ray', 'tensorflow', 'keras', 'openvino', 's3fs', "
        "'aiobotocore', 'matplotlib', 'plotly'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "verb", [[], ["train"], ["classify"], ["evaluate"], ["report"], ["submit"], ["demo"]]
)
def test_help_shows_an_example(verb):
    """Every command explains itself and shows how it is called."""
    result = run(*verb, "--help")
    assert result.returncode == 0
    assert "Example: catdog" in result.stdout


def test_version():
    """`--version` says the package's."""
    assert run("--version").stdout == f"catdog {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["classify", "x", "--output", "o", "--model", "m", "--bogus"], "--bogus"),
        (["classify", "x"], "--output"),
        (["classify", "x", "--output", "o", "--model", "no-such-model"], "no-such-model"),
        (["train", "no-such-folder", "--output", "o"], "no-such-folder"),
        (["train", "x", "--output", "o", "--epochs", "0"], "--epochs"),
        (["train", "x", "--output", "o", "--validation", "1.5"], "--validation"),
        (["train", "--output", "o"], "IMAGES"),
        (["train", "x", "--output", "o", "--epochs", "many"], "--epochs"),
        (["fly"], "fly"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(arguments, named, tmp_path, monkeypatch, capsys):
    """Nothing starts, nothing is written, and the one line names the flag or the file."""
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert named in err
    assert "Traceback" not in err
    assert not any(Path("o").rglob("part-*"))


@pytest.mark.parametrize("verb", ["train", "classify", "evaluate"])
def test_jobs_are_the_same_commands(verb):
    """`python jobs/VERB.py` has the flags of `catdog VERB`."""
    job = Path(__file__).parents[1] / "jobs" / f"{verb}.py"
    result = subprocess.run(
        [sys.executable, str(job), "--help"], capture_output=True, text=True, check=True
    )
    command = run(verb, "--help")
    assert result.stdout == command.stdout
    assert len(job.read_text().splitlines()) < 40
