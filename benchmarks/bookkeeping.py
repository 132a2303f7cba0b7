"""What a job costs besides its images: planning, scheduling, writing, resuming, the final check.

    python -m benchmarks.bookkeeping [--images 1000000 10000000] [--shard-images 20] [--listings 1000000] [--requests]
                                     [--growth 1000000 10000000]

- `--images` runs a whole `classify` of a table with this many URIs. The code is the real one, except
  that no image is read, decoded or scored; the rows are made up. Then it resumes results that lack
  one shard in a hundred.
- `--shard-images` makes shards so small that few images have as many shards as a large job.
- `--listings` plans this many empty files in folders, and a tar and a zip with this many members.
- `--growth` plans a table with this many URIs, then finds the new ones of a table with one more in a
  hundred, in processor time.
- `--requests` counts the S3 requests for a shard of 2,048 images as objects, tar, zip and tar.gz,
  against a real server (SeaweedFS).

Every measurement runs in its own process, and is added to `benchmarks/bookkeeping.json` as soon as it is
known. The tables of `docs/scale.md` are then written from that file and from the rates in
`benchmarks/results.json`; without arguments, the command only writes the tables. A hundred million
images take about 5 GB of disk in `--scratch`.
"""

# ruff: noqa: SLF001 - it measures and replaces parts of the package

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
FOUND = Path(__file__).with_suffix(".json")
DOCUMENT = ROOT / "docs" / "scale.md"
RESULTS = Path(__file__).with_name("results.json")  # of `python -m benchmarks`
REQUEST_IMAGES = 2048
REQUEST_BYTES = 22_000  # of an image: as the photos of the other benchmarks
COLLECTIONS = {"ImageNet (train)": 1_281_167, "LAION-400M": 407_000_000, "LAION-5B": 5_850_000_000}
_ONCE = "once, to plan a folder of one image"
CORES = 256
# Assumptions, which docs/scale.md names.
CORE_HOUR_DOLLARS = 0.045
REQUEST_DOLLARS = 0.40e-6
# What the contenders are called, in the order of the table.
CONTENDERS = {
    "catdog by Ray, shipped model": "catdog by Ray, the model that ships, bfloat16",
    "catdog by Ray": "catdog by Ray, article, bfloat16",
    "catdog float32": "catdog, article, float32",
    "tf.data + predict": "tf.data + `model.predict`, article, float32",
    "tf.data, shipped model": "tf.data + `model.predict`, the model that ships, float32",
    "daft, shipped model": "Daft, the model that ships, float32",
    "ray read_images, shipped model": "Ray Data `read_images`, the model that ships, float32",
    "daft": "Daft, article, float32",
    "ray read_images": "Ray Data `read_images`, article, float32",
}


def in_process(*arguments: str) -> dict[str, Any]:
    """One measurement in a process of its own, whose peak memory is then its own."""
    command = [sys.executable, "-m", "benchmarks.bookkeeping", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def peak_mib() -> int:
    """The peak memory of this process, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


# --------------------------------------------------------------------------------------------
# Whole jobs


def measure_job(images: int, scratch: Path, shard_images: int | None = None) -> dict[str, Any]:
    """Run a job of this many images to its end, then resume it.

    With `shard_images` it has as many shards as a larger job, which shows what grows with the shards.
    """
    from benchmarks import preparation

    table, model, results = scratch / "images.parquet", scratch / "model", scratch / "results"
    shutil.rmtree(results, ignore_errors=True)
    make_table(table, images)
    if not model.exists():
        preparation.prepare_model(model)
    arguments = ["job", str(table), str(model), results.as_uri()]
    if shard_images is not None:
        arguments.append(f"--shard-images={shard_images}")
    first = in_process(*arguments)
    parts = sorted(results.glob("part-*"))
    plan = list((results / "_plan").iterdir())
    found = {
        "images": images,
        "plan_s": first["plan_s"],
        "plan_mb": round(sum(path.stat().st_size for path in plan) / 1e6, 1),
        "shards": len(parts),
        "shards_s": first["shards_s"],
        "check_s": round(first["survey_s"] / 2 + first["publish_s"], 2),  # before and after
        "driver_mib": first["driver_mib"],
        "actor_mib": first["actor_mib"],
        "files": len(parts) + len(plan) + 2,
        "part_kb": round(sum(part.stat().st_size for part in parts) / len(parts) / 1e3, 1),
    }
    (results / "_summary.json").unlink()
    for part in parts[::100]:
        part.unlink()
    again = in_process(*arguments, "--no-new")
    shutil.rmtree(results)
    return found | {
        "resume_shards": len(parts[::100]),
        "resume_listing_s": round(again["survey_s"] / 2, 2),
        "resume_s": again["seconds"],
        "resume_driver_mib": again["driver_mib"],
    }


def make_table(path: Path, images: int, classes: int = 0) -> None:
    """A table of URIs that look like a crawl's, with labels where there are classes.

    Nothing needs to be there: lists are not checked.
    """
    schema = pa.schema([(name, pa.string()) for name in ("uri", "label")[: 2 if classes else 1]])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, images, 100_000):
            numbers = range(start, min(start + 100_000, images))
            uris = [
                f"s3://crawl/photos/{number // 10_000:06d}/{number:010d}.jpg" for number in numbers
            ]
            columns = {"uri": uris}
            if classes:
                columns["label"] = [f"class-{number % classes:03d}" for number in numbers]
            writer.write_table(pa.table(columns, schema))


def run_job(table: str, model: str, output: str, *flags: str) -> None:
    """The driver of one run; prints its timings."""
    from catdog import machine
    from catdog.classification import ClassifyConfig, actors, classify, pipeline
    from catdog.results import drafts, ledger, part_files

    for flag in flags:
        if flag.startswith("--shard-images="):
            drafts.MAX_SHARD_IMAGES = int(flag.partition("=")[2])
    seconds: Counter[str] = Counter()
    actor_mib = [0]

    def timed(room: Any, name: str, step: str) -> None:
        function = getattr(room, name)

        def measured(*arguments: Any, **options: Any) -> Any:
            started = time.monotonic()
            try:
                return function(*arguments, **options)
            finally:
                seconds[f"{step}_s"] += time.monotonic() - started

        setattr(room, name, measured)

    class Told(pipeline.Told):
        @classmethod
        def from_row(cls, row: dict[str, Any]) -> Any:
            actor_mib[0] = max(actor_mib[0], row["peak_mib"])
            return super().from_row(row)

    pipeline.Told = Told  # type: ignore[misc]
    timed(drafts, "draft", "plan")
    timed(pipeline, "run", "shards")
    timed(part_files, "survey", "survey")
    timed(ledger, "publish", "publish")
    actors.ClassifyShards = _without_image_work()  # type: ignore[misc]
    started = time.monotonic()
    summary = classify(
        ClassifyConfig(
            images=(table,),
            output=output,
            model=model,
            no_new="--no-new" in flags,
            workers=machine.usable_cpus(),  # by Ray, however few are new
        )
    )
    told = {"seconds": time.monotonic() - started, **seconds}
    told = {name: round(value, 2) for name, value in told.items()}
    told |= {"planned": summary.planned, "new": summary.new, "driver_mib": peak_mib()}
    print(json.dumps(told | {"actor_mib": actor_mib[0]}))


def _without_image_work() -> type:
    """The classifying actor, whose images all have the same size and scores."""
    import numpy as np

    from catdog.classification import actors
    from catdog.pixels import OUTCOME_SCHEMA
    from catdog.results import part_files

    class Lane(actors.Lane):
        def classify(self, shard: int, *, present: bool) -> Any:
            now = time.time()
            work = part_files.begin(self._assignment.plan, shard, present=present)
            if work is None:
                return actors._done_before(self._assignment, shard)
            self._pulse.begin(shard)
            count = work.entries.num_rows
            chance = np.random.default_rng(shard)
            scores, embeddings = self._scorer.room_for(count)
            scores = chance.random(scores.shape, np.float32)
            row = {"width": 500, "height": 375, "format": "JPEG", "size": REQUEST_BYTES}
            outcome = pa.Table.from_pylist([row] * count, OUTCOME_SCHEMA)
            costs = actors.Costs(now, 0.0, 0.0, 0.0, now, 0)
            told = self._scorer.finish(work, outcome, scores, embeddings, costs)
            self._pulse.end()
            return told

    class WithoutImageWork(actors.ClassifyShards):
        def __init__(self, model: Any, assignment: Any, board: Any) -> None:
            actors.Lane = Lane  # in this worker's process
            super().__init__(model, assignment, board)

        def __call__(self, task: pa.Table) -> pa.Table:
            told = super().__call__(task)
            return told.append_column("peak_mib", pa.array([peak_mib()] * told.num_rows))

    return WithoutImageWork


# --------------------------------------------------------------------------------------------
# Listings


def measure_labelled(images: int, scratch: Path) -> dict[str, Any]:
    """The memory of a training's driver for this many images of 1,000 classes."""
    table = scratch / "labelled.parquet"
    make_table(table, images, classes=1000)
    found = in_process("labelled", str(table))
    table.unlink()
    return found


def measure_listings(count: int, scratch: Path) -> dict[str, Any]:
    """Planning of real files and of real archives with so many members, in all or each.

    Of a hundred tars once more with one core, as a process for each core lists archives.
    """
    found: dict[str, Any] = {}
    kinds = (("files", make_files), ("tar", make_tar), ("zip", make_zip), ("100 tars", make_tars))
    for kind, make in kinds:
        path = scratch / f"listing.{kind.replace(' ', '-')}"
        make(path, count)
        output = scratch / "plan-listing"
        found[kind] = in_process("plan", str(path), output.as_uri())
        shutil.rmtree(output)
        if kind == "100 tars":
            found["100 tars, one core"] = in_process("plan", str(path), output.as_uri(), "one core")
            shutil.rmtree(output)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def measure_growth(images: int, scratch: Path) -> dict[str, Any]:
    """Plan a table with this many URIs, then one with one more in a hundred."""
    table, more, output = scratch / "known.parquet", scratch / "more.parquet", scratch / "grown"
    make_table(table, images)
    make_table(more, images + images // 100)
    plan = in_process("plan", str(table), output.as_uri())
    new = in_process("new", str(more), output.as_uri())
    for path in (table, more):
        path.unlink()
    shutil.rmtree(output)
    return {
        "images": images,
        "plan_cpu_s": plan["cpu_s"],
        "plan_mib": plan["mib"],
        "new": new["new"],
        "new_cpu_s": new["cpu_s"],
        "new_mib": new["mib"],
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": os.cpu_count(),
    }


def run_new(source: str, output: str) -> None:
    """Finds what a listing has that a plan has not, and plans it; prints what that took."""
    import contextlib

    from catdog import inputs
    from catdog.results import changes, drafts, plans

    before = time.process_time()
    plan = plans.read(output)
    assert plan is not None
    listed = inputs.list_images([source], inputs.SourceLimits(), once=False)
    with contextlib.closing(changes.Changes(plan, listed)) as found:
        revised = found.revised([], drop_gone=False)
        draft = drafts.draft(plan.folder, found.new_entries(), before=plan, revised=revised)
        draft.commit(plan.job)
    told = {"new": found.counts.new, "mib": peak_mib()}
    print(json.dumps(told | {"cpu_s": round(time.process_time() - before, 1)}))


def run_plan(source: str, output: str, *flags: str) -> None:
    """Lists and writes a plan; prints how long it took and what memory."""
    if "one core" in flags:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from catdog import inputs
    from catdog.results import Folder, drafts

    started, before = time.monotonic(), time.process_time()
    draft = drafts.draft(
        Folder(output), inputs.list_images([source], inputs.SourceLimits(), once=False)
    )
    draft.commit("")
    seconds = time.monotonic() - started
    images = sum(draft.generation.images)
    told = {"images": images, "seconds": round(seconds, 1), "mib": peak_mib()}
    told |= {"images_per_s": round(images / seconds)}
    print(json.dumps(told | {"cpu_s": round(time.process_time() - before, 1)}))


def make_files(folder: Path, count: int) -> None:
    """Empty files, a thousand a folder."""
    for number in range(count):
        if number % 1000 == 0:
            (folder / f"{number // 1000:05d}").mkdir(parents=True)
        (folder / f"{number // 1000:05d}" / f"{number:08d}.jpg").touch()


def make_tar(path: Path, count: int) -> None:
    """Members of one byte."""
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            member = tarfile.TarInfo(f"cat/{number:08d}.jpg")
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))


def make_tars(folder: Path, count: int) -> None:
    """A hundred archives with so many members in all."""
    folder.mkdir()
    for number in range(100):
        make_tar(folder / f"{number:03d}.tar", count // 100)


def make_zip(path: Path, count: int) -> None:
    """Members of one byte."""
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            archive.writestr(f"cat/{number:08d}.jpg", b"x")


# --------------------------------------------------------------------------------------------
# Requests


def run_labelled(source: str) -> None:
    """Lists images for training; prints what memory that took, beyond what the imports took."""
    from catdog import inputs, training

    before = peak_mib()
    found = training.list_labelled([source], inputs.SourceLimits(), validation=0.1, test=0.0)
    kept = sum(array.nbytes for array in (found.classes, found.parts))
    told = {"images": found.entries.num_rows, "mib": peak_mib() - before}
    print(json.dumps(told | {"kept_mib": kept >> 20}))


def run_requests(folder: str) -> None:
    """Prints the S3 requests of a job, by step and by what holds the images."""
    from catdog import inputs, storage
    from catdog.results import Folder, drafts, part_files, plans
    from tests.conftest import S3Server

    server = S3Server(Path(folder))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(server.environment)
    server.start()
    limits = inputs.SourceLimits()
    drafts._MIN_SHARD_IMAGES = REQUEST_IMAGES  # one shard, of the size that large jobs have
    found: dict[str, dict[str, int]] = {}

    def plan_of(kind: str) -> plans.Plan:
        output = f"s3://pictures/results-{kind}"
        listed = inputs.list_images([f"s3://pictures/{kind}/"], limits, once=False)
        drafts.draft(Folder(output), listed).commit("")
        plan = plans.read(output)
        assert plan is not None
        return plan

    try:
        once: dict[str, int] = {}
        storage.write_atomic("s3://pictures/one/a.jpg", b"x")
        with counted(once, _ONCE):
            plan_of("one")
        for kind, content in contents().items():
            for name, data in content.items():
                storage.write_atomic(f"s3://pictures/{kind}/{name}", data)
            counts: dict[str, int] = {}
            with counted(counts, "plan"):
                plan = plan_of(kind)
            counts["plan"] -= once[_ONCE]
            assert plan.images == REQUEST_IMAGES
            tables = []
            with counted(counts, "read the plan"):
                tables = [plan.read_shard(shard) for shard in range(plan.shards)]
            with counted(counts, "read the images"):
                for table in tables:
                    for data in inputs.read_images(table, limits, threads=32):
                        assert isinstance(data, bytes)
            with counted(counts, "write the results"):
                for shard, table in enumerate(tables):
                    work = part_files.begin(plan, shard, present=False)
                    assert work is not None
                    rows = made_up_rows(table)
                    part_files.finish(work, rows, labels=("cat", "dog"), run="")
            with counted(counts, "final check"):
                assert part_files.survey(plan).done.all()
            found[kind] = once | counts | {"images": plan.images, "shards": plan.shards}
    finally:
        server.kill()
    print(json.dumps(found))


def contents() -> dict[str, dict[str, bytes]]:
    """The same images as objects and in archives."""
    import random

    images = {
        f"{number // 256}/{number:05d}.jpg": random.Random(number).randbytes(REQUEST_BYTES)
        for number in range(REQUEST_IMAGES)
    }
    plain, packed = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar, zipfile.ZipFile(packed, "w") as archive:
        for name, data in images.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            archive.writestr(name, data)
    return {
        "objects": images,
        "tar": {"a.tar": plain.getvalue()},
        "zip": {"a.zip": packed.getvalue()},
        "tar.gz": {"a.tar.gz": gzip.compress(plain.getvalue(), 1)},
    }


@contextlib.contextmanager
def counted(counts: dict[str, int], step: str) -> Iterator[None]:
    """Counts the requests that s3fs and obstore send within the block."""
    import obstore

    from catdog import storage

    client = storage.filesystem("s3://bucket/")[0]
    send, get = client._call_s3, obstore.get
    sent = 0

    async def counting_send(*arguments: Any, **options: Any) -> Any:
        nonlocal sent
        sent += 1
        return await send(*arguments, **options)

    def counting_get(*arguments: Any, **options: Any) -> Any:
        nonlocal sent
        sent += 1
        return get(*arguments, **options)

    client._call_s3, obstore.get = counting_send, counting_get
    try:
        yield
    finally:
        client._call_s3, obstore.get = send, get
    counts[step] = sent


def made_up_rows(entries: pa.Table) -> pa.Table:
    """Result rows of images that nobody looked at."""
    import numpy as np

    from catdog.pixels import OUTCOME_SCHEMA
    from catdog.results import part_files

    outcome = pa.Table.from_pylist([{"width": 1}] * entries.num_rows, OUTCOME_SCHEMA)
    return part_files.build_rows(
        entries["uri"],
        outcome,
        np.full((entries.num_rows, 2), 0.5, np.float32),
        labels=("cat", "dog"),
        min_probability=0,
        model="0" * 64,
    )


# --------------------------------------------------------------------------------------------
# Tables


def tables(found: dict[str, Any]) -> dict[str, str]:
    """The document's tables by name."""
    jobs = [found["jobs"][key] for key in sorted(found.get("jobs", {}), key=int)]
    rows = [
        ("images", lambda job: f"{job['images']:,}"),
        ("planning, s (images/s)", lambda job: _rate(job, "plan_s")),
        ("plan on disk, MB", lambda job: f"{job['plan_mb']:,}"),
        ("shards = part files", lambda job: f"{job['shards']:,}"),
        ("size of a part file, kB", lambda job: f"{job['part_kb']:,}"),
        ("all shards scheduled and written, s (images/s)", lambda job: _rate(job, "shards_s")),
        ("final check, s", lambda job: f"{job['check_s']:,}"),
        ("resume: finding what is done, s", lambda job: f"{job['resume_listing_s']:,}"),
        ("resume of 99 %, whole process, s", lambda job: f"{job['resume_s']:,}"),
        ("driver's memory at its peak, MiB", lambda job: f"{job['driver_mib']:,}"),
        ("the same in the resume, MiB", lambda job: f"{job['resume_driver_mib']:,}"),
        ("largest actor's, MiB", lambda job: f"{job['actor_mib']:,}"),
    ]
    written = {}
    if jobs:
        written["jobs"] = _table([[name, *map(cell, jobs)] for name, cell in rows])
    if "growth" in found:
        grown = [found["growth"][key] for key in sorted(found["growth"], key=int)]
        lines = {
            "images": lambda told: f"{told['images']:,}",
            "planning, processor s (images/s)": lambda told: _rate(told, "plan_cpu_s"),
            "its memory at the peak, MiB": lambda told: f"{told['plan_mib']:,}",
            "finding and planning 1 % new, processor s": lambda told: f"{told['new_cpu_s']:,}",
            "its memory at the peak, MiB ": lambda told: f"{told['new_mib']:,}",
            "measured": lambda told: f"{told['date']}, {told['cores']} cores",
        }
        written["growth"] = _table(
            [[name.strip(), *map(cell, grown)] for name, cell in lines.items()]
        )
    if "listings" in found:
        written["listings"] = _table(
            [
                ["input", "images", "s", "images/s", "peak memory, MiB"],
                *(
                    [
                        kind,
                        *(f"{told[key]:,}" for key in ("images", "seconds", "images_per_s", "mib")),
                    ]
                    for kind, told in found["listings"].items()
                ),
            ]
        )
    if "requests" in found:
        steps = [step for step in found["requests"]["tar"] if step not in ("images", "shards")]
        kinds = found["requests"].items()
        per_image = {
            kind: sum(told[step] for step in steps if step != _ONCE) / told["images"]
            for kind, told in kinds
        }
        written["requests"] = _table(
            [
                ["requests", *(kind for kind, _ in kinds)],
                *([step, *(f"{told[step]:,}" for _, told in kinds)] for step in steps),
                [
                    "per image, without the first row",
                    *(f"{requests:.3f}" for requests in per_image.values()),
                ],
            ]
        )
        rates = _rates()
        written["rates"] = _table(
            [
                ["here", "images/s a core", "LAION-400M, core hours"],
                *(
                    [shown, f"{rates[name]:,.0f}", f"{_core_hours('LAION-400M', rates[name]):,.0f}"]
                    for name, shown in CONTENDERS.items()
                    if name in rates
                ),
            ]
        )
        columns = ["images, millions", "core hours", f"on {CORES} cores", "computing"]
        columns += ["requests, single objects", "requests, in tars"]
        written["estimates"] = _table(
            [
                ["", *columns],
                *(
                    _estimate(name, rates["catdog by Ray"], per_image["objects"], per_image["tar"])
                    for name in COLLECTIONS
                ),
            ]
        )
    return written


def _rates() -> dict[str, float]:
    """Images a second and core of each contender, start-up left out."""
    record = json.loads(RESULTS.read_text())
    rounds, workers = record["rounds"], record["workers"]
    return {
        name: statistics.median(each[name]["images_per_s"] for each in rounds) / workers
        for name in CONTENDERS
        if all(name in each for each in rounds)
    }


def _core_hours(collection: str, rate: float) -> float:
    return COLLECTIONS[collection] / rate / 3600


def _estimate(collection: str, rate: float, objects: float, tars: float) -> list[str]:
    """The row of a collection, from images a second and core, and requests an image."""
    from catdog import terminal

    images, hours = COLLECTIONS[collection], _core_hours(collection, rate)
    dollars = [hours * CORE_HOUR_DOLLARS]
    dollars += [images * requests * REQUEST_DOLLARS for requests in (objects, tars)]
    return [
        collection,
        f"{images / 1e6:,.1f}",
        f"{hours:,.1f}",
        terminal.duration(hours * 3600 / CORES),
        *(f"${each:,.2f}" for each in dollars),
    ]


def _rate(job: dict[str, Any], key: str) -> str:
    return f"{job[key]:,} ({job['images'] / max(job[key], 0.01):,.0f})"


def _table(rows: list[list[str]]) -> str:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "| --- " * len(rows[0]) + "|", *body]) + "\n"


def with_tables(text: str, found: dict[str, Any]) -> str:
    """The document with its tables written anew, each between its two comments."""
    for name, table in tables(found).items():
        pattern = rf"(<!-- {name}: .*?-->\n).*?(<!-- end -->)"
        text = re.sub(
            pattern, lambda match, table=table: match[1] + table + match[2], text, flags=re.DOTALL
        )
    return text


def write_tables() -> None:
    """Write the document's tables anew, from what has been found until now."""
    found = json.loads(FOUND.read_text())
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(), found))


def _record(path: Path, key: str, value: dict[str, Any]) -> None:
    """Put a finding beside the earlier ones."""
    found = json.loads(path.read_text()) if path.exists() else {}
    cores = os.cpu_count()
    found["machine"] = f"{cores} cores, {platform.machine()}, Python {platform.python_version()}"
    found[key] = found.get(key, {}) | value
    path.write_text(json.dumps(found, indent=2) + "\n")


def _scratch(parent: Path | None) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="catdog-bookkeeping-", dir=parent)


def main() -> None:
    """Measure what is asked for, and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bookkeeping", description=__doc__)
    parser.add_argument("--images", type=int, nargs="*", default=[])
    parser.add_argument("--shard-images", type=int, default=None)
    parser.add_argument("--listings", type=int, default=0)
    parser.add_argument("--growth", type=int, nargs="*", default=[])
    parser.add_argument("--labelled", type=int, nargs="*", default=[])
    parser.add_argument("--requests", action="store_true")
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--found", type=Path, default=FOUND)
    arguments = parser.parse_args()
    with _scratch(arguments.scratch) as name:
        scratch = Path(name)
        for images in arguments.images:
            found = measure_job(images, scratch, arguments.shard_images)
            kind = "jobs" if arguments.shard_images is None else "jobs of small shards"
            _record(arguments.found, kind, {str(images): found})
            print(f"{images:,} images: done", file=sys.stderr)
        for images in arguments.growth:
            _record(arguments.found, "growth", {str(images): measure_growth(images, scratch)})
        if arguments.listings:
            _record(arguments.found, "listings", measure_listings(arguments.listings, scratch))
        for images in arguments.labelled:
            _record(arguments.found, "labelled", {str(images): measure_labelled(images, scratch)})
        if arguments.requests:
            (scratch / "server").mkdir()
            told = in_process("requests", str(scratch / "server"))
            _record(arguments.found, "requests", told)
    found = json.loads(arguments.found.read_text())
    print("\n".join(tables(found).values()))
    if arguments.found == FOUND:
        write_tables()


if __name__ == "__main__":
    STEPS: dict[str, Callable[..., None]] = {
        "job": run_job,
        "plan": run_plan,
        "new": run_new,
        "labelled": run_labelled,
        "requests": run_requests,
    }
    if sys.argv[1:2] and sys.argv[1] in STEPS:
        STEPS[sys.argv[1]](*sys.argv[2:])
    else:
        main()
