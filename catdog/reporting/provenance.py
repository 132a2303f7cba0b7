"""Where the results come from: inputs, model, versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from catdog import storage
from catdog.errors import CatdogError, counted
from catdog.model import folders
from catdog.reporting.wording import first, moment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catdog.reporting.figures import Figures
    from catdog.results import Plan


def provenance(
    plan: Plan, run: dict[str, Any], summary: dict[str, Any], figures: Figures
) -> list[tuple[str, list[str]]]:
    """Names, each with its values."""
    question, config = run.get("question", {}), run.get("config", {})
    fingerprint = str(question.get("model", ""))
    minimum = figures.min_probability
    pairs: list[tuple[str, Sequence[Any]]] = [
        ("Results", [plan.output]),
        ("Images from", first(plan.generations[-1].inputs, 20)),
        ("Part of the model's data", [question.get("part")]),
        ("Started", [moment(run["started_at"])] if "started_at" in run else []),
        ("Model", [config.get("model") or "the one that ships with catdog", fingerprint]),
        *_about_model(config.get("model"), fingerprint),
        ("Classes", [", ".join(first(figures.labels, 40))]),
        ("Precision", [summary.get("precision")]),
        ("Least probability", [f"{minimum:g}: below it the label is “uncertain”"] * (minimum > 0)),
        ("Versions", [f"catdog {run.get('catdog', '?')}, Python {run.get('python', '?')}"]),
        (
            "Plan",
            [
                f"{counted(plan.images, 'image')} in {counted(plan.shards, 'shard')}",
                plan.identifier,
            ],
        ),
    ]
    return [
        (name, [str(value) for value in values if value not in (None, "")])
        for name, values in pairs
        if any(value not in (None, "") for value in values)
    ]


def _about_model(recorded: Any, fingerprint: str) -> list[tuple[str, list[Any]]]:
    """What the model's folder says, if it is still there and still the same."""
    if not isinstance(recorded, str):
        return []
    try:
        uri = storage.to_uri(recorded)
        for folder in (storage.join(uri, folders.RUN_SUBFOLDER), uri):
            where = storage.join(folder, folders.METADATA_FILE)
            if storage.exists(where):
                text = storage.read_bytes(where, 1 << 26)
                metadata = folders.ModelMetadata.from_json(text)
                break
        else:
            return []
    except (OSError, ValueError, CatdogError):
        return []
    if metadata.fingerprint != fingerprint:
        return []
    pixels = metadata.preprocessing
    accuracy = metadata.training.get("best", {}).get("val_accuracy")
    return [
        ("Architecture", [metadata.architecture]),
        ("Input", [f"{pixels.width} x {pixels.height} pixels, {pixels.resize}"]),
        ("Validation accuracy", [f"{accuracy:.1%}" if isinstance(accuracy, float) else None]),
    ]
