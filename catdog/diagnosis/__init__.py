"""Checks of this machine: places and an address to try come in, findings go out.

`examine` runs one check after another and yields a `Finding` for each, as soon as it is known. A
check never raises: its failure is its finding.
"""

from catdog.diagnosis.checks import DoctorConfig, Finding, examine

__all__ = ["DoctorConfig", "Finding", "examine"]
