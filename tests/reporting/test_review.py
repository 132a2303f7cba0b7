"""The page as a place to review: by clicking and typing, as a person would."""

from __future__ import annotations

import csv
import dataclasses
import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from axe_core_python.selenium import Axe
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from catdog import reporting
from catdog.errors import UserInputError
from catdog.reporting import ReportConfig
from catdog.reporting import review as module
from tests.reporting.pages import (
    LABELS,
    cards,
    choose,
    classify,
    click,
    eventually,
    expect,
    into_view,
    jpeg,
    planned,
    probabilities,
    rows_of,
    score,
    until,
    visit,
)


def test_every_cell_of_the_matrix_opens_its_pictures(browser, page, pets):
    """As many as the cell says, each with that label and that class, pictures among them."""
    visit(browser, page)
    good = [row for row in rows_of(pets) if row["error"] is None]
    cells = browser.find_elements(By.CSS_SELECTOR, ".matrix .opener")
    assert len(cells) == 4
    for cell, (truth, label) in zip(
        cells, [(true, given) for true in LABELS for given in LABELS], strict=True
    ):
        click(browser, cell)
        expected = sum(row["truth"] == truth and row["label"] == label for row in good)
        assert int(cell.text) == expected
        expect(browser, expected)
        assert browser.switch_to.active_element.get_attribute("id") == "rows"
        assert all(label in text.splitlines()[0] for text in cards(browser))
        assert all((f"labelled {truth}" in text) == (truth != label) for text in cards(browser))
        assert browser.find_elements(By.CSS_SELECTOR, "#rows .card img")


def test_every_bar_opens_its_pictures(browser, page, pets):
    """The images whose label and probability are the bar's, and at least one picture of them."""
    visit(browser, page)
    probabilities = {label: [] for label in LABELS}
    for row in rows_of(pets):
        if row["error"] is None:
            probabilities[row["label"]].append(row["probability"])
    edges = np.linspace(0.5, 1, 51)
    for figure in browser.find_elements(By.CSS_SELECTOR, ".distribution"):
        label = figure.find_element(By.CSS_SELECTOR, "figcaption b").text
        counts, _ = np.histogram(np.array(probabilities[label]) + 1e-6, edges)
        bars = figure.find_elements(By.CSS_SELECTOR, '[id*="-bar-"]')
        for number in np.flatnonzero(counts)[::4]:
            click(browser, bars[number])
            expect(browser, counts[number])
            assert browser.find_elements(By.CSS_SELECTOR, "#rows .card img")


def test_labels_and_rows_of_tables_open_theirs(browser, page, pets):
    """By keyboard too: the names in the table of labels, the numbers beside a plot."""
    visit(browser, page)
    names = browser.find_elements(By.CSS_SELECTOR, "[data-label-row] .opener")
    names[0].send_keys(Keys.ENTER)
    labels = [row["label"] for row in rows_of(pets)]
    expect(browser, labels.count(names[0].text))
    click(browser, browser.find_element(By.CSS_SELECTOR, ".distribution summary"))
    number = browser.find_element(By.CSS_SELECTOR, ".distribution table .opener")
    number.send_keys(Keys.ENTER)
    expect(browser, int(number.text))


def test_search_filter_and_sort(browser, page, pets):
    """By a part of the name, by label, probability and error; the order is the one chosen."""
    visit(browser, page)
    rows = rows_of(pets)
    expect(browser, len(rows))
    name = browser.find_element(By.ID, "filter-name")
    click(browser, name)
    name.send_keys("CAT/1")
    expect(browser, sum("cat/1" in row["uri"] for row in rows))
    choose(browser, "label", "dog")
    expect(browser, sum("cat/1" in row["uri"] and row["label"] == "dog" for row in rows))
    name.send_keys(" no such name")
    expect(browser, 0)
    assert browser.find_element(By.ID, "review-count").text == "No image is like that."
    browser.find_element(By.ID, "filter-clear").click()
    expect(browser, len(rows))
    browser.find_element(By.ID, "filter-from").send_keys("80")
    expect(browser, sum((row["probability"] or 0) >= 0.8 for row in rows))
    browser.find_element(By.ID, "filter-to").send_keys("90")
    expect(browser, sum(0.8 <= (row["probability"] or 0) < 0.9 for row in rows))
    browser.find_element(By.ID, "filter-clear").click()
    choose(browser, "outcome", "rejected: truncated")
    expect(browser, sum(row["error"] == "truncated" for row in rows))
    choose(browser, "outcome", "wrong")
    wrong = sum(row["error"] is None and row["label"] != row["truth"] for row in rows)
    expect(browser, wrong)
    for order, reverse in (("most certain", True), ("least certain", False)):
        choose(browser, "order", order)
        eventually(
            lambda reverse=reverse: (
                probabilities(browser) == sorted(probabilities(browser), reverse=reverse)
            )
        )
        shown = probabilities(browser)
        assert shown == sorted(shown, reverse=reverse)
        assert len(set(shown)) > 3


@pytest.mark.parametrize("order", ["as listed", "most certain"])
def test_an_opened_image_has_its_scores_and_the_keys(browser, page, order):
    """Of every class, the best first, whether its picture is in the page or not; keys work there, too."""
    visit(browser, page)
    choose(browser, "order", order)
    rows = browser.find_element(By.ID, "rows")
    into_view(browser, rows)
    rows.send_keys(Keys.ENTER)
    dialog = browser.find_element(By.ID, "dialog")
    found = [row.text.split() for row in dialog.find_elements(By.CSS_SELECTOR, "#dialog-scores tr")]
    shares = [float(share.rstrip("%")) for _, share in found]
    assert {label for label, _ in found} == set(LABELS)
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.11)
    assert "Esc closes, M marks, 1 and 2 give a label" in dialog.text
    browser.find_element(By.ID, "dialog-close").click()
    browser.find_element(By.CSS_SELECTOR, ".gallery .thumb").send_keys(Keys.ENTER)
    assert "Esc closes" not in dialog.text


def test_relabelled_and_marked_with_keys_saved_as_a_table(browser, page, pets, tmp_path):
    """What keys gave is saved as a CSV whose rows catdog itself reads, with their labels."""
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    visit(browser, page)
    for name, text in (("save", "Save new labels"), ("save-marked", "Save marked")):
        button = browser.find_element(By.ID, name)
        assert (button.text, button.is_enabled()) == (text, False)
    choose(browser, "order", "as listed")
    rows = browser.find_element(By.ID, "rows")
    into_view(browser, rows)
    rows.send_keys("2", Keys.ARROW_RIGHT, "m", Keys.ARROW_RIGHT, "1", "0", Keys.ARROW_RIGHT)
    rows.send_keys(Keys.ENTER)
    dialog = browser.find_element(By.ID, "dialog")
    assert dialog.is_displayed()
    browser.switch_to.active_element.send_keys("1")
    assert "cat" in dialog.find_element(By.ID, "dialog-about").text.split("Now")[1]
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert browser.switch_to.active_element.get_attribute("id") == "rows"
    choose(browser, "outcome", "relabelled")
    expect(browser, 2)
    assert "now dog" in cards(browser)[0]
    for name, text in (("save", "Save 2 new labels"), ("save-marked", "Save 1 marked")):
        assert browser.find_element(By.ID, name).text == text
        click(browser, browser.find_element(By.ID, name))
    table, marked = tmp_path / "labels.csv", tmp_path / "marked.txt"
    eventually(lambda: table.exists() and marked.exists())
    listed = [row["uri"] for row in pq.read_table(pets).to_pylist()]
    found = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [(row["uri"], row["label"]) for row in found] == [(listed[0], "dog"), (listed[3], "cat")]
    assert planned(table) == [(listed[0], "dog"), (listed[3], "cat")]
    assert [uri for uri, _ in planned(marked)] == [listed[1]]


def test_label_can_be_chosen_without_keys(browser, page):
    """A list of labels does the same, whatever their number."""
    visit(browser, page)
    into_view(browser, browser.find_element(By.ID, "rows"))
    card = (By.CSS_SELECTOR, "#rows .card")
    # Scrolling has the list drawn anew with the next frame.
    waiting = WebDriverWait(browser, 30, 0.02, [StaleElementReferenceException])
    waiting.until(lambda it: it.find_element(*card).click() or True)
    browser.find_element(By.ID, "dialog-close").click()
    Select(browser.find_element(By.ID, "relabel")).select_by_value("0")
    assert "now cat" in cards(browser)[0]
    browser.execute_script("window.onbeforeunload = null")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_screen_readers_find_nothing_amiss(browser, page, theme):
    """axe-core knows no violation: of the page as it opens, with an image chosen, and in a dialog."""
    visit(browser, page)
    browser.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
    axe = Axe()
    rows = browser.find_element(By.ID, "rows")
    for step in ([], [Keys.ARROW_RIGHT, Keys.ENTER]):
        if step:
            into_view(browser, rows)
            rows.send_keys(*step)
        found = axe.run(browser)["violations"]
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)


@pytest.fixture(scope="module")
def compared(pets, tmp_path_factory):
    """`pets` against results of a model that is wrong elsewhere; some images are only there."""
    folder = tmp_path_factory.mktemp("compared")

    def other(name):
        return score(name) if "cat" in name.split("/") else score(name)[::-1]

    (folder / "more").mkdir()
    (folder / "more" / "7.jpg").write_bytes(jpeg())
    inputs = [str(pets.parent / "in"), str(folder / "more")]
    classify((folder / "other").as_uri(), inputs, other)
    output = folder / "page.html"
    config = ReportConfig(
        results=str(pets), output=str(output), thumbnails=9, against=str(folder / "other")
    )
    return output, reporting.write(config), folder / "other"


def test_against_tells_what_changed(compared, pets):
    """The numbers are those of the two tables, joined by URI; the test is McNemar's."""
    from scipy.stats import binomtest

    _, summary, other = compared
    before = {row["uri"]: row["label"] for row in rows_of(other)}
    rows = rows_of(pets)
    comparison = summary.comparison
    assert (comparison.common, comparison.only_this, comparison.only_other) == (125, 0, 1)
    assert comparison.changed == sum(row["label"] != before[row["uri"]] for row in rows)
    good = [row for row in rows if row["label"] is not None]
    this = sum(row["label"] == row["truth"] != before[row["uri"]] for row in good)
    there = sum(row["label"] != row["truth"] == before[row["uri"]] for row in good)
    test = comparison.mcnemar
    assert (test.known, test.only_this, test.only_other) == (120, this, there)
    assert test.p == binomtest(this, this + there, 0.5).pvalue
    assert {(change.before, change.after) for change in comparison.changes} == {
        ("cat", "dog"),
        ("dog", "cat"),
    }


def test_against_in_the_page(browser, compared):
    """Pictures of what changed, with what it was; all of it opens in the review."""
    page, summary, _ = compared
    visit(browser, page)
    assert browser.get_log("browser") == []
    section = browser.find_element(By.ID, "changed")
    assert "McNemar" in section.text
    assert len(section.find_elements(By.CSS_SELECTOR, ".thumb img")) == 9
    click(browser, section.find_element(By.CSS_SELECTOR, ".opener"))
    expect(browser, summary.comparison.changed)
    assert all("was " in text for text in cards(browser))
    assert Axe().run(browser)["violations"] == []


def test_against_nothing_is_one_line(pets, tmp_path):
    """The flag and the folder are named."""
    with pytest.raises(UserInputError, match=f"--against {tmp_path}: no results there"):
        reporting.write(ReportConfig(results=str(pets), against=str(tmp_path)))


def test_results_without_a_common_image_are_not_compared(pets, tmp_path):
    """The flag, the folder and what to do, in place of a page that says nothing."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jpg").write_bytes(jpeg())
    other = str(tmp_path / "other")
    classify((tmp_path / "other").as_uri(), [str(tmp_path / "in")], score)
    with pytest.raises(UserInputError, match=f"--against {other}: no image is in both results"):
        reporting.write(ReportConfig(results=str(pets), against=other))


def test_a_hundred_thousand_rows_stay_fluent(browser, page, tmp_path, monkeypatch):
    """The last of 100,000 is reached with one key, and few of them are ever in the document."""
    big = tmp_path / "big.html"
    packed = module._packed

    def hundredfold(content):
        times = 100_000 // len(content["uri"])
        content = content | {
            name: content[name] * times for name in ("label", "truth", "millionths", "error")
        }
        names = [f"{uri}-{number}" for number in range(times) for uri in content["uri"]]
        return packed(content | {"uri": names})

    monkeypatch.setattr(module, "_packed", hundredfold)
    results = str(page.parent)
    summary = reporting.write(ReportConfig(results=results, output=str(big), thumbnails=0))
    assert summary.bytes < 10_000_000
    visit(browser, big)
    expect(browser, 100_000)
    rows = browser.find_element(By.ID, "rows")
    into_view(browser, rows)
    rows.send_keys(Keys.END)
    until(
        browser,
        "return document.querySelector('.card[aria-selected=true][aria-posinset=\"100000\"]')",
    )
    assert len(cards(browser)) < 100
    browser.find_element(By.ID, "filter-name").send_keys("dog/7.jpg-79")
    until(browser, "return document.getElementById('review-count').textContent.startsWith('11 of')")


def test_names_without_a_common_part_do_not_burst_the_page(pets, tmp_path, monkeypatch):
    """Rows are left out until the others fit, never those with a picture; the page says how many."""
    monkeypatch.setattr(module, "MAX_BYTES", 600)
    output = tmp_path / "page.html"
    summary = reporting.write(ReportConfig(results=str(pets), output=str(output), thumbnails=2))
    assert summary.searchable < 125
    assert f"{summary.searchable} of 125 images, from all over the job" in output.read_text()
    assert dataclasses.asdict(summary)["images"] == 125
