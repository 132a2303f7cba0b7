"""Results to make pages of, and a browser to open them in."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from catdog.errors import ImageRejected
from catdog.inputs import SourceLimits, list_images, read_images
from catdog.inputs import listing as sources
from catdog.pixels import OUTCOME_SCHEMA, DecodeLimits, Preprocessing, decode
from catdog.results import ledger, part_files
from tests.ledgers import write_json, write_part, write_plan

LABELS = ("cat", "dog")


def jpeg(width=40, height=30, colour=(200, 120, 40)):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def classify(output, inputs, scores_of, labels=LABELS, min_probability=0.0, labels_from=None):
    """A finished results folder, made by the modules that jobs use; only the scores are given."""
    limits = SourceLimits()
    plan = write_plan(output, sources.list_images(inputs, limits), named=inputs)
    square = Preprocessing(height=8, width=8, resize="stretch")
    for shard in range(plan.shards):
        entries = plan.read_shard(shard)
        outcomes = []
        for data in read_images(entries, limits, 4):
            try:
                if isinstance(data, ImageRejected):
                    raise data
                decoded = decode(data, square, DecodeLimits())
                size = (decoded.width, decoded.height, decoded.format, len(data), None, None, 1)
            except ImageRejected as rejected:
                size = (None, None, None, None, rejected.code.value, rejected.detail, None)
            outcomes.append(dict(zip(OUTCOME_SCHEMA.names, size, strict=True)))
        rows = part_files.build_rows(
            entries["uri"],
            pa.Table.from_pylist(outcomes, OUTCOME_SCHEMA),
            np.array([scores_of(name) for name in entries["name"].to_pylist()], np.float32),
            labels=labels,
            min_probability=min_probability,
            model="f" * 64,
            labels_from=labels_from,
        )
        write_part(plan, shard, rows, labels)
    counts = part_files.survey(plan).counts
    question = {"model": "f" * 64, "min_probability": min_probability}
    run = {"catdog": "1.2.3", "question": question, "config": {"model": None}}
    write_json(plan, ledger.RUN_FILE, run | {"started_at": "2026-01-02T03:04:05Z"})
    summary = {
        "planned": plan.images,
        "classified": sum(counts.labels.values()),
        "images_this_run": plan.images,
        "images_per_s": 123.4,
        "stages_s": {"read": 1.0, "decode": 2.0, "predict": 3.0, "write": 0.5},
        "precision": "float32",
    }
    write_json(plan, ledger.SUMMARY_FILE, summary)
    return plan


def score(name):
    """Scores that depend on the name alone: mostly right, from hardly to very certain."""
    number = int(re.search(r"(\d+)\.jpg$", name)[1])
    best = 0.5 + (number % 25) / 50 + 0.003
    right = "cat" in name.split("/") if number % 7 else "dog" in name.split("/")
    return (best, 1 - best) if right else (1 - best, best)


def visit(browser, path, width=1280):
    """Open a page as from disk, with fresh logs."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(Path(path).as_uri())
    until(browser, "return !document.querySelector('#review:not([data-ready])')")


def until(browser, script):
    """Wait until the page's script says so."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 30, 0.02).until(lambda it: it.execute_script(script))


def rows_of(results, columns=None):
    """The rows of a results folder, each with its folder's name as `truth`."""
    rows = pq.read_table(results, columns=columns).to_pylist()
    return [row | {"truth": row["uri"].split("/")[-2]} for row in rows]


def count(browser):
    """How many images the page says it found."""
    text = browser.find_element(By.ID, "review-count").text
    found = re.match(r"([\d,]+) of ", text)
    return int(found[1].replace(",", "")) if found else 0


def eventually(holds):
    """Wait until it does: the page answers with its next frame."""
    deadline = time.monotonic() + 30
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)


def expect(browser, number):
    """Wait until so many images are found."""
    eventually(lambda: count(browser) == number)
    assert count(browser) == number, browser.find_element(By.ID, "review-count").text


def probabilities(browser):
    """Percents of the cards in view, in their order."""
    texts = "return [...document.querySelectorAll('#rows .card b')].map((b) => b.textContent)"
    return [float(text.split("%")[0]) for text in browser.execute_script(texts)]


def cards(browser):
    """Texts of the cards in view, in their order.

    By one script: with the next frame the list may have other elements.
    """
    texts = "return [...document.querySelectorAll('#rows .card')].map((card) => card.innerText)"
    return browser.execute_script(texts)


def into_view(browser, element):
    browser.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element
    )


def click(browser, element):
    """A click where the element is, not below the toolbar that stays in view."""
    into_view(browser, element)
    element.click()


def choose(browser, field, text):
    """Choose an option by its text."""
    Select(browser.find_element(By.ID, f"filter-{field}")).select_by_visible_text(text)


def planned(file):
    """URI and label of what catdog takes from a table or list."""
    batches = list_images([str(file)], SourceLimits())
    return [(row["uri"], row["label"]) for batch in batches for row in batch.to_pylist()]
