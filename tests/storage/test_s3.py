"""catdog.storage and catdog.inputs.listing against a real S3 server."""

from __future__ import annotations

import gzip
import io
import logging
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.store import S3Store

from catdog import storage
from catdog.errors import ErrorCode, UserInputError
from catdog.inputs import PLAN_SCHEMA, SourceLimits, list_images, read_images
from catdog.storage import odd_names, ranges

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = SourceLimits()


def planned(*inputs):
    return pa.Table.from_batches(list_images([str(i) for i in inputs], LIMITS), PLAN_SCHEMA)


def results(table, threads=8):
    return list(read_images(table, LIMITS, threads))


def keys(server):
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    return [server.environment[name] for name in names]


def upload(folder: Path, uri: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write_atomic(
                storage.join(uri, str(path.relative_to(folder))), path.read_bytes()
            )


@pytest.fixture
def all_kinds(tmp_path):
    """A folder with every kind of input in it."""
    folder = tmp_path / "all"
    files = {f"{'cat' if i % 2 else 'dog'}/{i}.jpg": b"%d" % i * (i * 30 + 1) for i in range(40)}
    for name, data in files.items():
        path = folder / "plain" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in files.items():
            z.writestr(name, data)
    for suffix, mode in (("tar", "w"), ("tar.gz", "w:gz")):
        with tarfile.open(folder / f"a.{suffix}", mode) as t:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                t.addfile(info, io.BytesIO(data))
    (folder / "l.txt").write_text("\n".join(f"plain/{name}" for name in files))
    lines = [f"plain/{name},{name[:3]}" for name in files]
    (folder / "t.csv").write_text("uri,label\n" + "\n".join(lines))
    columns = {"uri": [f"plain/{name}" for name in files]}
    pq.write_table(pa.table(columns), folder / "t.parquet")
    pq.write_table(pa.table({"bytes": list(files.values())}), folder / "b.parquet")
    images = [{"bytes": data, "path": name} for name, data in files.items()]
    pq.write_table(pa.table({"image": images}), folder / "h.parquet", row_group_size=7)
    text = "path\tlabel\n" + "".join(f"plain/{name}\t{name[:3]}\n" for name in files)
    (folder / "z.tsv.gz").write_bytes(gzip.compress(text.encode("utf-16")))
    (folder / "j.jsonl").write_text("".join(f'{{"url": "plain/{name}"}}\n' for name in files))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "plain/cat/1.jpg",
        "plain/*/1?.jpg",
        "a.zip",
        "a.tar",
        "a.tar.gz",
        "l.txt",
        "t.csv",
        "t.parquet",
        "b.parquet",
        "h.parquet",
        "z.tsv.gz",
        "j.jsonl",
        "",
    ],
)
def test_s3_and_local_are_the_same(s3, all_kinds, name):
    """Every kind of input gives the same rows and bytes on S3 as on a disk."""
    upload(all_kinds, s3)
    local, remote = planned(f"{all_kinds}/{name}"), planned(f"{s3}/{name}")
    moved = [uri.replace(f"file://{all_kinds}", s3) for uri in local["uri"].to_pylist()]
    # A server may list folders in an order of its own.
    rank = {uri: at for at, uri in enumerate(remote["uri"].to_pylist())}
    remote = remote.take([rank[uri] for uri in moved])
    assert remote["uri"].to_pylist() == moved
    for column in ("label", "offset", "length", "size", "codec", "error"):
        assert remote[column].equals(local[column]), column
    if name not in {
        "l.txt",
        "t.csv",
        "t.parquet",
        "z.tsv.gz",
        "j.jsonl",
    }:  # names outside of a list's folder differ
        assert remote["name"].equals(local["name"])
    assert results(remote) == results(local)
    assert all(isinstance(result, bytes) for result in results(remote))
    for uri, data in list(zip(remote["uri"].to_pylist(), results(remote), strict=True))[::17]:
        if not uri.startswith("parquet://"):
            with fsspec.open(uri) as file:
                assert file.read() == data


def test_mixed_inputs(s3, all_kinds):
    """Local and S3 inputs, alone and in one list, in the order given."""
    upload(all_kinds / "plain", s3)
    entries = [f"{s3}/cat/1.jpg", f"{all_kinds}/plain/cat/3.jpg", f"{s3}/gone.jpg"]
    (all_kinds / "mixed.txt").write_text("\n".join(entries))
    table = planned(all_kinds / "mixed.txt", f"{s3}/dog/", f"{all_kinds}/a.zip")
    assert table.num_rows == 3 + 20 + 40
    read = results(table)
    assert read[0] == b"1" * 31
    assert read[1] == b"3" * 91
    assert read[2].code == ErrorCode.MISSING
    assert all(isinstance(result, bytes) for result in read[3:])


def test_odd_keys(s3):
    """Spaces, other scripts and the characters that URLs give a meaning are only characters."""
    keys = ["a b.jpg", "ü日本😀.jpg", "h#h.jpg", "q?q.jpg", "p%20p%.jpg", "p+p.jpg", "[1].jpg"]
    keys += ["a&b=c;d,e@f:g.jpg", "star*.jpg", "e\u0301.jpg", "quotes'\"<>.jpg", "~.jpg", "x/y z/1"]
    for key in keys:
        storage.write_atomic(f"{s3}/{key}", key.encode())
    table = planned(s3)
    assert sorted(table["name"].to_pylist()) == sorted(keys)
    assert [r.decode() for r in results(table)] == table["name"].to_pylist()
    for key in keys:
        assert results(planned(f"{s3}/{key}")) == [key.encode()]
        with fsspec.open(f"{s3}/{key}") as file:
            assert file.read() == key.encode()


def test_names_that_fsspec_cannot_hold(s3):
    """Keys with `::`, and members of archives with it or with `/` before their names, open as well."""
    fsspec.register_implementation("catdog", odd_names.OddNameFileSystem, clobber=True)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("/e.jpg", "a::b.jpg", "c.jpg"):
            archive.writestr(name, name)
    storage.write_atomic(f"{s3}/a.zip", stream.getvalue())
    storage.write_atomic(f"{s3}/x::y.jpg", b"x::y.jpg")
    table = planned(s3)
    assert results(table) == [b"/e.jpg", b"a::b.jpg", b"c.jpg", b"x::y.jpg"]
    for uri, data in zip(table["uri"].to_pylist(), results(table), strict=True):
        with fsspec.open(uri) as file:
            assert file.read() == data
    assert results(planned(*table["uri"].to_pylist())) == results(table)


def test_hidden_keys_and_folder_markers(s3):
    """What consoles and systems leave in a bucket is no image."""
    for key in ("cat/", "cat/1.jpg", ".x/2.jpg", "cat/.3.jpg", "__MACOSX/4.jpg", "notes.txt"):
        storage.write_atomic(f"{s3}/{key}", b"" if key.endswith("/") else b"x")
    assert planned(s3)["name"].to_pylist() == ["cat/1.jpg"]


@pytest.mark.slow
def test_listing_over_several_pages(s3, monkeypatch):
    """More objects than a page holds are found, in folders and flat, once each."""
    monkeypatch.setattr(storage, "PAGE_KEYS", 20)
    names = [f"flat/{i}.jpg" for i in range(110)]
    names += [f"{i}/{j}.jpg" for i in range(9) for j in range(9)]
    names += [f"wide/{i}/x.jpg" for i in range(41)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: storage.write_atomic(f"{s3}/{name}", b"x"), names))
    assert sorted(planned(s3)["name"].to_pylist()) == sorted(names)
    assert planned(f"{s3}/flat").num_rows == 110
    assert planned(f"{s3}/wide").num_rows == 41
    assert planned(s3).equals(planned(s3))


@pytest.mark.parametrize("count", [19, 20, 21, 40])
def test_the_edge_of_a_page(s3, count):
    """Keys that just fill a page, or two, and one more or less: each comes once."""
    names = [f"{i:02d}.jpg" for i in range(count)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: storage.write_atomic(f"{s3}/{name}", b"x"), names))
    pages = [keys for keys, _ in storage.remote_pages(f"{s3}/", max_keys=20)]
    assert [key.rpartition("/")[2] for keys in pages for key, *_ in keys] == names
    assert max(map(len, pages)) <= 20


@pytest.fixture
def requests(monkeypatch):
    """The ranges that are asked for, as they happen: (offset, length)."""
    made: list[tuple[int, int]] = []
    real = storage.remote_range

    def noted(uri: str, offset: int, length: int) -> tuple[bytes, int]:
        made.append((offset, length))
        return real(uri, offset, length)

    monkeypatch.setattr(storage, "remote_range", noted)
    return made


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_small_members_are_read_together(s3, requests, kind):
    """Neither index nor contents of an archive of small images take a request an image."""
    data = {f"{i}.jpg": random.Random(i).randbytes(2000 + i) for i in range(400)}
    sink = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(sink, "w") as z:
            for name, content in data.items():
                z.writestr(name, content)
    else:
        with tarfile.open(fileobj=sink, mode="w") as t:
            for name, content in data.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                t.addfile(info, io.BytesIO(content))
    storage.write_atomic(f"{s3}/a.{kind}", sink.getvalue())
    table = planned(f"{s3}/a.{kind}")
    assert len(requests) <= 12
    requests.clear()
    assert results(table) == list(data.values())
    assert len(requests) <= 2
    requests.clear()
    assert results(table.take([5, 300, 17])) == [list(data.values())[i] for i in (5, 300, 17)]
    assert sum(length for _, length in requests) < 700_000


def test_large_members_are_skipped(s3, requests):
    """The index of a tar of large files reads little of it."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as t:
        for i in range(8):
            info = tarfile.TarInfo(f"{i}.jpg")
            info.size = 1 << 20
            t.addfile(info, io.BytesIO(random.Random(i).randbytes(1 << 20)))
    storage.write_atomic(f"{s3}/a.tar", sink.getvalue())
    table = planned(f"{s3}/a.tar")
    assert sum(length for _, length in requests) < 1 << 19
    assert [r[:9] for r in results(table)] == [
        random.Random(i).randbytes(1 << 20)[:9] for i in range(8)
    ]


def test_large_objects_of_unknown_size(s3):
    """An object named by a list is read whole, whatever its size; over the limit not at all."""
    data = random.Random(0).randbytes(9 << 20)
    storage.write_atomic(f"{s3}/x.jpg", data)
    storage.write_atomic(f"{s3}/0.jpg", b"")
    storage.write_atomic(f"{s3}/l.txt", b"x.jpg\n0.jpg\n")
    table = planned(f"{s3}/l.txt")
    assert results(table)[0] == data
    assert results(table)[1].code == ErrorCode.EMPTY
    small = list(read_images(table, SourceLimits(max_bytes=1 << 20), 2))
    assert small[0].code == ErrorCode.TOO_LARGE


KILLED = """
import os, signal, sys
from catdog import storage
from catdog.storage import s3
s3._PART_BYTES = 5 << 20
with storage.open_atomic(sys.argv[1]) as file:
    file.write(bytes(17 << 20))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_objects_appear_whole(s3, monkeypatch):
    """One PUT or many parts: an object is there when its writer is done, and not before.

    Nor is it when the writer fails, or is killed with a part of it uploaded.
    """
    monkeypatch.setattr(storage.s3, "_PART_BYTES", 5 << 20)
    for size in (0, 10, 17 << 20):
        uri = f"{s3}/{size}.bin"
        data = random.Random(size).randbytes(size)
        with storage.open_atomic(uri) as file:
            for at in range(0, size, 1 << 20):
                file.write(data[at : at + (1 << 20)])
            assert not storage.exists(uri)
        assert storage.read_bytes(uri, size) == data
        with storage.open_input(uri) as read:
            read.seek(-min(size, 9), os.SEEK_END)
            assert read.read() == data[-9:]

    killed = subprocess.run([sys.executable, "-c", KILLED, f"{s3}/killed.bin"], check=False)
    assert killed.returncode == -signal.SIGKILL
    filesystem, path = storage.filesystem(f"{s3}/killed.bin")
    bucket, _, key = path.partition("/")
    open_uploads = filesystem.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key)
    assert len(open_uploads["Uploads"]) == 1, "it had sent some parts"
    assert not storage.exists(f"{s3}/killed.bin")

    def fail() -> None:
        with storage.open_atomic(f"{s3}/failed.bin") as file:
            file.write(bytes(17 << 20))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert storage.list_names(s3) == ["0.bin", "10.bin", f"{17 << 20}.bin"]
    storage.delete(f"{s3}/0.bin")
    storage.delete(f"{s3}/0.bin")
    assert not storage.exists(f"{s3}/0.bin")


def test_parquet_through_storage(s3):
    """Pyarrow writes and reads whole files through `open_atomic` and `open_input`."""
    table = pa.table({"x": range(1000)})
    with storage.open_atomic(f"{s3}/x.parquet") as file:
        pq.write_table(table, file)
    with storage.open_input(f"{s3}/x.parquet") as file:
        assert pq.read_table(file).equals(table)
    fs, path = storage.filesystem(f"{s3}/x.parquet")
    assert pq.read_table(path, filesystem=fs).equals(table)


def test_missing_things(s3):
    """A missing object is a row; a missing prefix or bucket as an input is the user's error."""
    storage.write_atomic(f"{s3}/l.txt", b"gone.jpg\ns3://no-such-bucket-here/x.jpg\ns3://b_$/x\n")
    codes = [r.code for r in results(planned(f"{s3}/l.txt"))]
    assert codes == [ErrorCode.MISSING, ErrorCode.MISSING, ErrorCode.UNSUPPORTED]
    for text in (f"{s3}/gone.jpg", f"{s3}/gone/", "s3://no-such-bucket-here/", f"{s3}/*.png"):
        with pytest.raises(UserInputError) as caught:
            planned(text)
        assert text in str(caught.value)


def test_forbidden_buckets(s3, s3_server, monkeypatch):
    """What the keys may not read is `forbidden`, one row each; as an input the user's error."""
    storage.write_atomic(f"{s3}/x.jpg", b"x")
    line = "s3.configure -user=guest -access_key=AKIAGUEST -secret_key=guestsecret"
    s3_server.shell(f"{line} -buckets=elsewhere -actions=Read,List -apply")
    table = planned(f"{s3}/x.jpg")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAGUEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guestsecret")
    deadline = time.monotonic() + 10
    while True:  # until the server has learnt of the guest
        try:
            read = results(table)
            break
        except storage.CredentialsError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert [r.code for r in read] == [ErrorCode.FORBIDDEN]
    with pytest.raises(UserInputError, match="no permission to read it"):
        planned(f"{s3}/x.jpg")


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_SECRET_ACCESS_KEY", "another-secret"), ("AWS_ACCESS_KEY_ID", "AKIANOBODY")],
)
def test_wrong_keys(s3, s3_server, monkeypatch, name, value):
    """Keys that the store does not know stop the job, and are never repeated."""
    table = pa.Table.from_pylist(
        [{"uri": f"{s3}/x.jpg", "name": "x", "codec": "file"}], PLAN_SCHEMA
    )
    monkeypatch.setenv(name, value)
    with pytest.raises(UserInputError, match="credentials") as at_planning:
        planned(s3)
    with pytest.raises(storage.StorageDownError, match="credentials") as at_reading:
        results(table)
    for text in (str(at_planning.value), str(at_reading.value)):
        assert not any(key in text for key in (*keys(s3_server), value))


def test_no_keys(s3, monkeypatch):
    """Where no credentials are configured, an entry on S3 costs its row only."""
    table = pa.Table.from_pylist(
        [{"uri": f"{s3}/x.jpg", "name": "x", "codec": "file"}], PLAN_SCHEMA
    )
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert [r.code for r in results(table)] == [ErrorCode.FORBIDDEN]


@pytest.mark.slow
def test_throttling_is_waited_out(s3, s3_server, caplog):
    """A store that answers 503 most of the time loses neither reads nor writes."""
    for i in range(10):
        storage.write_atomic(f"{s3}/{i}.jpg", bytes(200_000))
    table = planned(s3)
    s3_server.shell("s3.circuitBreaker -global -type Count -actions Read,Write -values 1,1 -apply")
    try:
        time.sleep(0.5)
        with (
            caplog.at_level(logging.DEBUG, "catdog.storage.failures"),
            ThreadPoolExecutor(24) as pool,
        ):
            read = pool.submit(lambda: results(pa.concat_tables([table] * 8), threads=24))
            list(pool.map(lambda i: storage.write_atomic(f"{s3}/w/{i}", bytes(50_000)), range(50)))
            assert [len(r) for r in read.result()] == [200_000] * 80
    finally:
        s3_server.shell("s3.circuitBreaker -delete -apply")
        time.sleep(0.5)
    assert len(storage.list_names(f"{s3}/w")) == 50
    assert "throttled" in caplog.text


@pytest.fixture
def own_server(tmp_path, monkeypatch, s3_server, s3):
    """A server that this test may kill."""
    server = type(s3_server)(tmp_path)
    server.start()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.kill()


@pytest.mark.slow
def test_a_restart_is_ridden_out(own_server):
    """Reads and writes that meet a killed server go on when it is back."""
    uri = "s3://pictures/x.jpg"
    storage.write_atomic(uri, b"x" * 1000)
    time.sleep(0.2)
    table = pa.concat_tables([planned(uri)] * 600)
    reading = read_images(table, LIMITS, 4)
    assert len(next(reading)) == 1000
    own_server.kill()
    threading.Timer(0.3, own_server.start).start()
    assert {len(r) for r in reading} == {1000}
    storage.write_atomic(uri, b"y")
    assert storage.read_bytes(uri, 9) == b"y"


CHECKPOINT = """
import pickle, sys
filesystem, path = pickle.load(sys.stdin.buffer)
with filesystem.open_output_stream(path) as stream:
    stream.write(b"x" * 20_000_000)
print(filesystem.get_file_info(path).size)
"""


@pytest.mark.slow
def test_a_restart_is_ridden_out_by_what_ray_train_writes(own_server):
    """So do checkpoints, whose filesystem travels to another process."""
    from catdog.runtime import ray_quirks

    sent = pickle.dumps(ray_quirks.arrow_filesystem("s3://pictures/checkpoint"))
    own_server.kill()
    threading.Timer(3.0, own_server.start).start()
    done = subprocess.run(
        [sys.executable, "-c", CHECKPOINT], input=sent, capture_output=True, check=False
    )
    assert done.stdout == b"20000000\n", done.stderr.decode()[-2000:]


def test_a_request_that_hangs_is_repeated(monkeypatch):
    """Also where it took all the patience that there is; once, if the next one hangs as well."""
    monkeypatch.setitem(storage.failures.PATIENCE_S, "interrupted", 0.01)
    answers = [TimeoutError(), b"x"]

    def request():
        time.sleep(0.02)
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    assert storage.failures.retried("s3://pictures/x.jpg", request) == b"x"
    answers[:] = [TimeoutError()] * 3
    with pytest.raises(storage.StorageDownError, match="does not answer"):
        storage.failures.retried("s3://pictures/x.jpg", request)
    assert len(answers) == 1


@pytest.mark.slow
def test_a_dead_store_is_no_images_fault(own_server, monkeypatch):
    """When the store stays away, reading raises after its patience, and rejects no image."""
    uri = "s3://pictures/x.jpg"
    storage.write_atomic(uri, b"x")
    table = planned(uri)
    own_server.kill()
    monkeypatch.setitem(storage.failures.PATIENCE_S, "unreachable", 0.5)
    started = time.monotonic()
    for work in (
        lambda: results(table),
        lambda: planned(uri),
        lambda: storage.write_atomic(uri, b"y"),
    ):
        with pytest.raises(storage.StorageDownError, match="unreachable") as caught:
            work()
        assert not any(key in str(caught.value) for key in keys(own_server))
    assert time.monotonic() - started < 15


def read_in_child(uri: str, answers) -> None:
    answers.put(storage.read_bytes(uri, 100))


def test_forked_and_threaded(s3):
    """One client serves all threads, and a forked child makes its own."""
    uri = f"{s3}/x"
    storage.write_atomic(uri, b"x")
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: storage.read_bytes(uri, 9), range(50))) == {b"x"}
    assert len({id(fs) for fs in storage.s3._instances.values()}) == len(storage.s3._instances)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=read_in_child, args=(uri, answers))
    child.start()
    assert answers.get(timeout=20) == b"x"
    child.join()
    started = time.monotonic()
    assert storage.read_bytes(uri, 9) == b"x"
    assert time.monotonic() - started < 10  # the child has not touched its parent's connections


def test_logs_hold_no_secrets(s3, s3_server, caplog):
    """Our own log and s3fs's, at their finest level, and a rejection's detail repeat no key."""
    table = pa.Table.from_pylist(
        [{"uri": f"{s3}/x.jpg", "name": "x", "codec": "file"}], PLAN_SCHEMA
    )
    for name in ("catdog", "s3fs", "fsspec"):
        caplog.set_level(logging.DEBUG, name)
    detail = results(table)[0].detail
    assert detail == "The object does not exist (NoSuchKey)."
    assert caplog.text
    assert not any(key in caplog.text for key in keys(s3_server))


def test_reading_needs_no_s3fs(s3):
    """A process that only reads loads obstore alone; s3fs would take the interpreter from a decoder."""
    storage.write_atomic(f"{s3}/x", b"x" * 100)
    code = "import sys; from catdog import storage; "
    code += "assert storage.read_bytes(sys.argv[1], 1000) == b'x' * 100; "
    code += "assert storage.read_range(sys.argv[1], 90, 50) == b'x' * 10; "
    code += "assert 's3fs' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, f"{s3}/x"], check=True)


def test_what_obstore_cannot_read_is_read(s3):
    """Keys that it has no name for are read by s3fs."""
    odd = [f"{s3}/a//b", f"{s3}/tab\tstop", f"{s3}/a b+c%20"]
    for uri in odd:
        storage.write_atomic(uri, uri.encode())
    assert [storage.read_bytes(uri, 1000) for uri in odd] == [uri.encode() for uri in odd]


def test_a_client_that_does_not_suit_is_left_alone(s3, monkeypatch):
    """Where only s3fs reaches the store, obstore is asked some times and then no more."""
    storage.write_atomic(f"{s3}/x", b"x")
    elsewhere = S3Store(
        "anywhere",
        endpoint="http://127.0.0.1:9",  # nobody listens
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    monkeypatch.setattr(ranges, "_buckets", {})
    monkeypatch.setattr(ranges, "_open", lambda *_: elsewhere)
    for _ in range(9):
        assert storage.read_bytes(f"{s3}/x", 9) == b"x"
    (bucket,) = ranges._buckets.values()
    assert bucket.misfits == ranges._MISFITS
