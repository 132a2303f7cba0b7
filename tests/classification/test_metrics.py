"""The board of cluster/grafana.json over what a job really exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
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


def samples():
    """What the node exports now: metric -> label names, and each value."""
    with urllib.request.urlopen(f"http://{page_url()}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = {}
    for metric, labels, value in _SAMPLE.findall(text):
        names, values = found.setdefault(metric, (set(), []))
        names.update(re.findall(r'(\w+)="', labels))
        values.append(float(value))
    return found


@pytest.fixture(scope="module")
def finished_job(ray_cluster, drawings, tiny_model, tmp_path_factory):
    """A job with a rejected image; and a board on which a shard began twice, kept alive."""
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    images = (str(drawings), str(folder / "broken.jpg"))
    output = str(folder / "results")
    summary = classify(ClassifyConfig(images=images, model=tiny_model, output=output, workers=1))
    board = pulse.start_board()
    for attempt in ("x", "y"):
        board.beat.remote(pulse.Beat("a", "node", 1, attempt, 3), [None])
    board.show.remote(100, 40)
    yield summary
    del board


def test_each_panel_finds_its_metrics(finished_job):
    """Every metric and label that a panel asks for is exported under that name."""
    asked = {name for query in QUERIES for name in re.findall(r"ray_catdog_\w+", query)}
    wait_for(lambda: asked <= samples().keys(), 60)
    found = samples()
    assert asked == found.keys()  # and the board shows all there is
    for query in QUERIES:
        (metric, *_) = re.findall(r"ray_catdog_\w+", query)
        labels = re.findall(r"by \((\w+)\)", query) + re.findall(r'[{,](\w+)=~?"', query)
        assert set(labels) <= found[metric][0], query


def test_planned_done_and_left_are_those_of_the_jobs(finished_job):
    """A finished job has nothing left; of one that runs, unfinished shards count as they go."""
    planned = finished_job.planned

    def arrived():
        found = {name: values for name, (_, values) in samples().items()}
        return (
            {planned, 100} <= set(found.get("ray_catdog_planned_images", []))
            and {planned, 43} <= set(found.get("ray_catdog_done_images", []))
            and {0, 57} <= set(found.get("ray_catdog_left_images", []))
            and sum(found.get("ray_catdog_retried_shards_total", [])) >= 1
        )

    wait_for(arrived, 60)


@pytest.mark.long
def test_prometheus_answers_each_query(finished_job, tmp_path):
    """A real Prometheus scrapes the cluster, and every panel's query gives at least one number."""
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
            for query in QUERIES:
                wait_for(lambda query=query: answers(port, query), 60)
        finally:
            process.kill()


def answers(port, query):
    """Whether a query gives something."""
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            content = json.load(answer)
    except OSError:
        return False
    return content["status"] == "success" and content["data"]["result"]
