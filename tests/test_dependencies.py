"""The dependencies: every file of them is pinned, and they are audited where that is possible."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"


def test_what_other_versions_are_tested_with_is_there():
    """Each test that noxfile.py names exists; one that was renamed would end every session."""
    named = re.findall(r'"(tests/[\w/]+\.py)(?:::(\w+))?"', (ROOT / "noxfile.py").read_text())
    assert len(named) > 5
    for path, function in named:
        assert not function or f"def {function}(" in (ROOT / path).read_text(), (path, function)


def test_every_dependency_is_pinned_by_hash():
    """Nothing in the lock floats, comes from a URL, or could be another file tomorrow."""
    text = LOCK.read_text().replace("\\\n", " ")
    requirements = [line for line in text.splitlines() if line.strip() and line[0] not in "# "]
    assert len(requirements) > 50
    for requirement in requirements:
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==[\w.+!]+( ;[^@]*)? ", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement


def test_no_known_vulnerabilities():
    """No locked version has an entry in the public vulnerability databases."""
    if os.environ.get("CATDOG_AUDIT") != "1":
        pytest.skip("asks databases on the network; CATDOG_AUDIT=1 allows it (docs/security.md)")
    if importlib.util.find_spec("pip_audit") is None:
        pytest.skip("pip-audit is not installed (docs/security.md)")
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip"]
    audit = subprocess.run(
        [*command, "--requirement", str(LOCK)], capture_output=True, text=True, check=False
    )
    assert audit.returncode == 0, audit.stdout + audit.stderr
