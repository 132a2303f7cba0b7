"""What a job's log for machines says, checked against its documented schema."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path
from typing import Any

import jsonschema

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "log.schema.json").read_text())


def jobs(log: Path) -> list[list[dict[str, Any]]]:
    """The events of each job in a log, in order; every line has the schema."""
    events = [json.loads(line) for line in log.read_text().splitlines()]
    for event in events:
        _validator().validate(event)
    found = [list(job) for _, job in itertools.groupby(events, lambda event: event["job"])]
    for job in found:
        assert job[0]["event"] == "started"
        assert [each["event"] for each in job].count("ended") == 1
        assert job[-1]["event"] == "ended"
    return found


@functools.cache
def _validator() -> jsonschema.Validator:
    """It judges the schema itself once."""
    kind = jsonschema.validators.validator_for(SCHEMA)
    kind.check_schema(SCHEMA)
    return kind(SCHEMA)
