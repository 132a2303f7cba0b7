"""catdog.runtime.ray_quirks on an embedded cluster; on one with an autoscaler, see test_nodes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from catdog.errors import CatdogError, UserInputError
from catdog.runtime import fit, nodes, ray_quirks
from catdog.training import fitting


@pytest.mark.slow
def test_embedded_settings_stay_there(ray_cluster):
    """An embedded cluster's processes find silence soon; what this process starts next does not."""
    import ray

    @ray.remote(num_cpus=0)
    def settings():
        return {name: os.environ.get(name) for name in ray_quirks.FAULT_DETECTION_SETTINGS}

    assert ray.get(settings.remote()) == ray_quirks.FAULT_DETECTION_SETTINGS
    assert "RAY_grpc_client_keepalive_time_ms" not in os.environ


@pytest.mark.slow
def test_a_job_leaves_no_settings_behind(ray_cluster, monkeypatch):
    """A program that calls a job has its own settings again, so that its Ray Data starts and shows."""
    from ray.data import DataContext

    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    monkeypatch.setattr(DataContext.get_current(), "enable_progress_bars", True)
    before = dict(os.environ)
    with ray_quirks.connect(None):
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert not DataContext.get_current().enable_progress_bars
    assert dict(os.environ) == before
    assert DataContext.get_current().enable_progress_bars


@pytest.mark.slow
@pytest.mark.parametrize(("there", "python"), [("2.55.1", None), (None, "3.10.4")])
def test_another_version_is_said_with_both(there, python):
    """What Ray says of a cluster of another version, in one line with what to do."""
    import platform

    import ray
    from ray._private.utils import check_version_info

    there, python = there or ray.__version__, python or platform.python_version()
    with pytest.raises(RuntimeError) as raised:
        check_version_info({"ray_version": there, "python_version": python}, "node")
    line = str(fit.refusal("head:6379", raised.value))
    assert line.startswith(
        f"--address head:6379: the cluster runs Ray {there} on Python {python}, "
    )
    assert f"this command Ray {ray.__version__} on Python {platform.python_version()}" in line
    assert f"Python {python} and `pip install catdog-ray ray=={there}`" in line
    assert "\n" not in line


@pytest.mark.slow
def test_room_is_counted_by_workers(ray_cluster):
    """A worker must find all that it wants on one node; what is busy counts as well."""
    cpus, _ = nodes.cluster_resources()
    assert nodes.room(cpus=1) == cpus
    assert nodes.room(cpus=cpus) == 1
    assert nodes.room(cpus=cpus + 1) == 0
    assert nodes.room(cpus=1, gpus=1) == 0


@pytest.mark.slow
def test_nobody_waits_without_an_autoscaler(ray_cluster):
    """What a cluster has not and will not get is refused at once, with what is missing."""
    cpus, _ = nodes.cluster_resources()
    waits = []
    started = time.monotonic()
    nodes.wait_for_room(cpus, cpus=1, on_wait=waits.append)
    with pytest.raises(UserInputError, match=rf"room for {cpus} of {cpus + 1} workers of 1 CPU"):
        nodes.wait_for_room(cpus + 1, cpus=1, on_wait=waits.append)
    with pytest.raises(UserInputError, match="room for 0 of 1 worker of 2 CPUs and 1 GPU each"):
        nodes.wait_for_room(1, cpus=2, gpus=1, on_wait=waits.append)
    assert time.monotonic() - started < 2
    assert waits == []


@pytest.mark.slow
def test_a_job_without_nodes_is_given_up(ray_cluster, monkeypatch):
    """Ray waits for nodes without end; the watch ends that, and says how many there is room for."""
    monkeypatch.setattr(nodes, "_NODES_RETURN_WITHIN_S", 1.0)
    cpus, _ = nodes.cluster_resources()
    content = nodes.NodeWatch(cpus, cpus=1)
    watch = nodes.NodeWatch(cpus + 1, cpus=1)
    with pytest.raises(CatdogError, match=rf"room for {cpus} of {cpus + 1} workers only for 1 s"):
        next(nodes.watched(iter(lambda: time.sleep(30), 0), watch.check))
    content.check()


@pytest.mark.slow
def test_watched_job_hands_on_what_the_job_gives(ray_cluster):
    """Batches in order, the end, and the job's own exception."""

    def job():
        yield 1
        yield 2
        raise CatdogError("the job's own")

    watch = nodes.NodeWatch(1, cpus=1)
    assert list(nodes.watched(iter([1, 2]), watch.check)) == [1, 2]
    batches = nodes.watched(job(), watch.check)
    assert [next(batches), next(batches)] == [1, 2]
    with pytest.raises(CatdogError, match="the job's own"):
        next(batches)


@pytest.mark.slow
def test_ray_reads_the_settings_of_the_driver():
    """Under these names: Ray passes over a variable that it does not know without a word."""
    import ray
    from ray.train.v2._internal import constants

    if tuple(map(int, ray.__version__.split(".")[:2])) >= (2, 54):  # fixed before
        # In a process of its own: it is read when Ray Data is imported.
        program = """
from ray.data._internal import cluster_autoscaler
names = ("RateBasedClusterAutoscaler", "DefaultClusterAutoscalerV2")  # now, and earlier
reader = next(filter(None, (getattr(cluster_autoscaler, name, None) for name in names)))
print(reader.AUTOSCALING_REQUEST_EXPIRE_TIME_S)
"""
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | ray_quirks._DRIVER_SETTINGS,
            capture_output=True,
            text=True,
            check=True,
        )
        expires = ray_quirks._DRIVER_SETTINGS["RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S"]
        assert float(done.stdout) == float(expires)
    names = {constants.WORKER_HEALTH_CHECK_TIMEOUT_S_ENV_VAR, constants.V2_ENABLED_ENV_VAR}
    assert names <= set(ray_quirks._DRIVER_SETTINGS)
    assert constants.HEALTH_CHECK_INTERVAL_S_ENV_VAR == fitting.POLLS_VARIABLE
    # Also to where they are read.
    assert names | {fitting.POLLS_VARIABLE} <= constants.ENV_VARS_TO_PROPAGATE


@pytest.mark.slow
def test_an_actor_that_dies_is_started_again_a_few_times(ray_cluster, tmp_path):
    """Ray's default would do so for ever; and nothing warns of how catdog says otherwise."""
    import ray
    from ray.data import ActorPoolStrategy

    class Dying:
        def __init__(self, told):
            self._told = told

        def __call__(self, _):
            with self._told.open("a") as file:
                file.write("x")
            os._exit(1)

    with pytest.raises(ray.exceptions.RayError):
        ray_quirks.map_batches(
            ray.data.range(1),
            Dying,
            fn_constructor_args=(tmp_path / "told",),
            compute=ActorPoolStrategy(size=1),
        ).materialize()
    assert len((tmp_path / "told").read_text()) == 5
