"""Checks of this machine: places and an address to try come in, findings go out.

`examine` runs one check after another and yields each `Finding` as soon as it is known. A check does
not raise: a failure is a finding.
"""

from catdog.diagnosis.checks import DoctorConfig, Finding, examine

__all__ = ["DoctorConfig", "Finding", "examine"]
