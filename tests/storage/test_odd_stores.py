"""S3 servers that answer oddly, which a sound one cannot be made to do."""

from __future__ import annotations

import itertools
import subprocess
import sys
from urllib.parse import parse_qs, urlsplit

import pytest

from catdog import storage
from catdog.inputs import SourceLimits, list_images
from tests.storage.servers import Answering, serving

PAGE = (
    '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<Name>b</Name><IsTruncated>true</IsTruncated>"
    "<NextContinuationToken>{token}</NextContinuationToken>{keys}</ListBucketResult>"
)


class OddStore(Answering):
    """Answers each listing by the server's `page` function, and keeps the headers it was sent."""

    def do_GET(self):  # noqa: N802 - http.server's name
        """A page, whatever is asked for but the table of an image folder."""
        self.server.seen.append(dict(self.headers))
        query = parse_qs(urlsplit(self.path).query)
        if "/metadata." in self.path:
            self.answer(404, b"")
            return
        self.answer(200, self.server.page(query.get("continuation-token", [""])[0]).encode())


@pytest.fixture
def odd_store(monkeypatch):
    """A server on this machine that the AWS environment points to."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with serving(OddStore, seen=[]) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


def contents(*names):
    return "".join(f"<Contents><Key>{n}</Key><Size>1</Size></Contents>" for n in names)


def same_token(count):
    return lambda _: PAGE.format(token="t", keys=contents(f"{next(count)}.jpg"))


def tokens_in_turn(count):
    return lambda token: PAGE.format(
        token="b" if token == "a" else "a", keys=contents(f"{next(count)}.jpg")
    )


def same_page(count):
    return lambda _: PAGE.format(token=f"t{next(count)}", keys=contents("1.jpg", "2.jpg"))


def nothing(count):
    return lambda _: PAGE.format(token=f"t{next(count)}", keys="")


@pytest.mark.parametrize("pages", [same_token, tokens_in_turn, same_page, nothing])
def test_a_listing_without_end_ends(odd_store, pages, monkeypatch):
    """One token for ever, two in turn, one page under new tokens, empty pages: an error, soon."""
    monkeypatch.setattr(storage.s3, "_EMPTY_PAGES", 20)
    odd_store.page = pages(itertools.count())
    with pytest.raises(OSError, match="listing does not end"):
        list(storage.remote_pages("s3://bucket/x/"))
    assert len(odd_store.seen) <= 22


@pytest.mark.parametrize("payer", ["requester", None])
def test_who_asks_may_pay(odd_store, monkeypatch, payer):
    """AWS_REQUEST_PAYER=requester is said with each request, and otherwise nothing is."""
    odd_store.page = lambda _: PAGE.format(token="", keys=contents("1.jpg"))
    if payer:
        monkeypatch.setenv("AWS_REQUEST_PAYER", payer)
    assert next(storage.remote_pages("s3://bucket/x/"))[0] == [("1.jpg", 1, "1-")]
    assert odd_store.seen[0].get("x-amz-request-payer") == payer


def test_a_whole_file_takes_no_more_memory_than_it_has(tmp_path):
    """A limit above the memory that a process may have is no reason to refuse a small file."""
    (tmp_path / "small").write_bytes(b"x" * 1000)
    code = (
        "import resource, sys; from catdog import storage\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "print(len(storage.read_bytes('file://' + sys.argv[1], 8 << 30)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "small")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1000\n"


LAST = PAGE.replace("true", "false").replace(
    "<NextContinuationToken>{token}</NextContinuationToken>", ""
)


@pytest.mark.slow
def test_a_key_that_is_named_twice_is_one_image(odd_store):
    """Within a page, and where a page begins with the last key of the one before."""
    pages = {
        "": PAGE.format(token="a", keys=contents("x/1.jpg", "x/2.jpg", "x/2.jpg")),
        "a": LAST.format(keys=contents("x/2.jpg", "x/3.jpg")),
    }
    odd_store.page = pages.get
    names = [
        name
        for batch in list_images(["s3://bucket/x/"], SourceLimits())
        for name in batch["name"].to_pylist()
    ]
    assert names == ["1.jpg", "2.jpg", "3.jpg"]


@pytest.mark.slow
def test_keys_with_empty_segments_are_names_like_others(odd_store):
    """Slashes at the beginning, in a row, or behind a folder of that name."""
    keys = ["x//1.jpg", "x///2.jpg", "x/a//3.jpg", "x/a/3.jpg"]
    odd_store.page = lambda _: LAST.format(keys=contents(*keys))
    found = [
        uri
        for batch in list_images(["s3://bucket/x/"], SourceLimits())
        for uri in batch["uri"].to_pylist()
    ]
    assert sorted(found) == sorted(f"s3://bucket/{key}" for key in keys)


def test_who_reads_may_pay_as_well(odd_store, monkeypatch):
    """Each client of a process says so with its ranges, s3fs and obstore."""
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    odd_store.page = lambda _: "a body"
    assert storage.read_range("s3://bucket/x.jpg", 0, 6) == b"a body"
    assert storage.read_range("s3://bucket/x//y.jpg", 0, 6) == b"a body"
    assert {headers.get("x-amz-request-payer") for headers in odd_store.seen} == {"requester"}
    assert len({headers.get("User-Agent") for headers in odd_store.seen}) == 2
