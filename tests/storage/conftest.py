"""Emulators of stores, one of each for the whole session."""

from __future__ import annotations

import pytest

from tests.conftest import free_ports
from tests.storage.clouds import Azure, Google, owned, running, serving_xml


@pytest.fixture(scope="session")
def azurite(tmp_path_factory):
    """Azurite, which runs."""
    with running(Azure(free_ports(1)[0]), tmp_path_factory.mktemp("azurite")) as server:
        server.make("results", public=False)
        yield server


@pytest.fixture(scope="session")
def fake_gcs(tmp_path_factory):
    """fake-gcs-server, which runs."""
    with running(Google(free_ports(1)[0]), tmp_path_factory.mktemp("fake-gcs")) as server:
        yield server


@pytest.fixture
def az(azurite, monkeypatch, request):
    """A URI of an empty prefix of its own on Azurite, with the environment set to reach it."""
    owned(azurite, monkeypatch)
    return f"az://results/{abs(hash(request.node.nodeid)):x}"


@pytest.fixture
def gs(monkeypatch):
    """A URI on a server that has Google's conditions."""
    with serving_xml(careful=True) as server:
        owned(server, monkeypatch)
        yield "gs://results/x"
