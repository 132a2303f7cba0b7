"""Ends processes at the very moments when they write: for tests of what is left then.

Python imports this file at the start of every process whose PYTHONPATH names its folder. The folder
CATDOG_FAULTS holds a file for each fault: its content is a moment (`before` or `after`) and a
pattern of the name that a file gets then. The first process that comes to that moment takes the
fault away, and ends as by SIGKILL.
"""

from __future__ import annotations

import fnmatch
import importlib.abc
import importlib.machinery
import os
import signal
import sys
from functools import wraps
from pathlib import Path

_FAULTS = Path(os.environ.get("CATDOG_FAULTS", "/nowhere"))


def _end_here(moment: str, name: str) -> None:
    for fault in _FAULTS.glob("*"):
        try:
            when, _, pattern = fault.read_text().partition(" ")
            if when == moment and fnmatch.fnmatch(name, pattern):
                fault.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        except FileNotFoundError:
            continue  # another process was first


def _with_faults(commit):
    """A function that gives a file its final name, its second argument."""

    @wraps(commit)
    def faulty(source, target, *arguments, **options):
        _end_here("before", str(target))
        answer = commit(source, target, *arguments, **options)
        _end_here("after", str(target))
        return answer

    return faulty


class _PatchStorage(importlib.abc.MetaPathFinder):
    """Has uploads of `catdog.storage` come to faults as well."""

    def find_spec(self, name, path=None, target=None):
        if name not in ("catdog.storage.s3", "catdog.storage.clouds"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module

        def load_and_patch(module):
            load(module)
            if name == "catdog.storage.s3":
                module.Upload._call = _with_s3_faults(module.Upload._call)
            else:
                module.Upload.complete = _with_cloud_faults(module.Upload.complete)
                module.Upload._put = _with_cloud_faults(module.Upload._put)

        spec.loader.exec_module = load_and_patch
        return spec


def _with_s3_faults(call):
    @wraps(call)
    def faulty(upload, method, **request):
        commits = method in ("put_object", "complete_multipart_upload")
        if commits:
            _end_here("before", upload._key)
        answer = call(upload, method, **request)
        if commits:
            _end_here("after", upload._key)
        return answer

    return faulty


def _with_cloud_faults(commit):
    @wraps(commit)
    def faulty(upload, *arguments):
        _end_here("before", upload._key)
        commit(upload, *arguments)
        _end_here("after", upload._key)

    return faulty


if _FAULTS.is_dir():
    os.replace = _with_faults(os.replace)
    os.link = _with_faults(os.link)
    sys.meta_path.insert(0, _PatchStorage())
