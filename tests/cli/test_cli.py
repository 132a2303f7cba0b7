"""The command line's edges: fast to start, one line for wrong input, exit codes."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import pty
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from catdog import __version__, reporting, terminal
from catdog.classification import job as classification
from catdog.cli import parsing, summaries
from catdog.cli.arguments import COMMANDS
from catdog.cli.commands import main
from catdog.errors import UserInputError, being_read, reading
from catdog.inputs import archives
from catdog.model import folders
from catdog.pixels import Preprocessing


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "catdog", *arguments], capture_output=True, text=True, check=False
    )


def said_by(call, *arguments):
    """Exit code and standard output of a function that may exit, in this process: fast."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            code = call(*arguments)
        except SystemExit as error:
            code = error.code
    return code, output.getvalue()


@pytest.fixture
def eighty(monkeypatch):
    """A narrow terminal's width."""
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("module", ["catdog", "catdog.cli"])
def test_import_is_light(module):
    """Neither the package nor the command line imports Ray, TensorFlow, Keras or an S3 client."""
    code = (
        f"import {module}, sys; heavy = {{'ray', 'tensorflow', 'keras', 'openvino', 's3fs', "
        "'aiobotocore', 'matplotlib', 'plotly'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("verb", [[], *([verb] for verb in COMMANDS)])
def test_help_shows_an_example(verb, eighty):
    """Every command explains itself and shows how it is called; it speaks of no Python types.

    It fits 80 columns, but for an example, which is to be copied as it stands, and the usage.
    """
    code, text = said_by(main, [*verb, "--help"])
    assert code == 0
    assert "Example: catdog" in text
    assert "None" not in text
    assert "[STR" not in text
    unwrapped = ("Example: ", "usage: ")
    assert [
        line for line in text.splitlines() if len(line) > 80 and not line.startswith(unwrapped)
    ] == []


def test_help_of_a_process():
    """The same in a process of its own, which ends with 0 and says nothing else."""
    result = run("classify", "--help")
    assert result.returncode == 0
    assert result.stderr == ""
    assert "Example: catdog classify" in result.stdout


@pytest.mark.parametrize("verb", ["train", "classify", "evaluate", "report", "submit"])
def test_examples_in_the_help_are_commands(verb, monkeypatch):
    """The parser takes them as they stand."""
    monkeypatch.setenv("COLUMNS", "1000")
    _, text = said_by(main, [verb, "--help"])
    (example,) = re.findall(r"^Example: catdog (.+)$", text, re.MULTILINE)
    assert type(parsing.parse(example.split())) is COMMANDS[verb]


def test_version():
    """`--version` says the package's."""
    assert run("--version").stdout == f"catdog {__version__}\n"


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder to work in: pictures in one class and in none, other files, something like a model.

    The model's files are not a network; that is found out by whoever runs it.
    """
    monkeypatch.chdir(tmp_path)
    # Where listing takes longer Ray starts meanwhile, which a slow machine is not to bring about.
    monkeypatch.setattr(classification, "_PLAN_FIRST_S", 60.0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    for name in ("empty", "flat", "one/cat", "two/cat", "two/dog", "used", "no-model"):
        Path(name).mkdir(parents=True)
    pictures = [f"two/{label}/{number}.jpg" for label in ("cat", "dog") for number in range(12)]
    for name in ("flat/1.jpg", "one/cat/1.jpg", "used/notes.txt", *pictures):
        Path(name).write_bytes(b"not read here")
    Path("table.csv").write_text("uri,colour\nlone.jpg,red\n")
    Path("file").write_text("in the way")
    folders.save(
        Path("model").absolute().as_uri(),
        {folders.KERAS_FILE: b"no network"},
        labels=("cat", "dog"),
        preprocessing=Preprocessing(height=8, width=8, resize="stretch"),
        architecture="article",
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
    ("classify flat -output o", "-output: no such flag; did you mean --output?"),
    ("classify flat -o o", "-o: no such flag; did you mean --output?"),
    ("classify flat --output=", "--output: its value is empty"),
    (f"{JOB} more", "more: not expected here", "before the flags"),
    (f"{JOB} --batch-size many", "--batch-size many: is not a whole number"),
    (f"{JOB} --batch-size 0", "--batch-size must be at least 1"),
    (f"{JOB} --min-probability high", "--min-probability high: is not a number"),
    (f"{JOB} --max-rejected 2", "--max-rejected must be a fraction"),
    (f"{JOB} --precision float64", "--precision float64: choose one of auto, float32"),
    (f"{JOB} --node-label gpu", "--node-label gpu: a node's label is KEY=VALUE"),
    (f"{JOB} --install", "--install: the nodes of a cluster install; name it with --address"),
    (f"{JOB} --timeout-s 0", "--timeout-s 0.0: must be more than 0"),
    ("classify no-such --output o --model model", "no-such: there is no such file"),
    ("classify empty --output o --model model", "empty: no images in it"),
    (
        "classify flat/*.png --output o --model model",
        "flat/*.png: matches nothing",
        "any number of folders",
    ),
    ("classify table.csv/ --output o --model model", "table.csv"),
    (
        "classify flat --output o --model model --thresholds table.csv",
        "--thresholds table.csv: is not a file that",
    ),
    ("classify ftp://x/y --output o --model model", "IMAGES ftp://x/y", "http:// are"),
    ("classify s3:// --output o --model model", "IMAGES s3://", "must name a bucket"),
    ("classify flat --output used --model model", "--output used", "name another one"),
    ("classify flat --output file --model model", "--output file: is a file; name a folder"),
    ("classify flat --output file/o --model model", "--output file/o", "name another place"),
    ("classify flat --output o --model no-such", "--model no-such: no finished model there"),
    ("classify flat --output o --model no-model", "--model no-model: no finished model there"),
    (
        "classify flat --output o --model file",
        "--model file: no finished model there",
        "run's folder",
    ),
    ("classify two --output o --model model --part test", "no images found in the test part"),
    ("train two", "--output: missing", "for example: catdog train"),
    ("train --output o", "IMAGES"),
    ("train no-such --output o", "no-such: there is no such file"),
    ("train empty --output o", "empty: no images in it"),
    ("train flat --output o", "flat: no labels", "one folder per class"),
    ("train one --output o", "one: 1 class found (cat)", "two or more", "the folder above"),
    ("train table.csv --output o", "table.csv: no labels", "label column"),
    ("train two --output used", "--output used", "name another one"),
    ("train two --output o --weights no.keras", "--weights no.keras: No such file"),
    ("train two --output o --epochs 0", "--epochs must be at least 1"),
    ("train two --output o --epochs many", "--epochs many: is not a whole number"),
    ("train two --output o --decode-node-label =cpu", "--decode-node-label =cpu: a node's label"),
    ("train two --output o --validation 1.5", "--validation"),
    ("train two --output o --resize squash", "--resize squash: choose one of stretch"),
    ("evaluate flat --output o --model model", "flat/1.jpg has no label", "one folder for each"),
    ("evaluate two --output o --precision-at 99", "--precision-at must be a fraction"),
    ("evaluate two --output o --mistakes -1", "--mistakes must not be negative"),
    ("evaluate two --output o --min-probability 0.9", "--min-probability: no such flag"),
    ("evaluate two --output file --model model", "--output file: is a file; name a folder"),
    ("report", "RESULTS: missing", "for example: catdog report"),
    ("report no-such", "RESULTS no-such: no results there", "catdog classify"),
    ("report used", "RESULTS used: no results there"),
    ("report file", "RESULTS file: no results there"),
    ("review file", "RESULTS file: no results there"),
    ("duplicates file", "RESULTS file: holds no finished results"),
    ("similar flat/1.jpg used", "RESULTS flat/1.jpg: holds no finished results"),
    ("report used --output empty", "--output empty: is a folder; name a file"),
    ("demo --output used", "--output used: the folder is not empty"),
    ("demo more", "more: not expected here", "takes flags only", "catdog demo --help"),
    ("export model --format onnx --output o", "model: not expected here", "takes flags only"),
    ("help fly", "fly: no such command"),
    ("predic --help", "did you mean predict?"),
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
    ("classify photos/ --wor", "--workers"),
    ("classify photos/ --output results --precision bf", "bfloat16"),
    ("classify --retry", "--retry-rejected"),
    ("train --resi", "--resize"),
    ("report --thumb", "--thumbnails"),
]
A_FILE = ("classify more/ phot", "photos.zip")


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


@pytest.mark.slow
def test_completion_in_bash(tmp_path):
    """Commands, flags and values are completed, and file names where any may stand."""
    (tmp_path / "completion").write_text(said_by(main, ["completion", "bash"])[1])
    for typed, expected in COMPLETED:
        assert complete(typed.split(), tmp_path) == [expected], typed
    assert set(complete([""], tmp_path)) >= set(COMMANDS)
    assert complete(["classify", "comple"], tmp_path) in ([], ["completion"])
    assert complete(["evaluate", "--min-prob"], tmp_path) == []  # which it refuses


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish on this machine")
def test_completion_in_fish(tmp_path):
    """What fish itself would offer, for the same as in bash."""
    (tmp_path / "catdog.fish").write_text(said_by(main, ["completion", "fish"])[1])
    (tmp_path / "photos.zip").touch()
    for typed, expected in (*COMPLETED, A_FILE):
        script = f"source catdog.fish; complete --do-complete 'catdog {typed}'"
        command = ["fish", "--no-config", "-c", script]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        offered = [line.split("\t")[0] for line in done.stdout.splitlines()]
        assert expected in offered, typed


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh on this machine")
@pytest.mark.parametrize(("typed", "expected"), [*COMPLETED, A_FILE])
def test_completion_in_zsh(typed, expected, tmp_path):
    """Typed at a terminal and completed by Tab, it is the whole word."""
    (tmp_path / "photos.zip").touch()
    (tmp_path / "_catdog").write_text(said_by(main, ["completion", "zsh"])[1])
    setup = "PS1='> '; fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D"
    setup += "; catdog() { print -r -- RAN $* }; print READY\n"
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "dumb", "ZDOTDIR": str(tmp_path), "HOME": str(tmp_path)}
    process = subprocess.Popen(
        ["zsh", "-f", "-i"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
        cwd=tmp_path,
        start_new_session=True,
    )
    os.close(follower)

    def answer(keys, wanted):
        os.write(leader, keys.encode())
        shown, deadline = "", time.monotonic() + 20
        while not re.search(wanted, shown) and time.monotonic() < deadline:
            shown += os.read(leader, 65536).decode(errors="replace")
        return shown

    try:
        answer(setup, r"[^ ]READY")
        before = typed.rpartition(" ")[0]
        ran = " ".join(["RAN", *before.split(), expected])
        assert ran in answer(f"catdog {typed}\t\n", r"RAN .*\n")
    finally:
        process.kill()
        process.wait()
        os.close(leader)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_scripts(shell):
    """Each shell that is there can read its own."""
    code, script = said_by(main, ["completion", shell])
    assert code == 0
    assert "catdog" in script
    (offered,) = re.findall("^COMPLETION_SPEC = (.*)$", script, re.MULTILINE)
    assert "\\n" not in offered  # or a description's second line is a word to complete
    if shutil.which(shell):
        check = [shell, "--no-execute" if shell == "fish" else "-n"]
        subprocess.run(check, input=script, text=True, check=True)


SHOW = """
from catdog import terminal
with terminal.progress("catdog-test") as progress:
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


@pytest.mark.parametrize("evil", ["\x1b[2J", "\nforged", "\r", "\x9b31m", "\u202e"])
def test_what_strangers_name_does_not_steer_the_terminal(capsys, evil):
    """Labels, files and errors: each is one line of what can be seen, wherever it is printed."""
    shown = terminal.Progress(sys.stderr)
    shown.line(f"line {evil}")
    shown.phase(f"phase {evil}")
    terminal.table("table", [(f"name {evil}", f"value {evil}")])
    terminal.command_line(f"command {evil}")
    terminal.error_line("classify", f"error {evil}")
    out, err = capsys.readouterr()
    assert not any(evil in text for text in (out, err))
    assert err.count("\n") == 3
    assert out.count("\n") == 4  # with an empty one, and the title


def test_terminal_shows_the_time_left():
    """At a terminal one line lives: how much is done, and for how long it will go on.

    What libraries print is not among it.
    """
    shown = at_a_terminal(SHOW.replace("print(", "__import__('time').sleep(0.5); print("))
    assert "30 of 120 images (25%), 2 rejected, 15 images/s, 6.0s left" in shown
    assert "chatter" not in shown
    assert "\x1b[31mred" not in shown


EPOCHS = """
import time
from catdog import terminal
with terminal.progress("catdog-test") as progress:
    row = {"loss": 0.6931, "val_loss": 10.5, "accuracy": 0.5, "val_accuracy": 1.0}
    progress.steps(1, 30, 10, 100, 250.0, 2)
    time.sleep(1)
    progress.steps(1, 30, 20, 100, 250.0, 2)
    time.sleep(0.5)
    for epoch in (1, 12):
        progress.epoch(row | {"epoch": epoch, "images_per_s": 1234.5, "seconds": 200}, best=True)
"""


def test_training_shows_a_table_and_the_time_left():
    """Images/s of all and of each worker, the time to the last epoch's end; a row an epoch."""
    shown = at_a_terminal(EPOCHS)
    step = r"epoch 1 of 30: step 20 of 100, (\dm \d\ds) left, 250 images/s \(125 a worker\)"
    # 2,980 steps are left, and ten of them took a second, or more where others compute.
    assert "4m 58s" <= re.search(step, shown)[1] < "9m 59s"
    lines = [line[9:] for line in re.split(r"[\r\n]+", plain(shown)) if "s  " in line[:9]]
    head, *rows = [line for line in lines if "epoch  " in line or line.endswith("best")]
    assert [row.split()[0] for row in rows] == ["1", "12"]
    assert max(len(row) for row in rows) <= 80 - 9
    for name, value in (("loss", "0.6931"), ("val_loss", "10.5000"), ("time", "3m 20s")):
        assert rows[0].index(value) + len(value) == head.index(name) + len(name)


def plain(shown):
    """What was shown at a terminal without the control sequences."""
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown)


def at_a_terminal(script):
    """What a script shows at a terminal of 100 columns."""
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=follower, stderr=follower, env=environment
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
    return shown.decode()


def test_durations_are_read_at_a_glance():
    """Two units at the most."""
    assert [terminal.duration(s) for s in (0.04, 9.44, 42, 200, 7500)] == [
        "0.0s",
        "9.4s",
        "42s",
        "3m 20s",
        "2h 05m",
    ]


@pytest.mark.parametrize(
    ("called", "path", "printed"),
    [
        ("bin/catdog", "elsewhere", "bin/catdog"),
        ("bin/catdog", "bin", "catdog"),
        ("a b/catdog", "elsewhere", "'a b/catdog'"),
        ("bin/notebook", "elsewhere", "catdog"),
    ],
)
def test_printed_commands_name_the_program_as_it_was_called(
    called, path, printed, tmp_path, monkeypatch
):
    """They run as they are printed, whether or not `catdog` is in PATH; of other programs it is `catdog`."""
    for folder in ("bin", "a b", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / called).touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / path))
    monkeypatch.setattr(sys, "argv", [called, "demo"])
    assert terminal.called_as() == printed


def test_printed_commands_of_a_module(monkeypatch):
    """`python -m catdog` is printed so, with the interpreter that runs it."""
    monkeypatch.setattr(sys, "argv", [str(Path(terminal.__file__).with_name("__main__.py"))])
    monkeypatch.setenv("PATH", "")
    assert terminal.called_as() == f"{sys.executable} -m catdog"


@pytest.mark.parametrize(
    ("train", "evaluate"),
    [
        (
            "photos/ more/ --output runs/first/ --test 0.1",
            "photos/ more/ --model runs/first --part test --output runs/first-evaluation",
        ),
        (
            "s3://b/photos --output s3://b/run --test 0.2",
            "s3://b/photos --model s3://b/run --part test --output s3://b/run-evaluation",
        ),
        ("photos/ --output runs/first", None),
        (
            "photos/ --output runs/2 --test 0.1 --labels l.csv",
            "photos/ --model runs/2 --part test --labels l.csv --output runs/2-evaluation",
        ),
        ("list.csv --output runs/first --test 0.1 --label-column species", None),
    ],
)
def test_a_training_names_the_command_that_measures_it(train, evaluate):
    """It is one that the parser takes; there is none without a test part, or that needs more flags."""
    words = summaries.measuring(parsing.parse(["train", *train.split()]))
    assert words == (evaluate and f"evaluate {evaluate}")
    if words is not None:
        assert parsing.parse(words.split()).part == "test"


@pytest.mark.parametrize("verb", ["train", "classify", "evaluate"])
def test_jobs_are_the_same_commands(verb, monkeypatch):
    """`python jobs/VERB.py` has the flags of `catdog VERB`."""
    job = Path(__file__).parents[2] / "jobs" / f"{verb}.py"
    monkeypatch.setattr(sys, "argv", [str(job), "--help"])
    result = said_by(runpy.run_path, str(job), None, "__main__")
    assert result == said_by(main, [verb, "--help"])
    assert len(job.read_text().splitlines()) < 40


@pytest.fixture
def broken(desk, monkeypatch):
    """A catdog that divides by zero when it reads what `report` is to show."""

    def write(config, observer):
        with reading("part-1.parquet"):
            raise ZeroDivisionError("0 rows\nin it")

    monkeypatch.setattr(reporting, "write", write)
    monkeypatch.setenv("TMPDIR", str(desk / "empty"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return desk / "empty"


def test_a_fault_of_ours_is_one_line_and_exit_70(broken, capfd):
    """It says what was being read and where the traceback is; that stays in the log."""
    assert main(["report", "used"]) == 70
    *_, line = capfd.readouterr().err.splitlines()
    (log,) = broken.iterdir()
    assert line.startswith("catdog report: a fault of catdog itself while reading part-1.parquet: ")
    assert "ZeroDivisionError: 0 rows in it" in line
    assert str(log) in line
    assert log.read_text().count("Traceback") == 1
    assert log.stat().st_mode & 0o077 == 0


def test_debug_shows_the_traceback(broken, capfd):
    """On the screen, before the line."""
    assert main(["report", "used", "--debug"]) == 70
    *before, line = capfd.readouterr().err.splitlines()
    assert "Traceback (most recent call last):" in before
    assert line.startswith("catdog report: a fault")


@pytest.mark.parametrize("inputs", ["two/a.zip", "two", "list.txt", "two/*.zip"])
def test_a_fault_names_the_archive_that_was_read(inputs, desk, monkeypatch, capfd):
    """However the archive came to be read: the rest can then be classified without it."""

    def zip_members(file, max_members):
        raise OverflowError("an offset that nobody foresaw")

    monkeypatch.setattr(archives, "zip_members", zip_members)
    shutil.make_archive("two/a", "zip", "two")
    Path("list.txt").write_text("two/cat/1.jpg\ntwo/a.zip\n")
    assert main(["classify", inputs, "--output", "o", "--model", "model"]) == 70
    *_, line = capfd.readouterr().err.splitlines()
    assert "a fault of catdog itself while reading file:///" in line
    assert "/two/a.zip: OverflowError" in line


def test_a_fault_before_the_command_began(desk, monkeypatch, capfd):
    """What goes wrong in reading the command line itself has its log, too."""
    monkeypatch.setenv("TMPDIR", str(desk / "empty"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(parsing, "parse", lambda _: 1 // 0)
    assert main(["fly"]) == 70
    (log,) = (desk / "empty").iterdir()
    assert f"(the traceback is in {log}" in capfd.readouterr().err
    assert "ZeroDivisionError" in log.read_text()


def test_what_is_read_is_known_however_the_fault_travels():
    """The innermost of several, through causes and through processes; known errors need none."""
    with pytest.raises(OverflowError) as caught, reading("a.tar"), reading("b.jpg in it"):
        raise OverflowError("2**63")
    wrapped = RuntimeError("elsewhere")
    wrapped.__cause__ = pickle.loads(pickle.dumps(caught.value))
    assert being_read(wrapped) == ["b.jpg in it"]
    with pytest.raises(UserInputError) as known, reading("a.tar"):
        raise UserInputError("a.tar: is empty")
    assert being_read(known.value) == []
