"""The code of a job, without Ray: inputs to entries, bytes, pixels, the ledger; a model; results."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.fuzz import folders
from catdog import inputs
from catdog.classification import rounds
from catdog.errors import CatdogError, ImageRejected, UserInputError
from catdog.model import folders as models
from catdog.observer import Observer
from catdog.pixels import DecodeLimits, Decoder, Preprocessing
from catdog.reporting import PartReader, count_parts
from catdog.results import Folder, changes, drafts, ledger, part_files, plans

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from catdog.pixels import DecodedBatch
    from catdog.results import Draft, PartCounts, Plan, Survey

# Smaller than in a job, so that more cases fit into a minute; the code behind them is the same.
SOURCES = inputs.SourceLimits(max_bytes=1 << 20, max_archive_members=1000, bytes_in_flight=16 << 20)
DECODING = DecodeLimits(max_pixels=4_000_000, timeout_s=10, memory_bytes=512 << 20)
SEEN = Preprocessing(32, 32)
_DEEP = "a/b/c/d/e/f"  # `..` in a list leads to nothing large


def small_png() -> bytes:
    """A sound picture."""
    stream = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(stream, "PNG")
    return stream.getvalue()


SOUND = small_png()


class Doors:
    """Hands cases to a job's code. A context manager: it holds a decoding process.

    Each method returns a word for what became of the case. Whatever it raises is a defect.

    Args:
        scratch: an empty folder.
    """

    def __init__(self, scratch: Path) -> None:
        self._decoder = Decoder(SEEN, DECODING, SOURCES, 64)
        self._place = scratch / "neighbours" / _DEEP
        (self._place / "folder").mkdir(parents=True)
        (self._place / "sound.jpg").write_bytes(SOUND)
        (self._place / "folder" / "s.png").write_bytes(SOUND)
        with zipfile.ZipFile(self._place / "a.zip", "w") as archive:
            archive.writestr("a.jpg", SOUND)
        pq.write_table(pa.table({"bytes": [SOUND, b""]}), self._place / "t.parquet")

    def close(self) -> None:
        """End the decoder's child."""
        self._decoder.close()

    def picture(self, data: bytes, folder: Path) -> tuple[dict[str, Any], Any]:
        """The row of a picture, and its pixels (uint8, H, W, 3) or None; a sound one beside it."""
        for name, each in (("case", data), ("sound", SOUND)):
            (folder / name).write_bytes(each)
        rows = [
            {"uri": (folder / name).as_uri(), "name": name, "codec": "file"}
            for name in ("case", "sound")
        ]
        decoded = list(self._decode(pa.Table.from_pylist(rows, inputs.PLAN_SCHEMA)))
        outcomes = [row for _, outcomes in decoded for row in outcomes]
        pixels = [each for pixels, _ in decoded for each in pixels]
        assert len(outcomes) == 2, "a row for each"
        assert outcomes[1]["format"] == "PNG", "the neighbour is unharmed"
        return outcomes[0], pixels[0] if outcomes[0]["error"] is None else None

    def _decode(self, entries: pa.Table) -> Any:
        batch: DecodedBatch
        for batch in self._decoder.decode(entries):
            yield batch.pixels.copy(), batch.outcomes.to_pylist()

    def source(self, kind: str, data: bytes, folder: Path, *, whole: bool) -> str:
        """An archive, list or table, a sound picture beside it.

        Args:
            kind: the end of its name.
            data: its bytes.
            folder: an empty one.
            whole: through plan, decoder and part files, and not only to the members' bytes.
        """
        path = self._place / f"case.{kind}"
        path.write_bytes(data)
        named = [str(path), str(self._place / "sound.jpg")]
        sound = (self._place / "sound.jpg").as_uri()
        try:
            if whole:
                return self._through_the_ledger(named, sound, folder)
            return self._to_bytes(named, sound)
        finally:
            path.unlink()

    def _to_bytes(self, named: list[str], sound: str) -> str:
        try:
            batches = list(inputs.list_images(named, SOURCES))
        except CatdogError:
            return "refused"
        entries = pa.Table.from_batches(batches, inputs.PLAN_SCHEMA)
        outcomes = list(inputs.read_images(entries, SOURCES, 2))
        uris = entries["uri"].to_pylist()
        assert len(outcomes) == len(uris), "an outcome for each entry"
        assert len(set(uris)) == len(uris), "an entry for each image"
        assert outcomes[uris.index(sound)] == SOUND, "the neighbour is unharmed"
        for each in outcomes:
            assert isinstance(each, ImageRejected) or 0 < len(each) <= SOURCES.max_bytes
        return "rows" if any(isinstance(each, ImageRejected) for each in outcomes) else "sound"

    def _through_the_ledger(self, named: list[str], sound: str, folder: Path) -> str:
        results = Folder((folder / "results").as_uri())
        try:
            draft = drafts.draft(results, inputs.list_images(named, SOURCES, once=False))
        except CatdogError:
            left = [path for path in (folder / "results").rglob("*") if path.is_file()]
            assert left == [], "nothing is left of a plan"
            return "refused"
        assert draft.commit("job")
        plan = plans.read(results)
        assert plan is not None
        words = set()
        for shard in range(plan.shards):
            work = part_files.begin(plan, shard, present=False)
            assert work is not None
            outcomes = [row for _, rows in self._decode(work.entries) for row in rows]
            rows = folders.rows_of(work.entries, outcomes)
            uris = rows["uri"].to_pylist()
            if sound in uris:
                assert outcomes[uris.index(sound)]["error"] is None, "the neighbour is unharmed"
            words |= {row["error"] for row in outcomes}
            part_files.finish(work, rows, labels=folders.LABELS, run="a")
        found = part_files.survey(plan, folders.MODEL)
        assert found.done.all(), "every shard is done"
        assert found.counts.images == plan.images, "a row for each entry"
        return "rows" if words - {None} else "sound"

    def model(self, files: dict[str, bytes], folder: Path) -> str:
        """A model folder of somebody else's."""
        for name, data in files.items():
            (folder / name).write_bytes(data)
        try:
            model = models.load(str(folder))
            validation, test = model.metadata.parts
        except CatdogError:
            return "refused"
        pa.array(model.metadata.labels, pa.string())
        assert 0 <= validation < 1
        assert 0 <= test < 1
        return "loaded"

    def results(self, files: dict[str, bytes], folder: Path) -> str:
        """A job's own files: the steps of a rerun, then those of a report."""
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        results = Folder(folder.as_uri())
        try:
            plan, summary, did = rounds.run(results, _Steps(results), grow=True)
            found = part_files.survey(plan, folders.MODEL)
            record = ledger.read_json(results, ledger.RUN_FILE) or {}
            reader = PartReader(plan, record)
            tally = count_parts(reader, plan.images, Observer())
        except CatdogError:
            return "refused"
        # Where a summary tells that all is done, nobody looks at each file again.
        assert found.done.all() or not did, "every shard is done"
        assert found.counts.images == plan.images or not did, "a row for each image"
        assert tally.images <= plan.images
        assert summary["generation"] == plan.generation
        return "done again" if did else "sound"


class _Steps:
    """What a driver does, without Ray and a network."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def draft(self, plan: Plan | None) -> Draft | None:
        """Of the images that the sound results have."""
        listed = [folders.entries(0, 140)]
        if plan is None:
            return drafts.draft(self._folder, listed)
        compared = changes.Changes(plan, listed)
        try:
            if not compared.counts.new + compared.counts.changed + compared.counts.gone:
                return None
            revised = compared.revised([], drop_gone=True)
            return drafts.draft(self._folder, compared.new_entries(), before=plan, revised=revised)
        finally:
            compared.close()

    def question(self) -> dict[str, Any]:
        """As the sound results have it."""
        return folders.QUESTION

    def about(self) -> dict[str, Any]:
        """Nothing more."""
        return {}

    def refuse_another(self, recorded: Mapping[str, Any]) -> None:
        """Of another model."""
        if recorded != folders.QUESTION:
            raise UserInputError("another job's")

    def work(self, plan: Plan, found: Survey, todo: Sequence[int]) -> None:
        """All shards, one after the other."""
        for shard in todo:
            work = part_files.begin(plan, shard, present=bool(found.present[shard]))
            if work is not None:
                rows = folders.rows_of(work.entries, [folders.OUTCOME] * work.entries.num_rows)
                part_files.finish(work, rows, labels=folders.LABELS, run="b")

    def summary(self, plan: Plan, counts: PartCounts) -> dict[str, Any]:
        """How many there are."""
        return {"planned": plan.images, "classified": sum(counts.labels.values())}
