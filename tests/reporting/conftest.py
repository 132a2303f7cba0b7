"""A page of results, and headless Chromium."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from catdog import reporting
from catdog.reporting import ReportConfig
from docs import pictures
from tests.reporting.pages import LABELS, classify, jpeg, score


@pytest.fixture(scope="session")
def pets(tmp_path_factory):
    """A results folder of 120 labelled pictures and five broken files; and its page's path."""
    folder = tmp_path_factory.mktemp("pets")
    rng = np.random.default_rng(0)
    for label in LABELS:
        (folder / "in" / label).mkdir(parents=True)
        for number in range(60):
            colour = tuple(rng.integers(0, 255, 3).tolist())
            picture = jpeg(*((80, 40) if number % 2 else (40, 80)), colour)
            (folder / "in" / label / f"{number}.jpg").write_bytes(picture)
    for number in range(100, 104):
        (folder / "in" / "cat" / f"{number}.jpg").write_bytes(jpeg()[:200])
    (folder / "in" / "dog" / "105.jpg").write_bytes(b"")
    classify((folder / "out").as_uri(), [str(folder / "in")], score)
    reporting.write(ReportConfig(results=str(folder / "out"), thumbnails=9))
    return folder / "out"


@pytest.fixture(scope="session")
def page(pets):
    return pets / "_report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium on a window of 1280 by 900."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium or chromedriver on this machine")
    chrome = pictures.open_browser(tmp_path_factory.mktemp("chromium"))
    yield chrome
    chrome.quit()
