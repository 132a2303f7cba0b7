"""A few cases of each kind of `python -m benchmarks.fuzz`, and that the fuzzer finds what is wrong."""

from __future__ import annotations

import pytest

from benchmarks.fuzz import running, thrift
from catdog.inputs.archives import zip as zips
from catdog.results import damage

SEED = 7
CASES = dict.fromkeys(running.KINDS, 12) | {"picture": 25, "model": 50}


def found(kind: str, numbers: range) -> running.Found:
    """What becomes of these cases, in this process."""
    found = running.Found()
    for told in running.run(kind, SEED, numbers):
        running.add(found, *told)
    return found


@pytest.mark.parametrize("kind", running.KINDS)
def test_no_case_surprises(kind):
    """Rows, or one of the documented errors; nothing left; a sound neighbour unharmed."""
    told = found(kind, range(CASES[kind]))
    assert told.defects == {}
    assert told.judged == {}
    assert told.outcomes.total() == CASES[kind]
    assert len(told.outcomes) > 1, "some are more damaged than others"


@pytest.mark.parametrize("kind", running.KINDS)
def test_a_case_follows_from_its_seed(kind):
    """So that a finding can be looked at again."""
    assert running.make_case(kind, 1, 2) == running.make_case(kind, 1, 2)
    assert running.make_case(kind, 1, 2) != running.make_case(kind, 2, 2)


def test_numbers_that_are_not_bounded_are_found(monkeypatch):
    """The fault that one archive once ended whole jobs with: a size that no int64 holds."""
    monkeypatch.setattr(zips, "_LARGEST", 1 << 65)
    assert found("zip", range(1213, 1214)).defects


def test_exceptions_that_are_not_documented_are_found(monkeypatch):
    """Of a job's own files."""
    monkeypatch.setattr(damage, "DamagedError", RuntimeError)
    assert found("results", range(12)).defects


def test_numbers_of_thrift():
    """Structures, lists, texts and booleans are passed over in their whole length."""
    # 1: i32 3; 2: "ab"; 3: [i64 1, i64 2]; 4: true; 5: {1: i16 9}; 6: double
    data = b"\x15\x06\x18\x02ab\x19\x26\x02\x04\x11\x1c\x14\x12\x00\x17" + bytes(8) + b"\x00"
    spans = thrift.numbers(b"##" + data, 2)
    assert [(data[span.start - 2], span.signed) for span in spans] == [
        *((6, True), (2, False), (2, True), (4, True), (18, True)),
    ]
