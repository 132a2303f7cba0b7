"""Files by version, locally and on stores: what was not read is neither replaced nor deleted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from catdog import storage

MANY = 24


@pytest.fixture(params=["local", "s3", "az", "gs"])
def uri(request, tmp_path):
    """Of a file that is there."""
    local = request.param == "local"
    folder = tmp_path.as_uri() if local else request.getfixturevalue(request.param)
    assert storage.write_new(f"{folder}/x", b"first")
    return f"{folder}/x"


def test_one_replaces_what_many_read(uri):
    """Of many who read the same version one writes; its bytes stay, and all others know."""
    data, version = storage.read_version(uri, 100)
    assert data == b"first"
    with ThreadPoolExecutor(MANY) as pool:
        won = list(pool.map(lambda n: storage.write_over(uri, b"%d" % n, version), range(MANY)))
    assert sum(won) == 1
    assert storage.read_bytes(uri, 100) == b"%d" % won.index(True)


def test_a_version_is_of_one_writing(uri):
    """The same bytes written again are another version: who read before it does not write."""
    _, version = storage.read_version(uri, 100)
    assert storage.write_over(uri, b"second", version)
    _, second = storage.read_version(uri, 100)
    assert storage.write_over(uri, b"other", second)
    assert not storage.write_over(uri, b"third", second)
    assert not storage.write_over(uri, b"third", version)
    assert storage.read_bytes(uri, 100) == b"other"


def test_only_what_was_read_is_deleted(uri):
    """A file that somebody has written since stays, and one that is gone is no trouble."""
    _, version = storage.read_version(uri, 100)
    assert storage.write_over(uri, b"second", version)
    storage.delete_version(uri, version)
    assert storage.exists(uri)
    _, second = storage.read_version(uri, 100)
    storage.delete_version(uri, second)
    assert not storage.exists(uri)
    storage.delete_version(uri, second)
    assert not storage.write_over(uri, b"third", second)
    assert not storage.exists(uri)


def test_nothing_else_is_left(tmp_path):
    """Neither of who won nor of who lost is a temporary file left."""
    uri = (tmp_path / "x").as_uri()
    storage.write_new(uri, b"1")
    storage.write_new(uri, b"2")
    _, version = storage.read_version(uri, 100)
    storage.write_over(uri, b"3", version)
    storage.write_over(uri, b"4", version)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
