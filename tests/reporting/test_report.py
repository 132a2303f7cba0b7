"""The report page: what it counts, what it shows, and that strangers' names cannot run in it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from catdog import inputs as sources
from catdog import storage
from catdog.cli.commands import main
from catdog.errors import CatdogError, UserInputError
from catdog.evaluation import job as evaluation
from catdog.evaluation.job import EvaluateConfig
from catdog.observer import Observer
from catdog.pixels import OUTCOME_SCHEMA
from catdog.reporting import ReportConfig
from catdog.reporting import page as report
from catdog.reporting.candidates import CANDIDATE, Best
from catdog.reporting.counting import Timing
from catdog.reporting.throughput import throughput
from catdog.reporting.wording import file_names
from catdog.results import ledger, part_files
from tests.ledgers import write_json, write_part, write_plan
from tests.reporting.pages import LABELS, classify, jpeg, score, visit

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))
import pictures

HOSTILE = (
    "<img src=x onerror=\"window.owned='img'\">.jpg",
    "a</script><script>window.owned='script'</script>.jpg",
    '" onfocus="window.owned=\'quote\'" autofocus="\'.jpg',
    "esc\x1b[31m\x07.jpg",
    "photo\u202egpj.exe.jpg",
    "{{ 7 * 7 }}${window.owned='template'}.jpg",
    "very-" + "long" * 50 + ".jpg",
)


def test_captions_identify_their_pictures():
    """A name has as many folders, and the archive, as make it the only one; others are the file's alone."""
    names = {
        "file:///photos/cat/0.jpg": "cat/0.jpg",
        "s3://b/dog/0.jpg": "dog/0.jpg",
        "tar://dog/7.jpg::s3://b/a.tar": "a.tar/dog/7.jpg",
        "zip://dog/7.jpg::file:///a.zip": "a.zip/dog/7.jpg",
        "zip://dog/8.jpg::file:///a.zip": "8.jpg",
        "file:///9.jpg": "9.jpg",
        "photos/a::b.jpg": "a::b.jpg",
        "file:///": "file:///",
    }
    assert file_names(names) == names


def requests(browser):
    """Addresses that the page asked for since `visit`."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def drawn(browser):
    """Wait until the page has drawn what the last input asked for: it does so with the next frame."""
    browser.execute_async_script(
        "requestAnimationFrame(() => requestAnimationFrame(arguments[0]));"
    )


def set_threshold(browser, index):
    browser.execute_script(
        "const slider = document.getElementById('threshold'); slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input'));",
        index,
    )
    drawn(browser)


def counts_shown(browser):
    return browser.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('[data-label-row]')].map(row =>"
        " [row.querySelector('th').textContent,"
        "  Number(row.querySelector('.count').textContent.replaceAll(',', ''))]))"
    )


def thresholds(path):
    data = re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1]
    return json.loads(data)["thresholds"]


# --------------------------------------------------------------------------------------------
# In a browser


@pytest.mark.parametrize("width", [1280, 390])
def test_page_opens_without_errors_requests_or_sideways_scrolling(browser, page, width):
    """From disk, with no network: the console is silent and nothing but the file is asked for."""
    visit(browser, page, width)
    # Chromium reports every `data:` picture as a request; it never leaves the page.
    assert {url for url in requests(browser) if not url.startswith("data:")} == {page.as_uri()}
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    undecodable = browser.execute_async_script(
        "const done = arguments[0], images = [...document.images];"
        "Promise.all(images.map(image => image.decode())).then(() => done(null), done);"
    )
    assert undecodable is None
    assert not browser.execute_script("return document.getElementById('toolbar').hidden")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_slider_counts_what_parquet_holds(browser, page, pets, share):
    """At every threshold the table shows what `--min-probability` would have given."""
    visit(browser, page)
    edges = thresholds(page)
    index = round(share * (len(edges) - 1))
    set_threshold(browser, index)
    table = pq.read_table(pets, columns=["label", "probability"])
    expected = Counter({"cat": 0, "dog": 0, "uncertain": 0})
    for row in table.to_pylist():
        if row["label"] is not None:
            kept = np.float32(row["probability"]) >= np.float32(edges[index])
            expected[row["label"] if kept else "uncertain"] += 1
    assert counts_shown(browser) == expected


def test_slider_fades_and_sorts_the_gallery(browser, page):
    """Pictures below the threshold are marked; the order is the one that was chosen."""
    visit(browser, page)
    index = thresholds(page).index(0.8)
    set_threshold(browser, index)
    script = (
        "return [...document.querySelectorAll('.gallery.sortable')].map(list => "
        "[...list.children].map(item => [Number(item.dataset.p), item.matches('.below')]))"
    )
    for gallery in browser.execute_script(script):
        shown = [p for p, _ in gallery]
        assert shown == sorted(shown, reverse=True)
        assert [below for _, below in gallery] == [p < 0.8 for p in shown]
        assert {below for _, below in gallery} == {True, False}
    browser.execute_script("document.querySelector('input[value=near]').click()")
    for gallery in browser.execute_script(script):
        distances = [abs(p - 0.8) for p, _ in gallery]
        assert distances == sorted(distances)


def test_page_works_by_keyboard(browser, page):
    """The slider moves by arrow keys and says so; a picture opens with Enter, closes with Escape."""
    from selenium.webdriver.common.keys import Keys

    visit(browser, page)
    slider = browser.find_element("id", "threshold")
    slider.send_keys(Keys.END)
    drawn(browser)
    assert slider.get_attribute("aria-valuetext") == "100.0%"
    slider.send_keys(Keys.ARROW_LEFT)
    drawn(browser)
    assert slider.get_attribute("aria-valuetext") == "99.5%"
    browser.find_element("class name", "thumb").send_keys(Keys.ENTER)
    dialog = browser.find_element("id", "dialog")
    assert dialog.is_displayed()
    assert "pixels, JPEG" in dialog.text
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()


def test_page_has_landmarks_headings_and_texts(browser, page):
    """What a screen reader needs: one h1, no skipped heading, names for pictures and plots."""
    visit(browser, page)
    levels = browser.execute_script(
        "return [...document.querySelectorAll('main h2, main h3')].map(h => h.tagName)"
    )
    assert levels[0] == "H2"
    assert len(browser.find_elements("tag name", "h1")) == 1
    for landmark in ("header", "nav", "main", "footer"):
        assert len(browser.find_elements("tag name", landmark)) == 1
    unnamed = browser.execute_script(
        "return [...document.querySelectorAll('img:not([alt]), [role=img]:not([aria-label])')].length"
    )
    assert unnamed == 0
    ids = browser.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def test_theme_can_be_switched(browser, page):
    """The button turns the page from the system's theme to the other one and back."""
    visit(browser, page)
    script = "return getComputedStyle(document.documentElement).backgroundColor"
    colours = []
    for _ in range(3):
        colours.append(browser.execute_script(script))
        browser.find_element("id", "theme").click()
    browser.execute_script("localStorage.clear()")  # it is remembered
    assert colours[0] == colours[2] != colours[1]


def test_hostile_names_do_not_run(browser, tmp_path):
    """Names of files and classes, and messages, are text wherever they stand, and cannot hide."""
    labels = ("<b onclick=alert(1)>cat</b>", "</script><script>window.owned='label'</script>")
    with zipfile.ZipFile(tmp_path / "hostile.zip", "w") as archive:
        for number, name in enumerate(HOSTILE):
            archive.writestr(zipfile.ZipInfo(name), jpeg(20 + number, 30))
            archive.writestr(zipfile.ZipInfo("broken/" + name), b"GIF89a")
    output = tmp_path / "out"
    classify(output.as_uri(), [str(tmp_path / "hostile.zip")], lambda _: (0.9, 0.1), labels=labels)
    report.write(ReportConfig(results=str(output)))
    page = output / report.REPORT_FILE
    for width in (1280, 390):
        visit(browser, page, width)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    for button in browser.find_elements("class name", "thumb"):
        browser.execute_script("arguments[0].click()", button)
        assert "hostile.zip" in browser.find_element("id", "dialog").text
        browser.execute_script("document.getElementById('dialog').close()")
    assert browser.execute_script("return window.owned") is None
    assert browser.find_elements("css selector", "img[src=x], b[onclick], [onfocus]") == []
    assert len(browser.find_elements("tag name", "script")) == 3
    text = browser.execute_script("return document.body.textContent")
    assert "<img src=x onerror=" in text
    assert "{{ 7 * 7 }}" in text
    assert not set("\x1b\x07\u202e") & set(text)
    assert "U+202E" in text
    assert browser.get_log("browser") == []
    # Were a name not escaped, the page's policy would still stop it.
    browser.execute_script(
        "document.body.insertAdjacentHTML('beforeend', arguments[0])", HOSTILE[0]
    )
    time.sleep(0.2)
    assert browser.execute_script("return window.owned") is None


def test_pictures_of_the_page(browser, page, tmp_path):
    """At two widths, light and dark, the page can be photographed, and is not empty.

    Nobody's eyes are in a test: `python docs/pictures.py` puts the pictures where people look.
    """
    taken = {}
    for name, png in pictures.all_pictures(browser, page):
        (tmp_path / name).write_bytes(png)
        with Image.open(io.BytesIO(png)) as picture:
            taken[name] = picture.size, picture.convert("L").resize((1, 1)).getpixel((0, 0))
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 200
    assert {size[0] for size, _ in taken.values()} == {1280, 390}
    assert taken["phone-light.png"][1] > 3 * taken["phone-dark.png"][1]


def test_page_can_be_printed(browser, page):
    """On paper there is no navigation, no slider, nothing folded, and light colours."""
    visit(browser, page)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert not browser.find_element("tag name", "nav").is_displayed()
    assert not browser.find_element("id", "threshold").is_displayed()
    assert browser.find_elements("css selector", "details:not([open])") == []
    script = "return getComputedStyle(document.documentElement).backgroundColor"
    assert browser.execute_script(script) == "rgb(255, 255, 255)"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


# --------------------------------------------------------------------------------------------
# Of an evaluation


def evaluate(folder, inputs, scores_of, rejected=0, thumbnails=0, **options):
    """What was measured, in an evaluation's folder with its page, as `catdog evaluate` does."""
    classify((folder / "results").as_uri(), inputs, scores_of, **options)
    config = EvaluateConfig(images=tuple(inputs), output=str(folder), precision_at=0.86)
    result = evaluation._measure_results(
        config, folder.as_uri(), "f" * 64, rejected, None, Observer()
    )
    report.write(ReportConfig(results=str(folder), thumbnails=thumbnails))
    return result


@pytest.fixture(scope="module")
def evaluated(pets, tmp_path_factory):
    """The pictures of `pets`, evaluated: the folder and what was measured."""
    folder = tmp_path_factory.mktemp("evaluated")
    result = evaluate(folder, [str(pets.parent / "in")], score, rejected=5, thumbnails=6)
    return folder, result


@pytest.mark.slow
def test_evaluation_has_a_page(evaluated):
    """Beside the figures, out of the dataset's way; with accuracy, interval, areas, pictures."""
    folder, result = evaluated
    html = (folder / "report.html").read_text()
    assert f"{result.accuracy:.1%} of 120 images right" in html
    for share in (result.accuracy_low, result.accuracy_high, result.kept):
        assert f"{share:.1%}" in html
    assert f"--min-probability {result.threshold:g}" in html
    for label in LABELS:
        assert f"{result.classes[label]['average_precision']:.3f}" in html
    mistakes = html.split('id="mistakes"')[1].split("</ul>")[0]
    assert mistakes.count("data:image/webp") == 6
    assert pq.read_table(folder / "results").num_rows == 125
    assert list((folder / "results").glob("*.html")) == []


@pytest.mark.parametrize("width", [1280, 390])
def test_page_of_an_evaluation_in_a_browser(browser, evaluated, width):
    """No error, no request, no sideways scrolling; the curves are there."""
    visit(browser, evaluated[0] / "report.html", width)
    assert browser.get_log("browser") == []
    assert {url for url in requests(browser) if not url.startswith("data:")} == {
        (evaluated[0] / "report.html").as_uri()
    }
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    curves = browser.find_elements("css selector", "#truth .plots svg")
    assert len(curves) == 2
    assert all(curve.size["height"] > 100 for curve in curves)


def test_wanted_precision_can_be_seen(browser, evaluated):
    """The button takes the slider to the threshold that was measured, and the counts agree."""
    folder, result = evaluated
    visit(browser, folder / "report.html")
    browser.find_element("css selector", "[data-threshold]").click()
    effect = browser.find_element("id", "threshold-effect").text
    kept, right = re.fullmatch(
        r"(\d+) of 120 images keep their label, ([\d.]+)% of them right", effect
    ).groups()
    assert int(kept) / 120 == pytest.approx(result.kept)
    assert int(kept) == 72
    assert float(right) == pytest.approx(100 * 62 / 72, abs=0.05)


@pytest.mark.slow
def test_evaluation_that_is_not_finished_has_a_page_without_figures(evaluated, tmp_path):
    """No `metrics.json`, or one of other rows: the page shows the results, and no more."""
    folder = tmp_path / "unfinished"
    shutil.copytree(evaluated[0], folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"images": 119}))
    for _ in range(2):
        assert report.write(ReportConfig(results=str(folder), thumbnails=0)).images == 125
        html = (folder / "report.html").read_text()
        assert "120 of 125 images classified" in html
        assert "ROC" not in html
        (folder / "metrics.json").unlink(missing_ok=True)
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(CatdogError, match="evaluate again"):
        report.write(ReportConfig(results=str(folder)))


def test_evaluation_of_many_classes_or_of_one(browser, tmp_path):
    """More classes than curves can be told apart; and images of one class, which have no curve."""
    labels = tuple(f"class {number}" for number in range(30))

    def scores_of(name):
        scores = np.full(30, 0.2 / 29, np.float32)
        scores[int(name.split("/")[-1].removesuffix(".jpg"))] = 0.8
        return scores

    for number in range(24):
        path = tmp_path / "in" / f"class {number // 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg())
    result = evaluate(tmp_path / "many", [str(tmp_path / "in")], scores_of, labels=labels)
    assert result.accuracy == 1 / 24
    assert result.threshold is None
    visit(browser, tmp_path / "many" / "report.html", 390)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert "At no threshold 86% of the labels are right." in browser.page_source
    (tmp_path / "one" / "in" / "class 3").mkdir(parents=True)
    (tmp_path / "one" / "in" / "class 3" / "3.jpg").write_bytes(jpeg())
    result = evaluate(tmp_path / "one", [str(tmp_path / "one" / "in")], scores_of, labels=labels)
    assert (result.accuracy, result.curves) == (1.0, {})
    visit(browser, tmp_path / "one" / "report.html")
    assert browser.get_log("browser") == []


# --------------------------------------------------------------------------------------------
# Without one


def test_page_refers_to_nothing_outside(page):
    """No address to load from, and a policy that would forbid it."""
    html = page.read_text()
    assert "default-src 'none'" in html
    references = re.findall(r"(?:src|href|action|data)=[\"']?([^\"'> ]+)", html)
    assert all(reference.startswith(("#", "data:image/webp;base64,")) for reference in references)
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org/)", html)


def test_thumbnails_keep_their_shape(page):
    """The picture's proportions, and nothing of the black that the decoder pads with."""
    found = re.findall(r"data:image/webp;base64,([A-Za-z0-9+/=]+)", page.read_text())
    assert 18 <= len(found) <= 3 * 9
    for data in found:
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert sorted(picture.size) == [120, 240]
            pixels = np.asarray(picture.convert("RGB"), np.int16)
            # Each was drawn in one colour.
            assert np.abs(pixels - pixels[60, 60]).max() < 12


def test_rejected_files_are_listed_with_their_sentences(page, pets):
    """Each reason with its count, each file with what was wrong."""
    html = page.read_text()
    for row in pq.read_table(pets).to_pylist():
        if row["error"] is not None:
            assert row["uri"] in html
            assert row["error_detail"] in html
    assert re.search(r"<b>truncated</b> <span class=\"n\">4</span>", html)


def test_summary_is_what_parquet_holds(pets, tmp_path):
    """The numbers that `--json` prints, and the accuracy by the pictures' folders."""
    table = pq.read_table(pets).to_pylist()
    good = [row for row in table if row["error"] is None]
    right = sum(row["label"] == row["uri"].split("/")[-2] for row in good)
    output = str(tmp_path / "page.html")
    summary = report.write(ReportConfig(results=str(pets), output=output, thumbnails=0))
    assert (summary.images, summary.classified, summary.rejected) == (125, 120, 5)
    assert summary.accuracy == right / len(good)
    assert summary.thumbnails == 0


def test_report_leaves_the_folder_readable(pets):
    """The page beside the part files does not spoil the folder as a Parquet dataset."""
    assert pq.read_table(pets).num_rows == 125


@pytest.mark.slow
def test_same_results_give_the_same_page(pets, page, tmp_path):
    """Which pictures are shown is no matter of chance."""
    again = tmp_path / "again.html"
    report.write(ReportConfig(results=str(pets), output=str(again), thumbnails=9))
    assert again.read_bytes() == page.read_bytes()


@pytest.fixture
def few(tmp_path):
    """A function that classifies a folder of a few pictures, and writes and opens the report."""

    def make(files, scores_of, thumbnails=0, **options):
        for name, data in files.items():
            path = tmp_path / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        classify((tmp_path / "out").as_uri(), [str(tmp_path / "in")], scores_of, **options)
        summary = report.write(ReportConfig(results=str(tmp_path / "out"), thumbnails=thumbnails))
        return summary, tmp_path / "out" / report.REPORT_FILE

    return make


def test_one_unlabelled_image(few, browser):
    """The smallest job has a page too, and no class is guessed from nothing."""
    summary, page = few({"x.jpg": jpeg()}, lambda _: (0.2, 0.8), thumbnails=4)
    assert summary.accuracy is None
    assert (summary.images, summary.thumbnails) == (1, 1)
    visit(browser, page)
    assert counts_shown(browser) == {"cat": 0, "dog": 1, "uncertain": 0}
    assert "Confusion matrix" not in page.read_text()
    assert browser.get_log("browser") == []


def test_all_rejected(few, browser):
    """A page without a label, a picture or a slider says why."""
    summary, page = few({"x.jpg": b"", "y.jpg": b"nothing"}, lambda _: (0.5, 0.5))
    assert (summary.classified, summary.rejected, summary.accuracy) == (0, 2, None)
    visit(browser, page)
    assert "0 of 2 images classified" in browser.find_element("tag name", "h1").text
    assert "The file has no bytes." in browser.find_element("id", "rejected").text
    assert browser.get_log("browser") == []


def test_many_classes_with_empty_ones(few, browser):
    """More classes than are shown one by one; most of them without an image."""
    labels = tuple(f"class {number}" for number in range(120))

    def scores_of(name):
        scores = np.full(120, 0.1 / 119, np.float32)
        scores[int(name.split("/")[-1].removesuffix(".jpg"))] = 0.9
        return scores

    files = {f"class {number}/{number}.jpg": jpeg() for number in range(20)}
    files["class 3/4.jpg"] = jpeg()
    summary, page = few(files, scores_of, labels=labels)
    assert summary.accuracy == 20 / 21
    visit(browser, page, 390)
    shown = counts_shown(browser)
    assert shown["class 4"] == 2
    assert shown["70 other labels"] == 0
    assert sum(shown.values()) == 21
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert browser.get_log("browser") == []


def test_least_probability_of_the_job_is_where_the_slider_starts(few, browser, tmp_path):
    """The first view shows the labels that the results hold, `uncertain` among them."""
    files = {f"{label}/{number}.jpg": jpeg() for label in LABELS for number in range(12)}
    _, page = few(files, score, min_probability=0.613)
    written = Counter(pq.read_table(tmp_path / "out")["label"].to_pylist())
    assert written["uncertain"] > 0
    visit(browser, page)
    assert counts_shown(browser) == written
    set_threshold(browser, 0)
    assert counts_shown(browser)["uncertain"] == 0


def test_label_may_be_the_parent_folder(few):
    """Classes are known from `some/set/cat/1.jpg` as well."""
    files = {f"some/set/{label}/{n}.jpg": jpeg() for label in LABELS for n in (1, 2, 3)}
    summary, _ = few(files, lambda name: (0.9, 0.1) if "/cat/" in name else (0.4, 0.6))
    assert summary.accuracy == 1.0


def test_pictures_that_went_are_missed_not_fatal(few, tmp_path):
    """An image deleted after it was classified leaves a sentence in its place."""
    files = {f"{number}.jpg": jpeg() for number in range(3)}
    few(files, lambda _: (0.9, 0.1))
    (tmp_path / "in" / "1.jpg").unlink()
    (tmp_path / "in" / "2.jpg").write_bytes(b"no longer an image")
    summary = report.write(ReportConfig(results=str(tmp_path / "out")))
    assert (summary.images, summary.thumbnails) == (3, 1)
    assert (tmp_path / "out" / report.REPORT_FILE).read_text().count("No picture.") == 2


def test_unfinished_job_is_shown_as_far_as_it_went(tmp_path):
    """Missing and torn part files are not counted, and the page says that they are missing."""
    (tmp_path / "in").mkdir()
    for number in range(200):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(jpeg())
    output = tmp_path / "out"
    plan = classify(output.as_uri(), [str(tmp_path / "in")], lambda _: (0.9, 0.1))
    parts = sorted(output.glob("part-*"))
    parts[0].unlink()
    parts[1].write_bytes(parts[1].read_bytes()[:-9])
    (output / ledger.SUMMARY_FILE).unlink()
    summary = report.write(ReportConfig(results=str(output), thumbnails=0))
    assert summary.images == sum(plan.shard_images[2:])
    assert "This job is not finished" in (output / report.REPORT_FILE).read_text()
    for part in parts[2:]:
        part.unlink()
    with pytest.raises(UserInputError, match="no image is done yet"):
        report.write(ReportConfig(results=str(output)))


@pytest.mark.slow
def test_results_and_pictures_in_s3(s3, tmp_path):
    """Part files, plan, pictures and the page itself may all lie in a bucket."""
    for label in LABELS:
        for number in range(4):
            storage.write_atomic(f"{s3}/in/{label}/{number}.jpg", jpeg())
    classify(f"{s3}/out", [f"{s3}/in"], score)
    summary = report.write(ReportConfig(results=f"{s3}/out"))
    assert summary.output == f"{s3}/out/{report.REPORT_FILE}"
    assert (summary.images, summary.thumbnails) == (8, 8)
    html = storage.read_bytes(summary.output, 1 << 24)
    assert len(html) == summary.bytes
    local = tmp_path / "page.html"
    again = report.write(ReportConfig(results=f"{s3}/out", output=str(local), thumbnails=0))
    assert local.stat().st_size == again.bytes


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["no-such-folder"], "no-such-folder"),
        (["ftp://x/y"], "ftp://"),
        (["x", "--thumbnails", "-1"], "--thumbnails"),
        (["x", "--thumbnails", "301"], "--thumbnails"),
    ],
)
def test_wrong_input_is_one_line(arguments, named, tmp_path, monkeypatch, capsys):
    """Exit code 2, and the line names what is wrong."""
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert named in err.splitlines()[-1]


def test_command_prints_json(pets, tmp_path, capsys):
    """`--json` is the summary as one object on standard output."""
    output = tmp_path / "page.html"
    arguments = [str(pets), "--output", str(output), "--thumbnails", "0", "--json"]
    assert main(["report", *arguments]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["output"] == output.as_uri()
    assert summary["bytes"] == output.stat().st_size


def test_best_candidates_do_not_depend_on_their_order():
    """Kept in pieces or all at once, the best of each group are the same."""
    rng = np.random.default_rng(3)
    rows = np.zeros(5000, CANDIDATE)
    rows["group"], rows["key"] = rng.integers(0, 7, 5000), rng.random(5000)
    rows["row"] = np.arange(5000)
    best = Best(5)
    for piece in np.array_split(rng.permutation(rows), 11):
        best.add(best.prune(piece))
    for group in range(7):
        of_group = rows[rows["group"] == group]
        expected = of_group[np.argsort(of_group["key"])][:5]
        assert best.of(group)["row"].tolist() == expected["row"].tolist()


def test_throughput_adds_up_and_leaves_out_pauses():
    """The curve's area is the number of images; the hour between two runs is not in it."""
    timings = [
        Timing(100, start, start + 10) for start in [0.0, 1.0, 10.0, 11.0, 20.0, 3620.0, 3630.0]
    ]
    speed = throughput(timings)
    assert speed.edges_s[-1] == pytest.approx(50)
    assert speed.stops_s == [pytest.approx(30)]
    assert (speed.images_per_s * np.diff(speed.edges_s)).sum() == pytest.approx(700)


MEASURE = """
import sys
from pathlib import Path
from catdog import reporting as report
def peak_mib():  # not ru_maxrss, which a child has of its parent
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
for results in sys.argv[1:]:
    summary = report.write(report.ReportConfig(results=results, thumbnails=0))
    assert 0.9 < summary.searchable / min(summary.images, 100_000) <= 1
    print(summary.images, summary.bytes, peak_mib())
"""


@pytest.mark.slow
def test_memory_and_page_hardly_grow_with_the_rows(tmp_path):
    """Of 131,072 rows 100,000 can be searched: some MB of memory, and of page."""
    labels = np.resize(LABELS, 2048)
    best = 0.5 + np.random.default_rng(0).random((2048, 1), np.float32) / 2
    outcome = (40, 30, "JPEG", 900, None, None, 1)
    outcomes = pa.Table.from_pylist(
        [dict(zip(OUTCOME_SCHEMA.names, outcome, strict=True))] * 2048, OUTCOME_SCHEMA
    )
    for shards in (1, 64):
        folder = tmp_path / str(shards)
        batches = (entries(labels, first) for first in range(0, shards * 2048, 2048))
        plan = write_plan(folder.as_uri(), batches)
        run = {"question": {"model": "f" * 64}, "config": {"model": None}}
        write_json(plan, ledger.RUN_FILE, run)
        for shard, count in enumerate(plan.shard_images):
            rows = part_files.build_rows(
                plan.read_shard(shard)["uri"],
                outcomes.slice(0, count),
                np.hstack([best, 1 - best])[:count],
                labels=LABELS,
                min_probability=0.0,
                model="f" * 64,
            )
            write_part(plan, shard, rows, LABELS)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "1"), str(tmp_path / "64")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    few, many = ([int(number) for number in line.split()] for line in done.stdout.splitlines())
    assert (few[0], many[0]) == (2048, 64 * 2048)
    assert many[1] < few[1] + (2 << 20)
    assert many[2] < few[2] + 120


def entries(labels, first):
    """Plan entries of images with these labels, numbered from `first` on."""
    names = [f"{label}/{number}.jpg" for number, label in enumerate(labels, start=first)]
    columns = {
        "uri": [f"file:///photos/{name}" for name in names],
        "name": names,
        "label": labels,
        "codec": ["file"] * len(names),
    }
    nothing = [None] * len(names)
    schema = sources.PLAN_SCHEMA
    return pa.RecordBatch.from_pydict({n: columns.get(n, nothing) for n in schema.names}, schema)


def test_template_is_in_the_package():
    """The page's parts lie where the wheel takes them along."""
    folder = Path(report.__file__).parent / "templates"
    assert {path.name for path in folder.iterdir()} == {
        "page.css",
        "page.html.j2",
        "page.js",
        "pictures.html.j2",
        "report.html.j2",
        "review.js",
        "rows_in_page.js",
        "rows_of_server.js",
        "threshold.js",
    }
