"""`--log-file`: what stands in it, without a job. Real jobs' logs are read where those are tested."""

from __future__ import annotations

import io
import json
import math
import re
import signal
from types import SimpleNamespace

import pytest

from catdog import classification
from catdog.cli import ending, event_log
from catdog.cli.commands import main
from catdog.demo.drawings import draw_jpeg
from catdog.errors import CatdogError, Terminated, UserInputError
from tests import logs

SECRET = "no-one-may-read-this-in-a-log"


def asked(path, as_json=True):
    """A command with a log."""
    return SimpleNamespace(log_file=str(path), log_format="json" if as_json else "text")


def test_text_is_one_line_an_event():
    """A time in UTC, the job, the event; then names and values, quoted where they need it."""
    file = io.StringIO()
    log = event_log.EventLog(file, "train", as_json=False)
    log.phase('starting "2" workers\nnow')
    log.shard(3, 64, 1, 2.0)
    first, second = file.getvalue().splitlines()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z train-[0-9a-f]{8}"
    assert re.fullmatch(rf'{stamp} phase text="starting \\"2\\" workers\\nnow"', first)
    assert re.fullmatch(rf"{stamp} shard shard=3 images=64 rejected=1 seconds=2.0", second)


def test_json_is_strict():
    """What is no number in JSON is null."""
    file = io.StringIO()
    row = {"epoch": 1, "loss": math.nan, "val_loss": math.inf, "seconds": 0.123456}
    event_log.EventLog(file, "train", as_json=True).epoch(row, best=True)
    event = json.loads(file.getvalue(), parse_constant=pytest.fail)
    assert (event["loss"], event["val_loss"], event["seconds"]) == (None, None, 0.1235)


def test_frequent_events_are_few():
    """What comes many times a second is written once in ten seconds, and at the end."""
    file = io.StringIO()
    log = event_log.EventLog(file, "classify", as_json=True)
    for done in range(1, 1001):
        log.progress(done, 1000, 0, 5.0)
    assert [json.loads(line)["done"] for line in file.getvalue().splitlines()] == [1, 1000]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserInputError("no"), 2),
        (CatdogError("no"), 1),
        (OSError("no"), 1),
        (KeyboardInterrupt(), 130),
        (Terminated(), 128 + signal.SIGTERM),
        (ZeroDivisionError("no"), ending.FAULT),
    ],
)
def test_the_end_is_told_however_it_comes(tmp_path, error, code):
    """The last event has the exit code; only a fault of ours has its traceback there."""
    path = tmp_path / "made" / "log"
    with pytest.raises(type(error)), event_log.opened(asked(path), "classify"):
        raise error
    ((*_, ended),) = logs.jobs(path)
    assert ended["exit_code"] == code
    assert ("traceback" in ended) == (code == ending.FAULT)


def test_a_fault_says_that_the_traceback_is_in_the_log(tmp_path, tiny_model, monkeypatch, capsys):
    """The line on the screen names the file that the user named; jobs follow each other in it."""

    def classify(config, observer):
        observer.phase("dividing")
        return 1 // 0

    monkeypatch.setattr(classification, "classify", classify)
    log = tmp_path / "log"
    command = ["classify", str(tmp_path), "--output", str(tmp_path / "o"), "--model", tiny_model]
    for _ in range(2):
        assert main([*command, "--log-file", str(log), "--log-format", "json"]) == 70
    first, second = logs.jobs(log)
    assert [each["event"] for each in first] == ["started", "phase", "ended"]
    assert first[0]["output"] == str(tmp_path / "o")
    assert "ZeroDivisionError" in first[-1]["traceback"]
    assert first[0]["job"] != second[0]["job"]
    assert f"(the traceback is in {log}; --debug shows it)" in capsys.readouterr().err


def test_the_log_of_a_real_job(tmp_path, tiny_model, monkeypatch, capsys):
    """Each shard with its counts, the summary's numbers, the end; no secret of the environment.

    So few images need no Ray. A second job finds nothing to do and appends its own events.
    """
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "photos").mkdir()
    for number in range(6):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(draw_jpeg("cat", seed=number))
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    log = tmp_path / "log"
    command = ["classify", str(tmp_path / "photos"), "--output", str(tmp_path / "results")]
    command += ["--model", tiny_model, "--max-rejected", "1", "--no-report", "--json"]
    for _ in range(2):
        assert main([*command, "--log-file", str(log), "--log-format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[0])
    first, second = logs.jobs(log)
    (shard,) = [each for each in first if each["event"] == "shard"]
    assert (shard["shard"], shard["images"], shard["rejected"]) == (0, 7, 1)
    (summary,) = [each for each in first if each["event"] == "summary"]
    assert {name: printed[name] for name in ("planned", "classified", "rejected")} == {
        name: summary[name] for name in ("planned", "classified", "rejected")
    }
    assert first[-1]["exit_code"] == second[-1]["exit_code"] == 0
    assert not [each for each in second if each["event"] == "shard"]
    assert SECRET not in log.read_text()


@pytest.mark.parametrize("place", ["s3://bucket/log", "", "/proc/none/log", "https://h/log"])
def test_a_log_that_cannot_be_written_is_refused(tmp_path, place, capsys):
    """One line that names the flag, before anything starts."""
    place = place or str(tmp_path)
    command = ["classify", str(tmp_path), "--output", str(tmp_path / "o"), "--log-file", place]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"catdog classify: --log-file {place}: ")
    assert said.count("\n") == 1
