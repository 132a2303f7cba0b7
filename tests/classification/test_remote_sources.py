"""Whole jobs whose images are on servers: Ray's workers read them, and each image has one row."""

from __future__ import annotations

import json
import threading
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest

from catdog import machine
from tests.jobs import catdog
from tests.storage.servers import serving
from tests.storage.test_hub import Hub
from tests.storage.test_web import Site

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(
        machine.has_gpu(), reason="this machine has a GPU, which is Ray's to give out"
    ),
]


def classified(images, output, model, environment):
    """The rows of a job of two workers, in a cluster of its own."""
    flags = ["--workers", 2, "--allow-hosts", "127.0.0.1", "--no-report", "--json"]
    command = ["classify", *images, "--output", output, "--model", model, *flags]
    driver = catdog(*command, environment=environment)
    told, errors = driver.communicate(timeout=180)
    assert driver.returncode == 0, errors
    summary = json.loads(told)
    assert summary["executor"] == "ray"
    rows = pq.read_table(output, columns=["uri", "label", "error"]).to_pylist()
    assert summary["planned"] == len(rows)
    return rows


def test_lists_of_urls_and_a_hub(drawings, tiny_model, tmp_path):
    """Each URL of a list and each file of a data set has one row, however the server answers."""
    pictures = {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for path in sorted(drawings.rglob("*.jpg"))
    }
    counts = {"lock": threading.Lock(), "seen": [], "times": [], "now": 0, "most": 0}
    with (
        serving(Site, version="a", files=pictures, **counts) as site,
        serving(Hub, seen=[], files=pictures) as hub,
    ):
        hub.elsewhere = hub.url
        urls = [
            f"{site.url}/{manner}/{quote(name)}"
            for name, manner in zip(
                pictures, ["ranges", "whole", "chunked", "to/ranges"] * 40, strict=True
            )
        ]
        listed = tmp_path / "urls.txt"
        listed.write_text("\n".join([*urls, f"{site.url}/status/404", urls[0]]))
        images = [listed, "hf://datasets/owner/photos"]
        environment = {"HF_ENDPOINT": hub.url}
        rows = classified(images, tmp_path / "results", tiny_model, environment)
    expected = [*urls, f"{site.url}/status/404"]
    expected += [f"hf://datasets/owner/photos/{name}" for name in pictures]
    assert sorted(row["uri"] for row in rows) == sorted(expected)
    assert [row["uri"] for row in rows if row["error"]] == [f"{site.url}/status/404"]
