"""The measured figures in the documents, from the files of figures in benchmarks/.

    python docs/figures.py

writes them anew, between the two comments that mark each one. `tests/test_docs.py` fails where a
figure is not what this would write, and where a rate stands outside of such a place.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
DOCUMENTS = (ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("decisions/*.md")))
_MARKED = re.compile(
    r"(<!-- figures of (\w+)(?:: (\w+))?; `python docs/figures\.py` writes them -->\n)"
    r".*?(<!-- end -->)",
    re.DOTALL,
)


def speed(found: dict[str, Any]) -> str:
    """Of `python -m benchmarks`: whole jobs side by side."""
    rounds, ratios = found["rounds"], found["ratios_by_round"]

    def each(values: Any, form: str) -> str:
        return ", ".join(format(value, form) for value in values)

    def row(title: str, name: str, ratio: str | None = None) -> list[str]:
        return [
            title,
            each((told[name]["seconds"] for told in rounds), ".1f"),
            each((told[name]["images_per_s"] for told in rounds), ",.0f"),
            "" if ratio is None else each((told[ratio] for told in ratios), ".2f"),
        ]

    titles = {
        "tf.data": "tf.data + `model.predict`",
        "ray read_images": "Ray Data `read_images`",
        "daft": "Daft",
    }
    table = _table(
        [
            "",
            f"seconds, whole job, {len(rounds)} rounds",
            "images/s, steady",
            "catdog needs this share of its time",
        ],
        [
            row("catdog, the model that ships", "catdog, shipped model"),
            row("catdog by Ray (`--workers 2`), that model", "catdog by Ray, shipped model"),
            *(
                row(
                    f"{title}, that model",
                    f"{peer}, shipped model",
                    f"whole, shipped model: catdog / {peer}",
                )
                for peer, title in titles.items()
            ),
            row("catdog, the article's CNN (bfloat16, chosen for the CPU)", "catdog"),
            row("catdog by Ray, that CNN", "catdog by Ray"),
            row("catdog, that CNN in float32", "catdog float32"),
            row(f"{titles['tf.data']}, that CNN", "tf.data + predict", "whole: catdog / tf.data"),
            row(
                f"{titles['ray read_images']}, that CNN",
                "ray read_images",
                "whole: catdog / ray read_images",
            ),
            row(f"{titles['daft']}, that CNN", "daft", "whole: catdog / daft"),
        ],
    )
    limits = " and ".join(f"{told['bare']['images_per_s']:,.0f}" for told in rounds)
    shipped = " and ".join(f"{told['bare, shipped model']['images_per_s']:,.0f}" for told in rounds)
    own, by_ray, same, full, first = (
        " and ".join(f"{told[name]:.{digits}f}" for told in ratios)
        for name, digits in (
            ("steady: catdog / bare limit, shipped model", 2),
            ("steady: catdog by Ray / bare limit, shipped model", 2),
            ("steady: catdog / bare limit, same precision", 2),
            ("steady: catdog / bare limit, float32", 2),
            ("first image: catdog by Ray / (ray.init + import tensorflow)", 1),
        )
    )
    theirs, ours, rays = (
        " and ".join(f"{told[name]['first_image_s']:.1f}" for told in rounds)
        for name in (
            "tf.data, shipped model",
            "catdog, shipped model",
            "catdog by Ray, shipped model",
        )
    )
    resumes = " and ".join(f"{told['resume of 99 %']['seconds']:.1f}" for told in rounds)
    return f"""{found["images"]:,} photos, every contender as a whole process, side by side ({_where(found)}; `make bench`):

{table}
Without `--workers` or an address, a job of this size runs in the command's own process ([why](docs/decisions/020-small-jobs.md)); larger
ones and clusters use Ray. The bare limit is the throughput of two processes that only read, decode and score, and share no code with
catdog. With the model that ships it is {shipped} images/s; catdog reaches {own} of it, and {by_ray} by Ray. With the article's CNN it
is {limits} images/s, and catdog reaches {same}; in float32, {full}. With the model that ships, tf.data classifies its first image after
{theirs} s, catdog after {ours} s, and by Ray after {rays} s: {first} times as long as `ray.init` and `import tensorflow`. To resume a job
that is 99 % done took {resumes} s.
"""


def earlier(found: dict[str, Any]) -> str:
    """Of `python -m benchmarks`, on another machine: how much the ratios depend on it."""
    ratios = found["ratios"]
    tf_data, ray, daft = (
        ratios[f"whole: catdog / {name}"] for name in ("tf.data", "ray read_images", "daft")
    )
    return f"""The ratios depend on the CPU. On another machine ({_where(found)}), where tf.data ran the article's CNN in float32
at {found["rounds"][0]["tf.data + predict"]["images_per_s"]:,.0f} images/s, catdog took {tf_data:.2f} of the time of tf.data, {ray:.2f} of `read_images` and {daft:.2f} of Daft.
"""


def training(found: dict[str, Any]) -> str:
    """Of `python -m benchmarks.training`: images a second."""

    def rows(names: dict[str, str]) -> list[list[str]]:
        return [
            [title, f"{found['contenders'][name]['images_per_s']:.0f}"]
            for title, name in names.items()
        ]

    article = {
        "the article's own recipe, ImageDataGenerator and `fit`": "article",
        "`image_dataset_from_directory().cache()` and `fit`, float32": "cache() + fit, float32",
        "the same in bfloat16": "cache() + fit, mixed_bfloat16",
        "catdog, 1 worker held to one core": "article, 1 worker on one core",
        "catdog, 2 workers": "article, 2 workers",
        "catdog, 2 workers, `--batch-size-per-worker 32`": "article, 2 workers of 32 images each",
        "catdog, 1 worker, `--cpus-per-worker 2`": "article, 1 worker with both cores",
    }
    compact = {
        "catdog, 1 worker held to one core": "compact, 1 worker on one core",
        "catdog, 2 workers": "compact, 2 workers",
        "catdog, 1 worker, `--cpus-per-worker 2`": "compact, 1 worker with both cores",
    }
    ratios = found["ratios"]
    cached = 1 / ratios["2 workers / cache() + fit, bfloat16"]
    lost = ratios["lost between epochs / epoch"]
    return f"""{found["images"]:,} photos of 200x200 pixels with bfloat16, each way as a whole process, one after the other, its fastest
epoch ({_where(found)}; `python -m benchmarks.training`):

{_table(["the article's network, batches of 32", "images/s"], rows(article))}
{_table(["`compact`, batches of 128", "images/s"], rows(compact))}
Two workers have {ratios["2 workers / 1 worker on one core"]:.2f} times the throughput of one core if they share a batch, and {ratios["2 workers / 1 worker on one core, a worker's batch the same"]:.2f} times if each has a batch
of its own: every worker pays the fixed cost of a step, which is mostly the update of all weights. `cache()` and `fit` in bfloat16, one
process on both cores, have {cached:.2f} times the throughput of two workers that share a batch. The checkpoint between two epochs takes
{lost:.0%} of an epoch's time.
""".replace("%", " %")


def training_short(found: dict[str, Any]) -> str:
    """The same in a sentence."""
    ratios = found["ratios"]
    own = ratios["2 workers / the article's ImageDataGenerator + fit"]
    each = ratios["2 workers / 1 worker on one core, a worker's batch the same"]
    return f"""Training: two workers have {own:.1f} times the throughput of the article's own recipe in one process. With a batch of its own for each,
they have {each:.2f} times the throughput of one worker on one core ([docs/train.md](docs/train.md#how-fast)).
"""


def duplicates(found: dict[str, Any]) -> str:
    """Of `python -m benchmarks.duplicates`: which altered copies are found."""
    recall = found["recall"]
    names = {
        "equal": "exact",
        "resized to 60 %": "resized to 60 %",
        "saved again with JPEG quality 40": "recompressed at quality 40",
        "cropped, up to 5 % off each edge": "up to 5 % cropped off each edge",
        "mirrored": "mirrored",
    }
    rows = [[title, f"{100 * recall[name]:.4g} %"] for title, name in names.items()]
    return f"""`python -m benchmarks.duplicates` classified {found["photos"]:,} photos with the model that ships, and altered copies of {found["altered"]:,} of them
({_where(found)}):

{_table(["copy", "found"], rows)}
`catdog similar` then searched for {found["retrieval"]["queries"]:,} of the photos: {100 * found["retrieval"]["precision at 10"]:.1f} % of the ten nearest
show the same animal, cat or dog.
"""


def small_jobs(found: dict[str, Any]) -> str:
    """Of `python -m benchmarks.small_jobs`: with Ray and without."""
    rows = [
        [
            f"{int(images):,}",
            *(f"{told[way]:.1f}" for way in ("process", "ray", "import ray, ray.init")),
        ]
        for images, told in found["seconds"].items()
    ]
    return f"""Seconds from cold shell to exit, photos of 200x200 ({_where(found)}; `python -m benchmarks.small_jobs`):

{_table(["images", "in this process", "by Ray", "`import ray` and `ray.init` alone"], rows)}"""


def predict(found: dict[str, Any]) -> str:
    """Of `python -m benchmarks.predict`: catdog beside Keras."""
    titles = {
        "cold_s": ("a picture from a cold shell, s", ".1f"),
        "import_s": ("imports in a program, s", ".2f"),
        "first_s": ("its first answer, s", ".2f"),
        "images_per_s": ("pictures/s after that, files to scores", ",.0f"),
        "engine_images_per_s": ("scores/s of decoded pixels", ",.0f"),
    }
    rows = [
        [title, *(format(found[name][key], form) for name in ("catdog", "Keras"))]
        for key, (title, form) in titles.items()
    ]
    return f"""The model that ships, medians of {found["rounds"]} rounds ({_where(found)}; `python -m benchmarks.predict`):

{_table(["", "catdog", "Keras: `load_img`, `model.predict`"], rows)}"""


def stores(found: dict[str, Any]) -> str:
    """Of `python -m benchmarks.stores`: clients of S3."""
    clients = ("s3fs", "catdog.storage", "obstore")
    titles = ["", "s3fs", "catdog.storage (obstore, s3fs behind it)", "obstore alone"]
    rows = []
    for name, task in found["tasks"].items():
        unit = "keys/s; client's CPU ms for 1,000"
        factor = 1000.0
        if not name.startswith("listing"):
            unit, factor = "requests/s; client's CPU ms for each", 1.0
        cells = [
            f"{task[client]['per_s']:,.0f}; {factor * task[client]['client_cpu_s_per_1000']:.2g}"
            for client in clients
        ]
        rows.append([f"{name}: {unit}", *cells])
    faults = []
    for name, told in found["faults"].items():
        cells = [
            f"{told[client]['right']}, {told[client]['wrong']}, {told[client]['failed']}; {told[client]['seconds']:.1f}"
            for client in clients
        ]
        faults.append([name, *cells])
    total = sum(found["faults"]["no fault"]["s3fs"][word] for word in ("right", "wrong", "failed"))
    return f"""{_where(found)}:

{_table(titles, rows)}
{total} objects through a proxy between client and server, 8 in flight. Of them right, wrong, failed; seconds:

{_table(titles, faults)}"""


def sources(found: dict[str, Any]) -> str:
    """Of `python -m benchmarks.sources`: where the images lie."""
    places, cores = found["places"], int(found["machine"].split(", ")[1].split()[0])
    files = places["local files"]["images_per_s"]
    rows = [
        [
            ", ".join(reversed(name.rsplit(" ", 1))),  # "S3, 50 ms away tar" is read as two things
            f"{told['images_per_s']:,.0f}",
            f"{told['images_per_s'] / files:.2f}",
            f"{1e6 * cores / told['images_per_s'] / 3600:.2f}",
            f"{1000 * told['server_cpu_s'] / found['images']:.2f}" if "S3" in name else "",
        ]
        for name, told in places.items()
    ]
    columns = ["", "images/s", "of local files", "core hours per million"]
    columns.append("server's CPU seconds per 1,000")
    return f"""{found["images"]:,} photos with the model that ships, {"one job" if found["rounds"] == 1 else f"median of {found['rounds']} jobs"} each ({_where(found)}; `python -m benchmarks.sources`):

{_table(columns, rows)}"""


_WRITTEN = {
    ("results_earlier", None): earlier,
    ("sources", None): sources,
    ("results", None): speed,
    ("training", None): training,
    ("training", "short"): training_short,
    ("duplicates", None): duplicates,
    ("small_jobs", None): small_jobs,
    ("stores", None): stores,
    ("predict", None): predict,
}


def _where(found: dict[str, Any]) -> str:
    return f"{found['machine']}; {found['date']}, commit {found['commit']}"


def _table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines)


def written(text: str) -> str:
    """A document with its figures as they should be."""

    def fill(mark: re.Match[str]) -> str:
        content = (ROOT / "benchmarks" / f"{mark[2]}.json").read_text()
        return mark[1] + _WRITTEN[mark[2], mark[3]](json.loads(content)) + mark[4]

    return _MARKED.sub(fill, text)


def without(text: str) -> str:
    """The rest of a document."""
    return _MARKED.sub("", text)


if __name__ == "__main__":
    for document in DOCUMENTS:
        before = document.read_text()
        if (after := written(before)) != before:
            document.write_text(after)
            sys.stdout.write(f"wrote {document}\n")
