"""The board of cluster/grafana.json over what a job really exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from catdog.classification import ClassifyConfig, classify, pulse
from tests.conftest import free_ports
from tests.jobs import wait_for

BOARD = json.loads((Path(__file__).parents[2] / "cluster" / "grafana.json").read_text())
QUERIES = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
_SAMPLE = re.compile(r"^(ray_catdog_\w+)\{(.*)\} (\S+)$", re.MULTILINE)

pytestmark = pytest.mark.slow


def page_url():
    """Where the node exports its metrics."""
    import ray

    node = ray.nodes()[0]
    return f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"


class Seen(threading.Thread):
    """What the node exports over a time, since gauges go with their worker.

    Attributes:
        labels: names of each metric's labels.
        values: that each metric had.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.labels, self.values = {}, {}
        self.url, self.done = f"http://{page_url()}/metrics", threading.Event()

    def run(self):
        """Looks twice a second."""
        while not self.done.wait(0.5):
            with urllib.request.urlopen(self.url, timeout=5) as answer:
                text = answer.read().decode()
            for metric, labels, value in _SAMPLE.findall(text):
                self.labels.setdefault(metric, set()).update(re.findall(r'(\w+)="', labels))
                self.values.setdefault(metric, set()).add(float(value))


@pytest.fixture
def job(ray_cluster, drawings, tiny_model, tmp_path):
    """Runs a job with a rejected image; called without arguments, it gives the planned images.

    Beside it is a board on which a shard began twice.
    """
    boards = []

    def run():
        (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no more")
        images = (str(drawings), str(tmp_path / "broken.jpg"))
        output = str(tmp_path / "results")
        boards.append(pulse.start_board())
        for attempt in ("x", "y"):
            boards[0].beat.remote(pulse.Beat("a", "node", 1, attempt, 3), [None])
        boards[0].show.remote(100, 40)
        config = ClassifyConfig(images=images, model=tiny_model, output=output, workers=1)
        return classify(config).planned

    return run


def test_each_panel_finds_its_metrics(job):
    """Every metric and label that a panel asks for is exported under that name.

    Of a finished job nothing is left; of one that runs, unfinished shards count as they go.
    """
    seen = Seen()
    seen.start()
    planned = job()
    asked = {name for query in QUERIES for name in re.findall(r"ray_catdog_\w+", query)}
    wait_for(lambda: asked <= seen.labels.keys(), 60)
    wait_for(lambda: {planned, 100} <= seen.values["ray_catdog_planned_images"], 60)
    wait_for(lambda: {planned, 43} <= seen.values["ray_catdog_done_images"], 60)
    wait_for(lambda: {0, 57} <= seen.values["ray_catdog_left_images"], 60)
    seen.done.set()
    seen.join()
    assert asked == seen.labels.keys()  # the board shows all there is
    for query in QUERIES:
        (metric, *_) = re.findall(r"ray_catdog_\w+", query)
        labels = re.findall(r"by \((\w+)\)", query) + re.findall(r'[{,](\w+)=~?"', query)
        assert set(labels) <= seen.labels[metric], query


@pytest.mark.long
def test_prometheus_answers_each_query(job, tmp_path):
    """A real Prometheus scrapes the cluster, and every panel's query has given a number."""
    if (program := shutil.which("prometheus")) is None:
        pytest.skip("no `prometheus` in PATH (apt-get install prometheus)")
    (port,) = free_ports(1)
    jobs = [{"job_name": "ray", "static_configs": [{"targets": [page_url()]}]}]
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # which is YAML, too
    command = [program, f"--config.file={tmp_path}/prometheus.yml"]
    command += [f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address=127.0.0.1:{port}"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            job()
            for query in QUERIES:
                wait_for(lambda query=query: has_answered(port, query), 60)
        finally:
            process.kill()


def has_answered(port, query):
    """Whether a query gave something within the last minutes."""
    now = time.time()
    asked = urllib.parse.urlencode({"query": query, "start": now - 600, "end": now, "step": 1})
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/api/v1/query_range?{asked}", timeout=5
        ) as answer:
            content = json.load(answer)
    except OSError:
        return False
    return content["status"] == "success" and content["data"]["result"]
