"""Planning at scale: entries per second and the driver's memory, the image work left out.

    python -m benchmarks.planning [--files 1000000] [--members 1000000]

Lists a folder of that many files and a tar of that many members, writes the plan, reads it back,
and counts. Resume and final check are measured on that many result rows. Prints a JSON object.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PLAN = """
import json, resource, sys, time
from catdog import plans, sources
started = time.monotonic()
batches = sources.list_images([sys.argv[1]], sources.SourceLimits())
plan = plans.write(sys.argv[2], batches)
seconds = time.monotonic() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"images": plan.images, "shards": plan.shards, "seconds": round(seconds, 1),
                  "images_per_s": round(plan.images / seconds), "peak_mib": round(peak)}))
"""

CHECK = """
import json, resource, sys, time
import numpy as np, pyarrow as pa
from catdog import plans, results
from catdog.decoding import OUTCOME_SCHEMA
plan = plans.read(sys.argv[1])
for shard in range(plan.shards):
    entries = plan.read_shard(shard)
    n = entries.num_rows
    outcome = pa.table({name: pa.nulls(n, OUTCOME_SCHEMA.field(name).type)
                        for name in OUTCOME_SCHEMA.names})
    scores = np.tile(np.array([[0.25, 0.75]], np.float32), (n, 1))
    rows = results.build_rows(entries["uri"], outcome, scores, labels=("cat", "dog"),
                              min_probability=0, model="0" * 64)
    results.write_part(plan, shard, rows, ("cat", "dog"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
started = time.monotonic()
counts = results.total(results.count_parts(plan).values())
seconds = time.monotonic() - started
assert counts.images == plan.images
print(json.dumps({"images": counts.images, "files": plan.shards, "seconds": round(seconds, 1),
                  "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}))
"""


def in_process(code: str, *arguments: str) -> dict[str, float]:
    """Run code in a process of its own, whose peak memory is then its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True
    )
    told: dict[str, float] = json.loads(done.stdout)
    return told


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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning", description=__doc__)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--members", type=int, default=1_000_000)
    arguments = parser.parse_args()
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="catdog-planning-") as name:
        scratch = Path(name)
        make_files(scratch / "files", arguments.files)
        output = (scratch / "from-files").as_uri()
        found["plan files"] = in_process(PLAN, str(scratch / "files"), output)
        found["final check"] = in_process(CHECK, output)
        make_tar(scratch / "a.tar", arguments.members)
        output = (scratch / "from-tar").as_uri()
        found["plan tar"] = in_process(PLAN, str(scratch / "a.tar"), output)
    found["own peak MiB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
