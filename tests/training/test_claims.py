"""A run's folder belongs to one command at a time: real processes, killed ones among them."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from catdog import storage
from catdog.errors import UserInputError
from catdog.training import claims
from catdog.training.config import TrainConfig

HOLD = """
import sys, time
from catdog import storage
from catdog.errors import UserInputError
from catdog.training import claims
from catdog.training.config import TrainConfig
config = TrainConfig(images=("photos",), output=sys.argv[1], architecture="compact", seed=int(sys.argv[2]))
try:
    with claims.claimed(config, storage.to_uri(sys.argv[1]), {}) as claim:
        print("has it", flush=True)
        time.sleep(600)
except UserInputError as error:
    print(error, flush=True)
"""


def interrupt(config):
    """A command that is stopped after its first epoch."""
    fail(config, ["metrics.csv"])


def fail(config, names):
    """A command that claims its folder, writes something and fails."""
    with claimed(config):
        for name in names:
            (Path(config.output) / name).write_text("")
        raise ValueError("no images")


def config(output, **changes):
    return dataclasses.replace(
        TrainConfig(images=("photos",), output=str(output), architecture="compact"), **changes
    )


def claimed(config):
    return claims.claimed(config, storage.to_uri(config.output), {})


@pytest.fixture
def hold():
    """Starts processes that claim a folder and keep it; gives each one and what it says first."""
    started = []

    def start(output, seed=0):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(output), str(seed)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_second_command_is_refused(tmp_path, hold, seed):
    """The same command while the first is at work, and another one: one line each."""
    _, said = hold(tmp_path / "run")
    assert said == "has it"
    _, said = hold(tmp_path / "run", seed)
    assert ("at work" in said, "--seed was 0, is 1" in said) == (seed == 0, seed == 1)


def test_a_killed_commands_claim_is_taken_over_by_the_same(tmp_path, hold):
    """SIGKILL leaves the claim: the same command has it at once, another one is refused."""
    first, _ = hold(tmp_path / "run")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]["seed"] == 0
    assert "--seed was 0, is 1" in hold(tmp_path / "run", 1)[1]
    assert hold(tmp_path / "run", 0)[1] == "has it"


def test_of_many_at_once_one_wins(tmp_path):
    """However they interleave, exactly one has the folder."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / "run"), str(seed)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in (0, 1, 0, 1)
    ]
    said = [process.stdout.readline().strip() for process in processes]
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
    assert said.count("has it") == 1, said


def test_a_failure_before_anything_was_written_leaves_nothing(tmp_path):
    """Bad input is no run: the folder is as it was. With something in it, the claim stays."""
    run = tmp_path / "run"
    for write in (False, True):
        with pytest.raises(ValueError, match="no images"):
            fail(config(run), ["rejected.csv"] if write else [])
        assert run.exists() is write
    assert (run / "config.json").exists()


def test_a_folder_with_something_else_is_refused(tmp_path):
    """Also a config.json that no run has written; both stay as they are."""
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(UserInputError, match="not empty"), claimed(config(tmp_path)):
        pass
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(UserInputError, match="does not belong to a run"), claimed(config(tmp_path)):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "mine.txt"]


def finished_run(folder):
    """A folder as a run leaves it, and a file that it did not write."""
    with claimed(config(folder)):
        for name in ("model/metadata.json", "model/model.keras", "metrics.csv", "mine.txt"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("x")


def test_restart_deletes_unfinished_work(tmp_path):
    """What the run wrote goes, also under another recipe; what it did not write stays."""
    finished_run(tmp_path / "run")
    (tmp_path / "run" / "model" / "metadata.json").unlink()
    (tmp_path / "run" / "checkpoints").mkdir()
    with claimed(config(tmp_path / "run", seed=9, restart=True)) as claim:
        assert not claim.finished
        assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json", "mine.txt"}


def test_restart_asks_before_it_deletes_finished_work(tmp_path):
    """The folder has to be named again, and then it goes."""
    run = tmp_path / "run"
    finished_run(run)
    with claimed(config(run)) as claim:
        assert claim.finished
    for discard in (None, str(tmp_path / "other")):
        asked = config(run, restart=True, discard=discard)
        with pytest.raises(UserInputError, match=f"--discard {run}"), claimed(asked):
            pass
    assert (run / "model" / "model.keras").exists()
    with claimed(config(run, restart=True, discard=str(run))) as claim:
        assert not claim.finished
        assert not (run / "model").exists()


def test_a_folder_of_images_is_the_same_under_each_of_its_names(tmp_path, monkeypatch):
    """A slash that the shell's completion adds, a relative path, a URI: all continue the run."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no images"):
        interrupt(config("run", images=("photos/",), labels="new.csv"))
    for images in ("photos", "./photos", f"{tmp_path}/photos/", f"file://{tmp_path}/photos"):
        again = config("run", images=(images,), labels=f"{tmp_path}/new.csv")
        with claimed(again) as claim:
            assert not claim.finished
    with (
        pytest.raises(UserInputError, match="IMAGES was photos/, is others;"),
        claimed(config("run", images=("others",), labels="new.csv")),
    ):
        pass


def test_another_run_says_at_once_what_deletes_it(tmp_path):
    """A finished one needs both flags: the message has them, and following it works."""
    run = tmp_path / "run"
    finished_run(run)
    other = config(run, seed=9)
    with (
        pytest.raises(UserInputError, match=f"finished: .*add --restart --discard {run} to"),
        claimed(other),
    ):
        pass
    with claimed(dataclasses.replace(other, restart=True, discard=f"{run}/")) as claim:
        assert not claim.finished


def test_a_record_of_an_older_release_is_understood(tmp_path):
    """Fields that came later have the value that they had before they came."""
    with pytest.raises(ValueError, match="no images"):
        fail(config(tmp_path), ["metrics.csv"])
    record = json.loads((tmp_path / "config.json").read_text())
    del record["recipe"]["split_by_folder"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    with claimed(config(tmp_path)) as claim:
        assert not claim.finished


@pytest.mark.slow
def test_in_s3_who_is_silent_has_ended(s3, monkeypatch):
    """A rival is refused while beats come, and takes over from a command that was killed."""
    monkeypatch.setattr(claims, "_BEAT_S", 0.5)
    monkeypatch.setattr(claims, "_SILENCE_S", 3.0)
    output = f"{s3}/run"
    with claimed(config(output)) as first:
        with pytest.raises(UserInputError, match="at work"), claimed(config(output)):
            pass
        first.check()
        storage.write_atomic(storage.join(output, "metrics.csv"), b"x")  # something is there
    assert not storage.exists(storage.join(output, "owner.json"))
    storage.write_atomic(storage.join(output, "owner.json"), b"somebody")  # killed
    with claimed(config(output)) as second:
        storage.write_atomic(storage.join(output, "owner.json"), b"a third one")
        while not second.lost.is_set():
            time.sleep(0.1)
        with pytest.raises(Exception, match="taken over the output folder"):
            second.check()
