"""Archives and tables of strangers: whatever their bytes, a row or a reason, and the job goes on."""

from __future__ import annotations

from benchmarks import fuzz_inputs


def test_some_fuzzing_of_inputs():
    """A few cases of each kind of `benchmarks/fuzz_inputs.py` leave entries, reasons, no traceback."""
    outcomes, defects = fuzz_inputs.fuzz(5, range(25))
    assert defects == []
    assert outcomes.total() == 25 * len(fuzz_inputs.KINDS)
    assert outcomes["zip: rows"], "some are damaged"
    assert outcomes["zip: sound"], "some are not"
    assert fuzz_inputs.make_case("zip", 1, 2) == fuzz_inputs.make_case("zip", 1, 2)
