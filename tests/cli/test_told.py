"""What people are told of a job: the lines while it runs, and the summary at its end."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest

from catdog import terminal
from catdog.classification import ClassifySummary, pipeline
from catdog.classification.telling import Told
from catdog.cli import summaries
from catdog.errors import counted
from catdog.observer import Observer


@pytest.fixture
def shown(monkeypatch):
    """Progress without a terminal, every line of it; and what it has written."""
    monkeypatch.setattr(terminal, "_PLAIN_LINE_EVERY_S", -1.0)
    stream = io.StringIO()
    return terminal.Progress(stream), lambda: [
        line.split(maxsplit=1)[1] for line in stream.getvalue().splitlines()
    ]


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 images"), (1, "1 image"), (2000, "2,000 images")]
)
def test_one_is_not_many(count, said):
    """Counts in every message, table and page."""
    assert counted(count, "image") == said


def test_reading_results_is_not_classifying(shown):
    """It has words of its own, without a rate, whatever was shown before."""
    progress, lines = shown
    progress.retried(1, "its node was lost")
    progress.progress(95, 100, 0, 10.0)
    progress.rows_read(64, 100)
    assert lines()[1:] == [
        (
            "95 of 100 images (95%), 0 rejected, 10 images/s, 0.5s left, "
            "1 shard tried again (its node was lost)"
        ),
        "read 64 of 100 rows",
    ]


def test_a_lost_shard_is_a_line_when_it_is_lost(shown):
    """Those that are new, with the cause."""
    progress, lines = shown
    progress.retried(1, "its node was lost")
    progress.retried(3, "its worker ended")
    assert lines() == [
        "1 shard tried again: its node was lost",
        "2 shards tried again: its worker ended",
    ]


def test_an_epoch_too_short_to_rate_has_no_rate(shown):
    """Features that were computed before pass by the thousand; other columns stay where they are."""
    progress, lines = shown
    row = {"epoch": 1, "loss": 0.5, "val_loss": 0.5, "accuracy": 0.5, "val_accuracy": 0.5}
    progress.epoch(row | {"images_per_s": 15024.0, "seconds": 0.02}, best=True)
    progress.epoch(row | {"images_per_s": 15024.0, "seconds": 20.0}, best=True)
    _, short, long = lines()
    assert short.split()[-2:] == ["<0.1s", "best"]
    assert "15,024" in long
    assert "15,024" not in short
    assert len(short) == len(long)


def test_progress_never_runs_backwards():
    """Images of a worker that is lost were counted; they are done again before the count grows."""
    shown = []

    class Seen(Observer):
        def progress(self, *figures):
            shown.append(figures[0])

    def found(images):
        counts = SimpleNamespace(images=images)
        return SimpleNamespace(counts=counts, rejected=np.zeros(1, np.int64))

    plan = SimpleNamespace(images=100)
    progress = pipeline.Progress(Seen(), plan, found(20), pipeline.Tally())
    progress.unfinished(50)
    progress.unfinished(10)
    progress.begin(found(30))
    progress.unfinished(10)
    progress.finished(Told(0, 70, 0, 70, 1.0, 0.1, 0.1, 0.1, 1.5, 100, 0.1, 2.0))
    assert shown == [70, 70, 70, 100]


def test_the_summary_tells_its_figures_apart(capsys):
    """Why the throughput is not images by time, what was tried again, what the command below is for."""
    summaries.print_classified(
        ClassifySummary(
            output="file:///x",
            planned=300,
            classified=300,
            rejected=0,
            labels={"cat": 300},
            errors={},
            model="f",
            images_this_run=300,
            seconds=3.6,
            images_per_s=122.0,
            first_image_s=1.1,
            stages_s={"read": 1.0},
            bytes_read=1,
            precision="float32",
            retried_shards={"its node was lost": 1},
        )
    )
    text = capsys.readouterr().out
    for name, value in (
        ("this run", "300 images in 3.6s, the first after 1.1s"),
        ("throughput", "122 images/s while workers were busy, in float32"),
        ("tried again", "1 shard: its node was lost"),
    ):
        assert re.search(rf"^ *{name} +{value} *$", text, re.MULTILINE), text
    assert re.search(r"the first three rows\n.* -c ", text)
