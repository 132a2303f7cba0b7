"""Review of images that may have several classes: keys add and take away, train takes what is saved."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from axe_core_python.selenium import Axe
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from catdog import reporting
from catdog.inputs import SourceLimits
from catdog.observer import Observer
from catdog.reporting import ReportConfig, examine
from catdog.training.labelled import list_labelled
from tests.reporting.pages import (
    cards,
    choose,
    classify,
    click,
    eventually,
    expect,
    into_view,
    jpeg,
    planned,
    visit,
)
from tests.reporting.test_reviewing import open_page, served

CLASSES = ("bird", "cat", "dog")
# By the file's number: what the model says.
SCORES = ((0.1, 0.9, 0.8), (0.2, 0.7, 0.1), (0.1, 0.2, 0.3), (0.9, 0.1, 0.6))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Results of four pictures: cat and dog; cat; none; bird and dog. And a broken one."""
    folder = tmp_path_factory.mktemp("mixed")
    for label in ("cat", "dog"):
        (folder / "in" / label).mkdir(parents=True)
    for number in range(4):
        (folder / "in" / ("dog" if number == 3 else "cat") / f"{number}.jpg").write_bytes(jpeg())
    (folder / "in" / "dog" / "4.jpg").write_bytes(jpeg()[:200])
    for label in CLASSES:  # for training, which wants images of every class in both parts
        (folder / "more" / label).mkdir(parents=True)
        for number in range(10, 20):
            (folder / "more" / label / f"{number}.jpg").write_bytes(jpeg())

    def scores(name):
        return SCORES[int(Path(name).stem) % len(SCORES)]

    output = (folder / "out").as_uri()
    classify(output, [str(folder / "in")], scores, CLASSES, labels_from=(0.5,) * 3)
    return folder / "out"


def told(table, results):
    """The classes by image, as `catdog train --labels TABLE --multi-label` takes them."""
    found = list_labelled(
        [str(results.parent / "in"), str(results.parent / "more")],
        SourceLimits(),
        validation=0.5,
        test=0.0,
        given_labels=str(table),
        multi_label=True,
    )
    names = found.entries.values(np.arange(len(found.classes)), "name")
    return {
        name: {found.labels[n] for n, has in enumerate(row) if has}
        for name, row in zip(names, found.answers.tolist(), strict=True)
        if name in EXPECTED
    }


EXPECTED = {
    "cat/0.jpg": {"cat"},  # the dog taken away
    "cat/1.jpg": {"bird", "cat"},  # a bird added
    "cat/2.jpg": {"cat"},  # as its folder says: what was given was taken back
    "dog/3.jpg": set(),  # both taken away
    "dog/4.jpg": {"bird"},  # broken, and known all the same
}


def press_keys(browser):
    """What makes `EXPECTED` of the results."""
    rows = browser.find_element(By.ID, "rows")
    into_view(browser, rows)
    rows.send_keys("3", Keys.ARROW_RIGHT, "1", "3", "3", Keys.ARROW_RIGHT, "2", "1", "0")
    rows.send_keys(Keys.ARROW_RIGHT, "1", "3", Keys.ARROW_RIGHT, "1")


def test_keys_of_the_page_add_and_take_away(browser, mixed, tmp_path):
    """From what the results say; the table that is saved has all classes of an image, or `;`."""
    page = tmp_path / "page.html"
    reporting.write(ReportConfig(results=str(mixed), output=str(page), thumbnails=2))
    downloads = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
    visit(browser, page)
    choose(browser, "order", "as listed")
    expect(browser, 5)
    assert ["has cat; dog" in cards(browser)[0], "has no label" in cards(browser)[2]] == [True] * 2
    press_keys(browser)
    choose(browser, "outcome", "relabelled")
    expect(browser, 4)
    shown = cards(browser)
    assert ["now bird; cat" in shown[1], "now no label" in shown[2]] == [True, True]
    click(browser, browser.find_element(By.ID, "save"))
    table = tmp_path / "labels.csv"
    eventually(table.exists)
    assert [label for _, label in planned(table)] == ["cat", "bird;cat", ";", "bird"]
    assert told(table, mixed) == EXPECTED
    assert browser.get_log("browser") == []
    assert Axe().run(browser)["violations"] == []


def test_a_server_saves_the_same(browser, mixed, tmp_path):
    """By the keys and by the list, which shows with a tick what the chosen image has."""
    table = tmp_path / "labels.csv"
    with served(results=str(mixed), output=str(table)) as summary:
        open_page(browser, summary.url)
        press_keys(browser)
        eventually(lambda: table.exists() and len(planned(table)) == 4)
        assert told(table, mixed) == EXPECTED
        choice = Select(browser.find_element(By.ID, "relabel"))
        choice.select_by_visible_text("cat (2)")
        eventually(lambda: told(table, mixed)["dog/4.jpg"] == {"bird", "cat"})
        assert told(table, mixed)["dog/4.jpg"] == {"bird", "cat"}
        assert [each.text for each in choice.options[2:]] == ["✓ bird (1)", "✓ cat (2)", "dog (3)"]
        choice.select_by_visible_text("as they are")
        eventually(lambda: len(planned(table)) == 3)
        assert len(planned(table)) == 3


def test_a_later_review_goes_on(mixed, tmp_path):
    """With all classes of a saved row, none of them, and one that the model does not have."""
    # What DuckDB makes while tests are collected would be alive at the end: it complains.
    from catdog.reviewing.labels import Labels
    from catdog.reviewing.rows import Query, Rows

    table = tmp_path / "labels.csv"
    uris = [f"{(mixed.parent / 'in').as_uri()}/{name}" for name in EXPECTED]
    lines = zip(uris, ("dog; bird", ";", "cat;wolf"), ("", "", ""), strict=False)
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("uri", "label", "labelled_before"), *lines])
    rows = Rows(examine(ReportConfig(results=str(mixed)), Observer()), tmp_path, Observer())
    labels = Labels(rows, table.as_uri())
    _, shown = rows.search(Query(), 0, 5)
    assert [row["given"] for row in shown] == [[2, 0], [], None, None, None]
    assert [row["has"] for row in shown] == [[1, 2], [1], [], [0, 2], []]
    labels.change(3, [0], marked=False)
    assert planned(table) == [
        (uris[2], "cat;wolf"),
        (uris[0], "dog;bird"),
        (uris[1], ";"),
        (uris[3], "bird"),
    ]
    for wrong in (1, [3], [-1], ["bird"], [[]]):
        with pytest.raises(ValueError, match="row 0, labels"):
            labels.change(0, wrong, marked=False)
    rows.close()
