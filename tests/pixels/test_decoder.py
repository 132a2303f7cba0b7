"""The child process that decodes: same pixels, and nothing lost, whatever ends it."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from catdog.errors import CatdogError, ImageRejected
from catdog.inputs import PLAN_SCHEMA, SourceLimits
from catdog.pixels import OUTCOME_SCHEMA, DecodedBatch, DecodeLimits, Decoder, Preprocessing, decode
from catdog.pixels.child import memory_bound
from catdog.storage import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SMALL = Preprocessing(16, 16)
LIMITS = DecodeLimits()


def table(*paths: Path, **columns: object) -> pa.Table:
    """Plan entries for plain files."""
    rows = [
        {"uri": f"file://{path}", "name": path.name, "codec": "file", **columns} for path in paths
    ]
    return pa.Table.from_pylist(rows, schema=PLAN_SCHEMA)


def decoder(
    limits: DecodeLimits = LIMITS, *, batch_size: int = 8, preprocessing: Preprocessing = SMALL
) -> contextlib.closing[Decoder]:
    sources = SourceLimits(max_bytes=8 << 20, bytes_in_flight=8 << 20)
    return contextlib.closing(Decoder(preprocessing, limits, sources, batch_size))


class Collected:
    """All batches of a decode, copied; checks on the way that they follow each other."""

    def __init__(self, batches: Iterator[DecodedBatch]) -> None:
        self.pixels: dict[int, np.ndarray] = {}
        self.outcomes: list[dict[str, object]] = []
        self.batches = 0
        self.bytes_read = 0
        for batch in batches:
            assert batch.start == len(self.outcomes)
            assert batch.stop == batch.start + batch.outcomes.num_rows
            assert batch.outcomes.schema == OUTCOME_SCHEMA
            assert len(batch.rows) == len(batch.pixels)
            self.outcomes += batch.outcomes.to_pylist()
            self.pixels |= dict(zip(batch.rows.tolist(), batch.pixels.copy(), strict=True))
            self.batches += 1
            self.bytes_read += batch.bytes_read
        errors = [row["error"] for row in self.outcomes]
        assert sorted(self.pixels) == [i for i, error in enumerate(errors) if error is None]

    def errors(self) -> dict[int, object]:
        """Position -> reason code of the rejected."""
        return {i: row["error"] for i, row in enumerate(self.outcomes) if row["error"]}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Forty small pictures in several formats and sizes."""
    folder = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(3)
    paths = []
    for number in range(40):
        format_ = ("jpeg", "png", "webp", "gif")[number % 4]
        path = folder / f"{number:02}.{format_}"
        size = (40 + 7 * number, 60 + 5 * (number % 9))
        coarse = Image.fromarray(noise.integers(0, 255, (4, 5, 3), np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a few hundred bytes that takes about a second to decode."""
    path = tmp_path_factory.mktemp("slow") / "slow.jp2"
    Image.new("L", (5000, 5000)).save(path)
    return path


def when_decoding(decoding: Decoder, position: int, action: Callable[[], None]) -> threading.Thread:
    """Does something while the child decodes the entry at a position."""

    def wait() -> None:
        while decoding._memory.decoding()[0] != position:
            time.sleep(0.001)
        action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def crash_on(
    decoding: Decoder, *positions: int, number: int = signal.SIGKILL, times: int = 2
) -> None:
    """Ends, so many times each, the child that decodes an entry at one of these positions."""
    left = dict.fromkeys(positions, times)
    ended = set()

    def watch() -> None:
        while any(left.values()):
            position, pid = decoding._memory.decoding()[0], decoding.child_pid
            if pid not in ended and left.get(position, 0):
                ended.add(pid)
                left[position] -= 1
                kill_child(decoding, number)
            time.sleep(0.001)

    threading.Thread(target=watch, daemon=True).start()


def kill_child(decoding: Decoder, number: int = signal.SIGKILL) -> None:
    assert decoding.child_pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(decoding.child_pid, number)


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends_soon(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_alive(pid)


def test_pixels_are_those_of_decode(photos):
    """A Decoder gives the very pixels of `decode`, and the originals' facts."""
    for preprocessing in (SMALL, Preprocessing(20, 30, "pad")):
        with decoder(preprocessing=preprocessing) as decoding:
            collected = Collected(decoding.decode(table(*photos)))
        assert collected.batches == 5
        assert collected.bytes_read == sum(path.stat().st_size for path in photos)
        for i, path in enumerate(photos):
            expected = decode(path.read_bytes(), preprocessing, LIMITS)
            assert np.array_equal(collected.pixels[i], expected.pixels)
            assert collected.outcomes[i] == {
                "width": expected.width,
                "height": expected.height,
                "format": expected.format,
                "size": path.stat().st_size,
                "error": None,
                "error_detail": None,
                "decoded": 1.0,
            }


def test_rejected_images_have_a_row_each(photos, tmp_path):
    """Broken, empty and missing files get their reasons, their neighbours their pixels."""
    cut, empty, page = tmp_path / "cut.jpeg", tmp_path / "empty.png", tmp_path / "page.gif"
    cut.write_bytes(photos[0].read_bytes()[:200])
    empty.touch()
    page.write_bytes("<html>Ä</html>".encode())
    paths = [photos[0], cut, photos[1], empty, tmp_path / "none.jpg", page, photos[2]]
    with decoder(batch_size=4) as decoding:
        collected = Collected(decoding.decode(table(*paths)))
    assert collected.errors() == {1: "truncated", 3: "empty", 4: "missing", 5: "not-an-image"}
    assert collected.outcomes[1]["size"] == 200
    assert collected.outcomes[4]["size"] is None
    for i in (0, 2, 6):
        expected = decode(paths[i].read_bytes(), SMALL, LIMITS)
        assert np.array_equal(collected.pixels[i], expected.pixels)


def test_only_rejected_images(tmp_path):
    """A batch without a single picture has rows and no pixels."""
    with decoder() as decoding:
        (batch,) = decoding.decode(table(*[tmp_path / f"{i}.png" for i in range(5)], size=99))
        assert batch.pixels.shape == (0, 16, 16, 3)
        assert batch.outcomes["error"].to_pylist() == ["missing"] * 5
        assert batch.outcomes["size"].to_pylist() == [99] * 5


def test_one_child_serves_many_tables(photos):
    """Tables follow each other, empty ones too, without a new process."""
    with decoder() as decoding:
        pid = decoding.child_pid
        for count in (40, 0, 1, 8, 9, 40):
            collected = Collected(decoding.decode(table(*photos[:count])))
            assert len(collected.pixels) == count
        assert decoding.child_pid == pid
    assert pid is not None
    assert not is_alive(pid)


@pytest.mark.slow
def test_leaving_half_way(photos):
    """Who stops listening half-way can decode another table, whose rows are its own."""
    with decoder() as decoding:
        for batch in decoding.decode(table(*photos)):
            assert batch.start == 0
            break
        collected = Collected(decoding.decode(table(*photos[20:])))
        for i, path in enumerate(photos[20:]):
            expected = decode(path.read_bytes(), SMALL, LIMITS)
            assert np.array_equal(collected.pixels[i], expected.pixels)


def test_one_table_at_a_time(photos):
    """Two decodes at once would share slots: refused."""
    with decoder() as decoding:
        first = decoding.decode(table(*photos))
        next(first)
        with pytest.raises(RuntimeError):
            next(decoding.decode(table(*photos)))
        first.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_costs_one_image(photos, slow, number):
    """What ends the child twice gets a row that names the signal; all others their pixels."""
    paths = [*photos[:19], slow, *photos[19:]]
    with decoder() as decoding:
        crash_on(decoding, 19, number=number)
        collected = Collected(decoding.decode(table(*paths)))
        assert collected.errors() == {19: "crashed"}
        assert number.name in str(collected.outcomes[19]["error_detail"])
        assert collected.outcomes[19]["size"] == slow.stat().st_size
        for i, path in enumerate(paths):
            if path != slow:
                expected = decode(path.read_bytes(), SMALL, LIMITS)
                assert np.array_equal(collected.pixels[i], expected.pixels)
        assert Collected(decoding.decode(table(*photos))).errors() == {}


@pytest.mark.slow
def test_one_death_is_nobodys_fault(photos, slow):
    """What the kernel ends for want of memory is tried again, alone: no image is blamed for it."""
    places = (0, 5, 8, 19)  # first and last of all, inside of a batch, first of one
    paths = [slow if number in places else photos[number] for number in range(20)]
    with decoder() as decoding:
        crash_on(decoding, *places, times=1)
        batches = [
            (batch.start, batch.stop, batch.outcomes["error"].null_count)
            for batch in decoding.decode(table(*paths))
        ]
        assert {(place, place + 1, 1) for place in places} <= set(batches), "alone"
        assert sum(decoded for _, _, decoded in batches) == len(paths)
        assert Collected(decoding.decode(table(*photos))).errors() == {}


@pytest.mark.slow
def test_crashes_at_the_edges(photos, slow):
    """The first, the last, and two crashing images in a row cost one row each."""
    paths = [slow, *photos[:7], slow, slow, photos[7], slow]
    with decoder() as decoding:
        crash_on(decoding, 0, 8, 9, 11, number=signal.SIGSEGV)
        collected = Collected(decoding.decode(table(*paths)))
    assert collected.errors() == dict.fromkeys((0, 8, 9, 11), "crashed")


@pytest.mark.slow
def test_random_kills_lose_nothing(photos):
    """Killed at any moment, again and again, it gives every image, and its pixels."""
    paths = photos * 5
    chance = random.Random(1)
    kills = 0
    with decoder() as decoding:
        finished = threading.Event()

        def kill_again_and_again() -> None:
            nonlocal kills
            killed, place = None, -1
            while not finished.is_set() and kills < 5:
                # Once it is at work: a child that never gets that far ends the job instead. And not
                # twice at the same image, which would be blamed.
                if decoding.child_pid != killed and decoding._memory.decoding()[0] > place + 1:
                    time.sleep(chance.random() * 0.02)
                    killed, place = decoding.child_pid, decoding._memory.decoding()[0]
                    kill_child(decoding)
                    kills += 1
                time.sleep(0.0005)

        thread = threading.Thread(target=kill_again_and_again)
        thread.start()
        collected = Collected(decoding.decode(table(*paths)))
        finished.set()
        thread.join()
    assert kills
    assert len(collected.outcomes) == len(paths)
    assert collected.errors() == {}
    for i, pixels in collected.pixels.items():
        expected = decode(paths[i].read_bytes(), SMALL, LIMITS)
        assert np.array_equal(pixels, expected.pixels)


@pytest.mark.slow
def test_killed_while_idle(photos):
    """A child killed between two tables is replaced, and no image is blamed."""
    with decoder() as decoding:
        assert Collected(decoding.decode(table(*photos))).errors() == {}
        kill_child(decoding)
        assert Collected(decoding.decode(table(*photos))).errors() == {}


@pytest.mark.slow
def test_killed_while_the_caller_works(photos):
    """Batches that were finished before the child died are still delivered."""
    with decoder() as decoding:
        batches = decoding.decode(table(*photos))
        first = next(batches).pixels.copy()
        time.sleep(0.3)  # it has filled the other slots and waits
        kill_child(decoding)
        rest = [batch.outcomes["error"].null_count for batch in batches]
        assert len(first) + sum(rest) == 40


def test_a_child_that_cannot_live_fails_the_job(photos):
    """Killed always before it does anything, it is not started for ever."""
    with decoder() as decoding:
        finished = threading.Event()

        def kill_at_once() -> None:
            while not finished.is_set():
                kill_child(decoding)
                time.sleep(0.005)

        thread = threading.Thread(target=kill_at_once)
        thread.start()
        with pytest.raises(CatdogError, match="SIGKILL"):
            Collected(decoding.decode(table(*photos)))
        finished.set()
        thread.join()


@pytest.mark.slow
def test_a_child_that_cannot_start_says_why(photos, monkeypatch, tmp_path):
    """What Python says on its way out is part of the error."""
    (tmp_path / "PIL.py").write_text("raise ImportError('no such library')")
    monkeypatch.syspath_prepend(tmp_path)
    with decoder() as decoding, pytest.raises(CatdogError, match=r"exit code 1, .*such library"):
        Collected(decoding.decode(table(*photos)))


@pytest.mark.slow
def test_an_unusable_store_is_no_images_fault(photos, monkeypatch):
    """What concerns the whole store is raised as what it is, and the Decoder can go on."""
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    row = {"uri": "s3://bucket/a.jpg", "name": "a.jpg", "codec": "file"}
    with decoder() as decoding:
        with pytest.raises(CredentialsError, match="no profile no-such-profile"):
            Collected(decoding.decode(pa.Table.from_pylist([row], schema=PLAN_SCHEMA)))
        assert Collected(decoding.decode(table(*photos))).errors() == {}


@pytest.mark.slow
def test_too_long_is_a_timeout(photos, slow):
    """An image over the time limit is rejected, and not its neighbours."""
    paths = [*photos[:5], slow, *photos[5:10]]
    with decoder(DecodeLimits(timeout_s=0.25)) as decoding:
        # Stopped, it takes for ever, however fast the machine is.
        when_decoding(decoding, 5, lambda: kill_child(decoding, signal.SIGSTOP))
        began_at = time.monotonic()
        collected = Collected(decoding.decode(table(*paths)))
        assert collected.errors() == {5: "timeout"}
        assert "0.25 s" in str(collected.outcomes[5]["error_detail"])
        assert time.monotonic() - began_at < 5


_ON_A_MACHINE_THAT_STANDS_STILL = """
import sys
from pathlib import Path
from pixels.test_decoder import Collected, DecodeLimits, decoder, table, when_decoding

with decoder(DecodeLimits(timeout_s=10)) as decoding:
    when_decoding(decoding, 0, lambda: print(decoding.child_pid, flush=True))
    print(Collected(decoding.decode(table(Path(sys.argv[1])))).errors())
"""


@pytest.mark.slow
def test_a_machine_that_stands_still_costs_no_image(slow):
    """A suspended laptop or a paused virtual machine: the clock goes on, and nothing is decoded."""
    command = [sys.executable, "-c", _ON_A_MACHINE_THAT_STANDS_STILL, str(slow)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        for number in (signal.SIGSTOP, signal.SIGCONT):
            os.kill(process.pid, number)
            os.kill(child, number)
            time.sleep(12 if number == signal.SIGSTOP else 0)
        assert process.stdout.read() == "{}\n"


@pytest.mark.slow
def test_many_scans_are_a_timeout(photos, tmp_path):
    """A progressive JPEG of 300 scans, each over 16 megapixels, ends at the time limit."""
    stream = io.BytesIO()
    Image.new("L", (4096, 4096), 90).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    many = tmp_path / "many.jpeg"
    many.write_bytes(data[:-2] + last * 300 + data[-2:])
    assert many.stat().st_size < 2 << 20, "a small file"
    with decoder(DecodeLimits(timeout_s=0.3)) as decoding:
        collected = Collected(decoding.decode(table(photos[0], many, photos[1])))
    assert collected.errors() == {1: "timeout"}


def test_only_decoding_counts_as_decoding_time(photos):
    """A slow caller, or a child that waits for bytes for long, is no reason to reject."""
    with decoder(DecodeLimits(timeout_s=0.2)) as decoding:
        batches = decoding.decode(table(*photos))
        rejected = next(batches).outcomes["error"].drop_null().to_pylist()
        time.sleep(0.5)  # it has filled the other slots and waits
        kill_child(decoding, signal.SIGSTOP)
        threading.Timer(0.5, lambda: kill_child(decoding, signal.SIGCONT)).start()
        for batch in batches:
            rejected += batch.outcomes["error"].drop_null().to_pylist()
    assert rejected == []


def test_too_much_memory_is_too_large(photos, tmp_path):
    """An image that needs more memory than the limit is rejected, and the child lives on."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + header, b"IDAT" + zlib.compress(bytes(10_000)), b"IEND"):
        data += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(data)
    limits = DecodeLimits(max_pixels=2 * 10**9, memory_bytes=1 << 20)
    with decoder(limits) as decoding:
        pid = decoding.child_pid
        collected = Collected(decoding.decode(table(photos[0], bomb, photos[1])))
        assert collected.errors() == {1: "too-large"}
        assert decoding.child_pid == pid


LARGEST = {  # what takes most memory of its format: extension, mode, how it is saved
    "jpg": ("RGB", {"progressive": True, "subsampling": 0}),
    "cmyk.jpg": ("CMYK", {"progressive": True}),
    "png": ("RGBA", {"compress_level": 1}),
    "grey.png": ("I;16", {"compress_level": 1}),
    "tif": ("RGBA", {"compression": "tiff_lzw"}),
    "grey.tif": ("F", {"compression": "tiff_lzw"}),
    "gif": ("P", {}),
    "webp": ("RGBA", {"lossless": True, "method": 0}),
    "jp2": ("RGBA", {}),
    "avif": ("RGB", {"speed": 10}),
    "tga": ("RGBA", {"compression": "tga_rle"}),
    "sgi": ("RGB", {}),
    "bmp": ("RGB", {}),
}


@pytest.mark.slow
def test_memory_of_the_largest_images(tmp_path):
    """A folder of images that are just permitted, in every format, several times over.

    With limits a sixtieth of the default ones, each is decoded, and the process stays within
    `memory_bound`, less what that reserves for S3 and encoded images.
    """
    width, height = 2000, 1000
    share = width * height / LIMITS.max_pixels
    limits = DecodeLimits(max_pixels=width * height, memory_bytes=int(LIMITS.memory_bytes * share))
    small = tmp_path / "small.png"
    Image.new("L", (9, 9)).save(small)
    paths = []
    for name, (mode, options) in LARGEST.items():
        paths.append(tmp_path / f"large.{name}")
        Image.new(mode, (width, height)).save(paths[-1], **options)
    sources = SourceLimits(max_bytes=32 << 20, bytes_in_flight=32 << 20)
    with contextlib.closing(Decoder(SMALL, limits, sources, 8)) as decoding:
        peaks = []
        for entries in (table(small), table(*paths), table(*paths * 2)):
            assert Collected(decoding.decode(entries)).errors() == {}
            peaks.append(peak_bytes(decoding))
    encoded = sources.bytes_in_flight + max(path.stat().st_size for path in paths)
    assert peaks[2] - peaks[0] < limits.memory_bytes + encoded
    assert limits.memory_bytes + encoded < memory_bound(limits, sources)
    assert peaks[2] - peaks[1] < 24 << 20, "it does not grow"


def peak_bytes(decoding: Decoder) -> int:
    """Most memory that the child ever had."""
    status = Path(f"/proc/{decoding.child_pid}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


PARENT = """
import sys, time
from pathlib import Path
from tests.pixels.test_decoder import decoder, table
with decoder() as decoding:
    batches = decoding.decode(table(*map(Path, sys.argv[1:])))
    next(batches)
    print(decoding.child_pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("busy", [True, False])
def test_the_child_ends_with_its_parent(photos, slow, busy):
    """Killed, a parent leaves no process behind, be it decoding or idle."""
    paths = [*photos[:8], *([slow] * 20 if busy else [])]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, *map(str, paths)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
        assert ends_soon(pid)


def test_the_child_outlives_the_thread_that_started_it(photos):
    """Ray's actors use many threads: that one of them ends is no reason to."""
    with contextlib.ExitStack() as stack:
        started: list[Decoder] = []
        thread = threading.Thread(target=lambda: started.append(stack.enter_context(decoder())))
        thread.start()
        thread.join()
        time.sleep(0.05)
        (decoding,) = started
        pid = decoding.child_pid
        assert Collected(decoding.decode(table(*photos))).errors() == {}
        assert decoding.child_pid == pid


def test_libtiff_says_nothing(photos, tmp_path, capfd):
    """Native code's complaints about images do not reach the log."""
    data = bytearray()
    stream = io.BytesIO()
    Image.open(photos[0]).save(stream, "TIFF", compression="tiff_lzw")
    data[:] = stream.getvalue()
    data[100:400] = b"\xff" * 300
    path = tmp_path / "broken.tiff"
    path.write_bytes(data)
    with pytest.raises(ImageRejected):
        decode(bytes(data), SMALL, LIMITS)
    assert capfd.readouterr().err != "", "in-process, libtiff speaks"
    with decoder() as decoding:
        assert Collected(decoding.decode(table(path))).errors() == {0: "truncated"}
    assert capfd.readouterr().err == ""
