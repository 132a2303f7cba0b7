"""`catdog review`: the page from a server, by clicking and typing, and who may ask that server what."""

from __future__ import annotations

import csv
import http.client
import json
import signal
import socket
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pytest
from axe_core_python.selenium import Axe
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from catdog import reviewing
from catdog.errors import UserInputError
from catdog.inputs import PLAN_SCHEMA, SourceLimits, list_images
from catdog.observer import Observer
from catdog.pixels import OUTCOME_SCHEMA
from catdog.results import ledger, part_files
from catdog.reviewing import ReviewConfig
from tests.jobs import catdog
from tests.ledgers import write_json, write_part, write_plan
from tests.reporting.pages import (
    LABELS,
    cards,
    choose,
    classify,
    click,
    eventually,
    expect,
    into_view,
    planned,
    probabilities,
    rows_of,
    score,
    until,
)

ROWS = 100_000


@contextmanager
def served(**asked):
    """The server of results, in this process; gives its summary."""
    with reviewing.opened(ReviewConfig(**asked), Observer()) as opened:
        thread = threading.Thread(target=opened.run)
        thread.start()
        try:
            yield opened.summary
        finally:
            opened.stop()
            thread.join()


@pytest.fixture(scope="module")
def many(pets, tmp_path_factory):
    """A results folder of 100,000 rows: 120 pictures that are there, all others gone since."""
    folder = tmp_path_factory.mktemp("many")
    listed = pa.Table.from_batches(list(list_images([str(pets.parent / "in")], SourceLimits())))
    there = listed.filter(pa.array(["/10" not in uri for uri in listed["uri"].to_pylist()]))
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, ROWS)
    gone = [f"gone/{LABELS[truth[n]]}/{n}.jpg" for n in range(there.num_rows, ROWS)]
    columns = {
        name: pa.nulls(len(gone), PLAN_SCHEMA.field(name).type) for name in PLAN_SCHEMA.names
    }
    columns["codec"] = [there["codec"][0].as_py()] * len(gone)
    columns |= {"uri": [f"file:///{name}" for name in gone], "name": gone}
    entries = pa.concat_tables([there, pa.table(columns, PLAN_SCHEMA)])
    plan = write_plan((folder / "out").as_uri(), entries.to_batches(max_chunksize=10_000))
    outcome = {"width": 40, "height": 30, "format": "JPEG", "size": 700}
    outcomes = pa.Table.from_pylist([outcome] * max(plan.shard_images), OUTCOME_SCHEMA)
    for shard in range(plan.shards):
        entries = plan.read_shard(shard)
        best = (0.5003 + rng.integers(0, 499, entries.num_rows) / 1000).astype(np.float32)
        flip = rng.random(entries.num_rows) < 0.5
        scores = np.where(
            flip[:, None], np.stack([best, 1 - best], 1), np.stack([1 - best, best], 1)
        )
        rows = part_files.build_rows(
            entries["uri"],
            outcomes.slice(0, entries.num_rows),
            scores,
            labels=LABELS,
            min_probability=0.0,
            model="f" * 64,
        )
        write_part(plan, shard, rows, LABELS)
    write_json(plan, ledger.RUN_FILE, {"question": {"model": "f" * 64}, "config": {}})
    return folder / "out"


@pytest.fixture(scope="module")
def address(many):
    """Where the page of `many` is served."""
    with served(results=str(many), output=str(many.parent / "labels.csv")) as summary:
        yield summary.url


def open_page(browser, url):
    """Open a served page, with fresh logs, and wait for its rows."""
    browser.get_log("browser")
    browser.get(url)
    until(browser, "return document.querySelector('#review[data-ready]')")


PICTURES = """return [...document.querySelectorAll('#rows .card img')]
    .filter((each) => each.complete && each.naturalWidth).length"""


def test_any_of_a_hundred_thousand_is_near(browser, address):
    """All are found; the last is one key away; few are in the document, with their pictures."""
    open_page(browser, address)
    expect(browser, ROWS)
    until(browser, f"{PICTURES} > 8")
    rows = browser.find_element(By.ID, "rows")
    into_view(browser, rows)
    rows.send_keys(Keys.END)
    last = f'.card[aria-selected="true"][aria-posinset="{ROWS}"] bdi'
    until(browser, f"return document.querySelector('{last}')?.innerText === '{ROWS - 1}.jpg'")
    assert len(cards(browser)) < 100
    browser.execute_script("arguments[0].scrollTop = arguments[0].scrollHeight / 2", rows)
    until(browser, "return document.querySelector('.card bdi')?.textContent > '4'")


def test_a_list_higher_than_browsers_draw(browser, address):
    """In a narrow window the cards are higher together than the list: its two ends are in view still."""
    metrics = {"width": 420, "height": 700, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        open_page(browser, address)
        rows = browser.find_element(By.ID, "rows")
        height = "return document.querySelector('#rows .space').clientHeight"
        assert browser.execute_script(height) == 4_000_000 < ROWS * 92
        into_view(browser, rows)
        for key, place in ((Keys.END, ROWS), (Keys.ARROW_UP, ROWS - 1), (Keys.HOME, 1)):
            rows.send_keys(key)
            chosen = f'.card[aria-selected="true"][aria-posinset="{place}"]'
            until(browser, f"return document.querySelector('{chosen} bdi')")
            outside, inside = (
                f"document.querySelector('{each}').getBoundingClientRect()"
                for each in ("#rows", chosen)
            )
            tops, bottoms = (
                browser.execute_script(f"return [{outside}.{side}, {inside}.{side}]")
                for side in ("top", "bottom")
            )
            assert tops[0] - 2 <= tops[1]
            assert bottoms[1] <= bottoms[0] + 2
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_search_filter_sort_and_open(browser, address, many):
    """What is found is what the table says, in its order, also by a cell of the matrix."""
    open_page(browser, address)
    rows = rows_of(many, ["uri", "label", "probability"])
    name = browser.find_element(By.ID, "filter-name")
    click(browser, name)
    name.send_keys("CAT/99")
    expect(browser, sum("cat/99" in row["uri"] for row in rows))
    choose(browser, "label", "dog")
    expect(browser, sum("cat/99" in row["uri"] and row["label"] == "dog" for row in rows))
    browser.find_element(By.ID, "filter-clear").click()
    browser.find_element(By.ID, "filter-from").send_keys("80")
    browser.find_element(By.ID, "filter-to").send_keys("90")
    within = [row for row in rows if 0.8 <= row["probability"] < 0.9]
    expect(browser, len(within))
    choose(browser, "outcome", "wrong")
    choose(browser, "order", "least certain")
    expect(
        browser,
        sum(0.8 <= row["probability"] < 0.9 and row["label"] != row["truth"] for row in rows),
    )
    eventually(lambda: probabilities(browser) == sorted(probabilities(browser)))
    assert probabilities(browser) == sorted(probabilities(browser))
    for cell, (truth, label) in zip(
        browser.find_elements(By.CSS_SELECTOR, ".matrix .opener"),
        [(true, given) for true in LABELS for given in LABELS],
        strict=True,
    ):
        click(browser, cell)
        expect(browser, sum(row["truth"] == truth and row["label"] == label for row in rows))
        eventually(lambda: browser.switch_to.active_element.get_attribute("id") == "rows")
        assert all(label in text.splitlines()[0] for text in cards(browser))


def test_a_picture_that_is_gone_is_said_to_be(address):
    """404 with the reason; those that are there are pictures; what makes no sense is refused."""

    def first(name):
        asked = f"name={name}&label=-1&truth=-1&low=0&high=-1&outcome=&order=plan&search=1"
        found = json.loads(fetch(address, f"rows?{asked}&start=0&count=1")[1])
        return fetch(address, found["rows"][0]["picture"])

    status, content = first("gone")
    assert status == 404
    assert b"No such file" in content
    status, content = first("pets")
    assert (status, content[:4], content[8:12]) == (200, b"RIFF", b"WEBP")
    assert fetch(address, "pictures/0-99999")[0] == 400
    assert fetch(address, "rows?start=0")[0] == 400


def test_labels_and_marks_are_saved_as_they_are_made(browser, pets, tmp_path):
    """By keys and by the list; they are read by catdog, and a later review goes on with them."""
    table = tmp_path / "labels.csv"
    other = ["file:///elsewhere.jpg", "cat", ""]
    table.write_text(f"uri,label,labelled_before\n{','.join(other)}\n")
    listed = [row["uri"] for row in rows_of(pets)]
    with served(results=str(pets), output=str(table)) as summary:
        open_page(browser, summary.url)
        rows = browser.find_element(By.ID, "rows")
        into_view(browser, rows)
        rows.send_keys("2", Keys.ARROW_RIGHT, "m", Keys.ARROW_RIGHT, "1", "0", Keys.ARROW_RIGHT)
        rows.send_keys(Keys.ENTER)
        browser.switch_to.active_element.send_keys("1", Keys.ESCAPE)
        said = "document.getElementById('saved').textContent"
        expected = [(other[0], other[1]), (listed[0], "dog"), (listed[3], "cat")]
        eventually(lambda: planned(table) == expected)
        assert planned(table) == expected
        assert (tmp_path / "labels-marked.txt").read_text().splitlines() == [listed[1]]
        choose(browser, "outcome", "relabelled")
        expect(browser, 2)
        assert "now dog" in cards(browser)[0]
    with served(results=str(pets), output=str(table)) as summary:
        open_page(browser, summary.url)
        expect(browser, len(listed))
        assert ["now dog" in cards(browser)[0], "marked" in cards(browser)[1]] == [True, True]
        into_view(browser, browser.find_element(By.ID, "rows"))
        browser.find_element(By.ID, "rows").send_keys("m", Keys.ARROW_RIGHT)
        Select(browser.find_element(By.ID, "relabel")).select_by_value("1")
        until(
            browser,
            f"return {said}.startsWith('Saved: 3 new labels') && {said}.includes(' 2 marked')",
        )
    with table.open() as file:
        assert [row["uri"] for row in csv.DictReader(file)] == [other[0], *listed[:2], listed[3]]


def test_what_is_not_saved_is_said(browser, pets, tmp_path):
    """A file that cannot be written: the page says so, with the reason."""
    table = tmp_path / "labels.csv"
    with served(results=str(pets), output=str(table)) as summary:
        open_page(browser, summary.url)
        table.mkdir()
        browser.find_element(By.ID, "rows").send_keys("2")
        until(browser, "return document.getElementById('saved').textContent.startsWith('Not done')")
        assert "labels.csv" in browser.find_element(By.ID, "saved").text


@pytest.mark.slow
@pytest.mark.long
def test_against_and_screen_readers(browser, pets, tmp_path):
    """What changed opens, with what it was; axe-core knows no violation, nor does the console."""
    inputs = [str(pets.parent / "in")]
    classify((tmp_path / "other").as_uri(), inputs, lambda name: score(name)[::-1])
    config = {"results": str(pets), "against": str(tmp_path / "other")}
    with served(output=str(tmp_path / "labels.csv"), **config) as summary:
        open_page(browser, summary.url)
        choose(browser, "outcome", "changed")
        expect(browser, 120)
        assert all("was " in text for text in cards(browser))
        browser.find_element(By.ID, "rows").send_keys(Keys.ENTER)
        assert Axe().run(browser)["violations"] == []
        browser.switch_to.active_element.send_keys(Keys.ESCAPE)
        assert Axe().run(browser)["violations"] == []
        told = [each["message"] for each in browser.get_log("browser")]
        assert [each for each in told if "404 (Not Found)" not in each] == []


def fetch(url, path="", *, host=None, token=None, method="GET", body=None):
    """Status and content, of what a program asks."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    asked = f"/{token or parts.path.strip('/')}/{path}"
    connection.request(method, asked, body, {"Host": host or parts.netloc})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def test_only_who_has_the_address_is_answered(address):
    """Another token, none, or another host's name: nothing, of pages, rows, pictures and labels."""
    port = urlsplit(address).port
    token = urlsplit(address).path.strip("/")
    about = (
        "rows?name=&label=-1&truth=-1&low=0&high=-1&outcome=&order=plan&search=1&start=0&count=1"
    )
    body = json.dumps({"id": 0, "given": [1], "marked": True})
    for path, method in (("", "GET"), (about, "GET"), ("pictures/0-0", "GET"), ("marks", "POST")):
        asked = {"path": path, "method": method, "body": body if method == "POST" else None}
        for wrong in (
            {"token": token[:-1]},
            {"token": "x" * len(token)},
            {"token": "%C3%A9"},
            {"host": "evil.example"},
            {"host": f"evil.example:{port}"},
            {"host": f"127.0.0.1:{port + 1}"},
        ):
            assert fetch(address, **asked, **wrong)[0] == 404, (path, wrong)
        if method == "GET":
            assert fetch(address, **asked)[0] == 200


def test_nothing_listens_beyond_loopback(address):
    """The port is that of 127.0.0.1; at the machine's other addresses nobody answers."""
    port = f"{urlsplit(address).port:04X}"
    listening = [
        line.split()[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        if Path(table).exists()
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{port}") and line.split()[3] == "0A"
    ]
    assert listening == [f"0100007F:{port}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code", "last"), [(signal.SIGINT, 0, ""), (signal.SIGTERM, 143, "stopped by SIGTERM")]
)
def test_ends_when_it_is_asked_to(pets, tmp_path, sent, code, last):
    """With a page open: the port is closed, labels are there, no folder and no child is left."""
    environment = {"TMPDIR": str(tmp_path)}
    command = ("review", pets, "--output", tmp_path / "labels.csv", "--json")
    process = catdog(*command, environment=environment)
    summary = json.loads(process.stdout.readline())
    address = summary["url"]
    assert summary["images"] == 125
    assert fetch(address, "pictures/0-0")[0] == 200  # its child decodes
    body = json.dumps({"id": 7, "given": [1], "marked": False})
    assert fetch(address, "marks", method="POST", body=body)[0] == 200
    page = socket.create_connection(("127.0.0.1", urlsplit(address).port))
    process.send_signal(sent)
    output, errors = process.communicate(timeout=30)
    page.close()
    assert (process.returncode, output) == (code, "")
    assert last in errors
    assert "Traceback" not in errors
    with pytest.raises(OSError, match="refused"):
        fetch(address)
    assert len(planned(tmp_path / "labels.csv")) == 1
    assert {each.name for each in tmp_path.iterdir()} == {"labels.csv", "labels-marked.txt"}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"results": "/nowhere"}, "RESULTS /nowhere: no results there"),
        ({"port": 70_000}, "--port must be 0 to 65535"),
        ({"output": "labels"}, "--output labels: its name must end with .csv"),
    ],
)
def test_what_is_wrong_is_one_line(pets, asked, said):
    """It names the flag."""
    with pytest.raises(UserInputError, match=said), served(**{"results": str(pets)} | asked):
        pass


def test_a_port_that_is_taken_and_a_table_of_something_else(pets, tmp_path):
    """Likewise; the table stays as it is."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(UserInputError, match=f"--port {port}"),
            served(results=str(pets), port=port),
        ):
            pass
    table = tmp_path / "prices.csv"
    table.write_text("thing,price\nbread,3\n")
    with (
        pytest.raises(UserInputError, match=r"prices\.csv: is not a table of labels"),
        served(results=str(pets), output=str(table)),
    ):
        pass
    assert table.read_text() == "thing,price\nbread,3\n"
