"""The command line's edges: fast to start, one line for wrong input, exit codes."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from catdog import __version__, cli, images, models, terminal
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


@pytest.mark.parametrize("verb", [[], *([verb] for verb in cli._COMMANDS)])
def test_help_shows_an_example(verb):
    """Every command explains itself and shows how it is called; it speaks of no Python types."""
    result = run(*verb, "--help")
    assert result.returncode == 0
    assert "Example: catdog" in result.stdout
    assert "None" not in result.stdout
    assert "[STR" not in result.stdout


@pytest.mark.parametrize("verb", ["train", "classify", "evaluate", "report", "submit"])
def test_examples_in_the_help_are_commands(verb):
    """The parser takes them as they stand."""
    (example,) = re.findall(r"^Example: catdog (.+)$", run(verb, "--help").stdout, re.MULTILINE)
    assert type(cli._parse(example.split())) is cli._COMMANDS[verb][0]


def test_version():
    """`--version` says the package's."""
    assert run("--version").stdout == f"catdog {__version__}\n"


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder to work in: pictures in one class and in none, other files, something like a model.

    The model's files are not a network; that is found out by whoever runs it.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    for name in ("empty", "flat", "one/cat", "two/cat", "two/dog", "used", "no-model"):
        Path(name).mkdir(parents=True)
    pictures = [f"two/{label}/{number}.jpg" for label in ("cat", "dog") for number in range(12)]
    for name in ("flat/1.jpg", "one/cat/1.jpg", "used/notes.txt", *pictures):
        Path(name).write_bytes(b"not read here")
    Path("table.csv").write_text("uri,colour\nlone.jpg,red\n")
    Path("file").write_text("in the way")
    models.save(
        Path("model").absolute().as_uri(),
        {models.KERAS_FILE: b"no network"},
        labels=("cat", "dog"),
        preprocessing=images.Preprocessing(height=8, width=8, resize="stretch"),
        architecture="seed",
        training={"recipe": {"validation": 0.1, "test": 0.0}},
    )
    return tmp_path


JOB = "classify flat --output o --model model"
WRONG = [
    # What is typed, and what the line must say.
    ("fly", "fly: no such command", "classify"),
    ("clasify x --output o", "did you mean classify?"),
    ("--json classify flat", "--json: name a command first"),
    ("classify", "IMAGES and --output", "for example: catdog classify"),
    ("classify flat", "--output", "missing"),
    ("classify flat --output", "--output: its value is missing"),
    (f"{JOB} --ouptut o", "--ouptut", "did you mean --output?", "catdog classify --help"),
    (f"{JOB} --bogus", "--bogus: no such flag", "catdog classify --help"),
    (f"{JOB} more", "more: not expected here", "before the flags"),
    (f"{JOB} --batch-size many", "--batch-size many: is no whole number"),
    (f"{JOB} --batch-size 0", "--batch-size must be at least 1"),
    (f"{JOB} --min-probability high", "--min-probability high: is no number"),
    (f"{JOB} --max-rejected 2", "--max-rejected must be a fraction"),
    (f"{JOB} --precision float64", "--precision float64: choose one of auto, float32"),
    (f"{JOB} --timeout-s 0", "--timeout-s 0.0: must be more than 0"),
    ("classify no-such --output o --model model", "no-such: there is no such file"),
    ("classify empty --output o --model model", "empty: no images in it"),
    ("classify ftp://x/y --output o --model model", "IMAGES ftp://x/y", "s3:// are"),
    ("classify s3:// --output o --model model", "IMAGES s3://", "names a bucket"),
    ("classify flat --output used --model model", "--output used", "name another one"),
    ("classify flat --output file --model model", "--output file: is a file; name a folder"),
    ("classify flat --output file/o --model model", "--output file/o", "name another place"),
    ("classify flat --output o --model no-such", "--model no-such: no finished model there"),
    ("classify flat --output o --model no-model", "--model no-model: no finished model there"),
    ("classify two --output o --model model --part test", "no images found in the test part"),
    ("train two", "--output: missing", "for example: catdog train"),
    ("train --output o", "IMAGES"),
    ("train no-such --output o", "no-such: there is no such file"),
    ("train empty --output o", "empty: no images in it"),
    ("train flat --output o", "flat: no labels", "one folder per class"),
    ("train one --output o", "one: 1 class found", "two or more"),
    ("train table.csv --output o", "table.csv: no labels", "label column"),
    ("train two --output used", "--output used", "name another one"),
    ("train two --output o --epochs 0", "--epochs must be at least 1"),
    ("train two --output o --epochs many", "--epochs many: is no whole number"),
    ("train two --output o --validation 1.5", "--validation"),
    ("train two --output o --resize squash", "--resize squash: choose one of stretch"),
    ("evaluate flat --output o --model model", "no image is labelled cat or dog", "no labels"),
    ("report", "RESULTS: missing", "for example: catdog report"),
    ("report no-such", "RESULTS no-such: no results there", "catdog classify"),
    ("report used", "RESULTS used: no results there"),
    ("report used --output empty", "--output empty: is a folder; name a file"),
    ("demo --output used", "--output used: the folder is not empty"),
    ("demo more", "more: not expected here"),
    ("demo --drawings 1", "--drawings must be at least"),
    ("submit", "name the command to run"),
    ("submit fly", "name the command to run"),
    ("submit classify flat --output s3://bkt/o --model s3://bkt/m", "IMAGES flat", "s3://..."),
    ("submit classify s3://bkt/x --output s3://bkt/o --model s3://bkt/m", "--address"),
    ("completion tcsh", "tcsh: choose one of bash, zsh, fish"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong[0])
def test_wrong_input_is_one_line_and_exit_2(wrong, desk, capfd):
    """Nothing starts, nothing is left, and one line names the flag or the file and what to do."""
    before = {path: path.read_bytes() for path in desk.rglob("*") if path.is_file()}
    arguments, *said = wrong
    assert main(arguments.split()) == 2
    out, err = capfd.readouterr()
    *progress, line = err.splitlines()
    assert out == ""
    assert line.startswith("catdog")
    assert all(each in line for each in said), line
    assert all(re.fullmatch(r" +[\d.]+s  [a-z].*", each) for each in progress)
    assert {path: path.read_bytes() for path in desk.rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster answers (Connection refused)"),
        ("http://127.0.0.1:8265", "catdog submit"),
    ],
)
def test_wrong_address_is_found_at_once(address, said, desk, capfd):
    """Ray itself would try for a quarter of an hour. What was planned serves the next try."""
    assert main([*JOB.split(), "--address", address]) == 2
    assert f"--address {address}" in (line := capfd.readouterr().err.splitlines()[-1])
    assert said in line
    assert main([*JOB.split(), "--address", address]) == 2


def test_a_mended_command_is_taken(desk, capfd):
    """A mistake leaves nothing in the output that would refuse the same command without it."""
    assert main(["classify", "no-such", "--output", "o", "--model", "model"]) == 2
    assert main(["train", "no-such", "--output", "o"]) == 2
    capfd.readouterr()
    assert main(["train", "one", "--output", "o"]) == 2
    assert "1 class found" in capfd.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_that_may_not_be_written(desk, capfd):
    """Said before anything is read."""
    (desk / "empty").chmod(0o500)
    assert main(["classify", "flat", "--output", "empty/o", "--model", "model"]) == 2
    assert "--output empty/o" in capfd.readouterr().err


def test_errors_of_the_system_are_one_line(desk, capfd):
    """What the operating system refuses is no traceback, and the line names the place."""
    assert main(["classify", "flat", "--output", "/proc/o", "--model", "model"]) in (1, 2)
    err = capfd.readouterr().err
    assert "/proc/o: No such file or directory" in err.splitlines()[-1]
    assert "Traceback" not in err


COMPLETED = [
    ("cl", "classify"),
    ("classify photos/ --ou", "--output"),
    ("classify photos/ --output results --precision bf", "bfloat16"),
    ("classify --retry", "--retry-rejected"),
    ("train --resi", "--resize"),
    ("report --thumb", "--thumbnails"),
]


def complete(words, folder):
    """What bash offers for the last word."""
    script = """
        source <(cat completion)
        COMP_WORDS=(catdog "$@"); COMP_CWORD=$#
        _catdog_or_files catdog "${@: -1}" ""
        printf '%s\\n' "${COMPREPLY[@]}"
        complete -p catdog
    """
    command = ["bash", "--norc", "-c", script, "bash", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    *offered, registered = done.stdout.splitlines()
    # Where the function offers nothing, bash's own completion of file names takes its place.
    assert "-o default" in registered
    return [each for each in offered if each]


def test_completion_in_bash(tmp_path):
    """Commands, flags and values are completed, and file names where any may stand."""
    (tmp_path / "completion").write_text(run("completion", "bash").stdout)
    for typed, expected in COMPLETED:
        assert complete(typed.split(), tmp_path) == [expected], typed
    assert set(complete([""], tmp_path)) >= set(cli._COMMANDS)
    assert complete(["classify", "comple"], tmp_path) in ([], ["completion"])


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_scripts(shell):
    """Each shell that is there can read its own."""
    result = run("completion", shell)
    assert result.returncode == 0
    assert "catdog" in result.stdout
    if shutil.which(shell):
        check = [shell, "--no-execute" if shell == "fish" else "-n"]
        subprocess.run(check, input=result.stdout, text=True, check=True)


SHOW = """
from catdog import terminal
with terminal.Progress("catdog-test") as progress:
    progress.phase("listing images")
    progress.progress(30, 120, 2, 15.0)
    print("a library's chatter", file=__import__("sys").stderr)
    progress.phase("reading \\x1b[31mred.jpg")
terminal.table("done", [("results", "file:///" + "a" * 200)])
"""


def test_piped_output_is_plain():
    """No control characters, no chatter, and a path on one line however long it is."""
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stderr + done.stdout
    lines = [line.split(maxsplit=1)[1] for line in done.stderr.splitlines()]
    assert lines[0] == "listing images"
    assert lines[-1] == "reading \N{REPLACEMENT CHARACTER}[31mred.jpg"
    assert "chatter" not in done.stderr
    assert f"file:///{'a' * 200}" in done.stdout


def test_terminal_shows_the_time_left():
    """At a terminal one line lives: how much is done, and for how long it will go on."""
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
    show = SHOW.replace("print(", "__import__('time').sleep(0.5); print(")
    process = subprocess.Popen(
        [sys.executable, "-c", show], stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    shown = b""
    try:
        while piece := os.read(leader, 65536):
            shown += piece
    except OSError:
        pass  # Linux's way of saying that the other end is closed
    os.close(leader)
    assert process.wait() == 0
    assert "30 of 120 images (25%), 2 rejected, 15 images/s, 6.0s left" in shown.decode()
    assert b"\x1b[31mred" not in shown


def test_durations_are_read_at_a_glance():
    """Two units at the most."""
    assert [terminal.duration(s) for s in (0.04, 9.44, 42, 200, 7500)] == [
        "0.0s",
        "9.4s",
        "42s",
        "3m 20s",
        "2h 05m",
    ]


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
