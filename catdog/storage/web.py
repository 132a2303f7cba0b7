"""Files of web servers: byte ranges by `http://` or `https://` URL.

Lists of URLs name many hosts, some of which are gone, slow or hostile. So a host that does not answer
costs its rows and not the job. A host gets a few requests at a time, after the pause that it asks for
(`Retry-After`). Redirects are followed here, and each is checked like the URL itself (`addresses`).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import email.utils
import errno
import os
import random
import re
import time
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple, cast

from catdog.errors import ErrorCode, ImageRejected
from catdog.storage.failures import RangeOutsideError, changed, said
from catdog.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import ClientResponse, ClientSession
    from yarl import URL


PER_HOST = 6
"""Requests to a host at once, of each process: as many as a browser makes."""

PATIENCE_S = {"throttled": 120.0, "interrupted": 15.0, "unreachable": 4.0}
"""Seconds for which a request is repeated in all, by its failure. While a host fails, later requests to
it are not repeated."""

_REDIRECTS = 5
_WHOLE_BYTES = 1 << 30  # counted of a body without a length, at most
_SKIPPED_BYTES = 64 << 20  # read and thrown away where a server gives no ranges
_REQUEST_S = 300.0
_CHUNK_BYTES = 1 << 16


class Answer(NamedTuple):
    """A byte range, and what the server says of the whole file."""

    data: bytes
    size: int
    etag: str
    headers: Mapping[str, str]


class _Trouble(Exception):
    """A failure: what it is, whether it may pass, and when to try again."""

    def __init__(self, kind: str, error: Exception, wait_s: float = 0.0) -> None:
        self.kind, self.error, self.wait_s = kind, error, wait_s


class _Host:
    """What a process remembers of a host."""

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(PER_HOST)
        self.not_before = 0.0
        self.failing = False


def web_range(
    uri: str,
    offset: int,
    length: int,
    stamp: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[bytes, int]:
    """A byte range of a file, and the size of the whole file; as `get` and `files.read_range`."""
    if length <= 0:
        return b"", 0
    try:
        answer = get(uri, offset, length, headers)
    except RangeOutsideError:
        answer = Answer(b"", 0 if stamp is None else int(stamp.partition("-")[0], 16), "", {})
    size, _, etag = (stamp or "-").partition("-")
    if (size and int(size, 16) != answer.size) or (etag and answer.etag not in {"", etag}):
        raise changed()
    return answer.data, answer.size


def size_and_stamp(uri: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """The size of a file in bytes and its stamp; as `get` and `files.read_range`."""
    try:
        _, size, etag, _ = get(uri, 0, 1, headers)
    except RangeOutsideError:
        return 0, "0-"
    return size, f"{size:x}-{etag}"


def get(url: str, offset: int, length: int, headers: Mapping[str, str] | None = None) -> Answer:
    """A byte range of a URL's file.

    Args:
        url: as in a list: what URLs cannot hold is escaped.
        offset: of the first byte.
        length: of the range; the whole file where it is not there.
        headers: only for the host of the URL, not for those that it redirects to.

    Raises:
        OSError: the file is missing, forbidden or unreadable.
        ImageRejected: the server gives no ranges, and this one lies too far behind.
    """
    import fsspec.asyn

    loop = fsspec.asyn.get_loop()
    return cast("Answer", fsspec.asyn.sync(loop, _patiently, url, offset, length, headers or {}))


_sessions: dict[int, ClientSession] = {}
_hosts: defaultdict[tuple[int, str], _Host] = defaultdict(_Host)


async def _session() -> ClientSession:
    import aiohttp

    from catdog.storage.addresses import Resolver

    session = _sessions.get(os.getpid())
    if session is None:
        session = _sessions[os.getpid()] = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=128, resolver=Resolver()),
            timeout=aiohttp.ClientTimeout(total=_REQUEST_S, sock_connect=10, sock_read=30),
            headers={"User-Agent": f"catdog-ray/{__version__}", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        atexit.register(_close, session, asyncio.get_running_loop())
    return session


def _close(session: ClientSession, loop: asyncio.AbstractEventLoop) -> None:
    """At the end of the process, which aiohttp would complain of otherwise."""
    if loop.is_running() and not session.closed:
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(session.close(), loop).result(1)


async def _patiently(url: str, offset: int, length: int, headers: Mapping[str, str]) -> Answer:
    started = time.monotonic()
    delay_s = 0.2
    host: _Host | None = None
    repeated = False
    while True:
        try:
            target = _parsed(url)
            host = _hosts[os.getpid(), target.raw_authority]
            answer = await _followed(target, offset, length, headers)
        except _Trouble as trouble:
            wait_s = max(trouble.wait_s, delay_s * random.uniform(0.5, 1.0))  # noqa: S311
            waited_s = time.monotonic() + wait_s - started
            hopeless = host is None or (host.failing and trouble.kind != "throttled")
            patience_s = PATIENCE_S.get(trouble.kind, 0.0)
            # As in `failures.retried`: a request that hangs takes all patience by itself.
            if hopeless or wait_s > patience_s or (repeated and waited_s > patience_s):
                if host is not None and trouble.kind in {"interrupted", "unreachable"}:
                    host.failing = True
                raise trouble.error from None
            delay_s = min(1.7 * delay_s, 10.0)
            await asyncio.sleep(wait_s)
            repeated = True
        else:
            host.failing = False
            return answer


def _parsed(url: str) -> URL:
    from yarl import URL

    try:
        parsed = URL(url).with_fragment(None)
        if parsed.scheme in {"http", "https"} and parsed.host:
            return parsed
    except ValueError:
        pass
    raise _Trouble("refused", OSError(errno.EINVAL, said("It is not the URL of a web server.")))


async def _followed(url: URL, offset: int, length: int, headers: Mapping[str, str]) -> Answer:
    """The answer to a request, after at most as many redirects as are permitted."""
    origin = url.origin()
    for _ in range(_REDIRECTS + 1):
        own = headers if url.origin() == origin else {}
        host = _hosts[os.getpid(), url.raw_authority]
        if (pause_s := host.not_before - time.monotonic()) > PATIENCE_S["throttled"]:
            raise _Trouble(
                "throttled", _unreadable("The server asks for too long a wait."), pause_s
            )
        await asyncio.sleep(max(0.0, pause_s))
        async with host.places:
            answer = await _asked(url, offset, length, own)
        if isinstance(answer, Answer):
            return answer
        url = answer.with_user(None)
    raise _Trouble("refused", OSError(errno.ELOOP, said("The server redirects without end.")))


async def _asked(url: URL, offset: int, length: int, headers: Mapping[str, str]) -> Answer | URL:
    """One request: an answer, or where it redirects to."""
    import aiohttp

    from catdog.storage.addresses import AddressRefusedError, refuse_host

    session = await _session()
    wanted = {"Range": f"bytes={offset}-{offset + length - 1}", **headers}
    try:
        refuse_host(url)
        async with session.get(url, headers=wanted, allow_redirects=False) as response:
            if response.status in {301, 302, 303, 307, 308}:
                return _parsed(str(url.join(_location(response))))
            _refuse_status(response, url)
            return await _read(response, offset, length)
    except AddressRefusedError:
        raise _Trouble("refused", _address_refused(url)) from None
    except aiohttp.ClientConnectorDNSError as error:
        if isinstance(error.__cause__, AddressRefusedError):
            raise _Trouble("refused", _address_refused(url)) from None
        raise _Trouble("unreachable", _unreadable("Its host cannot be found.")) from None
    except aiohttp.ClientConnectorCertificateError:
        raise _Trouble("refused", _unreadable("The server's certificate is not trusted.")) from None
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise _Trouble("unreachable", _unreadable("Its host does not answer.")) from None
    except (aiohttp.InvalidURL, aiohttp.ServerFingerprintMismatch, aiohttp.TooManyRedirects):
        raise _Trouble("refused", _unreadable("It is not the URL of a web server.")) from None
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        sentence = f"The transfer failed with {type(error).__name__}."
        raise _Trouble("interrupted", _unreadable(sentence)) from None


def _unreadable(sentence: str) -> OSError:
    return OSError(errno.EIO, said(sentence))


def _address_refused(url: URL) -> OSError:
    return PermissionError(
        errno.EACCES,
        said(f"{url.host} is not a public address; to permit it, name it with --allow-hosts."),
    )


def _location(response: ClientResponse) -> URL:
    from yarl import URL

    try:
        return URL(response.headers["Location"])
    except (KeyError, ValueError):
        raise _Trouble("refused", _unreadable("The server redirects to nowhere.")) from None


def _refuse_status(response: ClientResponse, url: URL) -> None:
    """Raise the error of a status other than 200 and 206."""
    status = response.status
    if status in {200, 206}:
        return
    if status in {404, 410}:
        error: Exception = FileNotFoundError(
            errno.ENOENT, said(f"The server has no such file ({status}).")
        )
        raise _Trouble("missing", error)
    if status in {401, 402, 403, 407, 451}:
        error = PermissionError(errno.EACCES, said(f"The server denies access ({status})."))
        raise _Trouble("forbidden", error)
    if status == 416:
        error = RangeOutsideError(errno.EINVAL, said("The range lies outside of the file."))
        raise _Trouble("range", error)
    if status in {429, 503}:
        wait_s = _retry_after(response.headers.get("Retry-After", ""))
        host = _hosts[os.getpid(), url.raw_authority]
        host.not_before = max(host.not_before, time.monotonic() + wait_s)
        sentence = f"The server kept throttling ({status}) for too long."
        raise _Trouble("throttled", _unreadable(sentence), wait_s)
    kind = "interrupted" if status == 408 or status >= 500 else "refused"
    raise _Trouble(kind, _unreadable(f"The server answered {status}."))


def _retry_after(text: str) -> float:
    """Seconds, from a header with seconds or a date; 0 if it has neither."""
    if re.fullmatch(r"\d{1,6}", text.strip()):
        return float(text)
    date = email.utils.parsedate_tz(text)
    return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else 0.0


async def _read(response: ClientResponse, offset: int, length: int) -> Answer:
    """The wanted part of a body; a server without ranges sends all of it."""
    etag = response.headers.get("ETag", "")
    etag = "" if etag.startswith("W/") else etag
    found = re.fullmatch(
        r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip()
    )
    if response.status == 206:
        if found is None or int(found[1]) != offset or found[2] == "*":
            raise _Trouble("refused", _unreadable("The server answered another range."))
        data, _ = await _taken(response, 0, length)
        if len(data) < min(length, int(found[2]) - offset):
            raise _Trouble("interrupted", _unreadable("The transfer broke off."))
        return Answer(data, int(found[2]), etag, response.headers)
    if offset > _SKIPPED_BYTES:
        sentence = "The server gives no ranges, which a file of this size is read by."
        raise _Trouble("refused", _unsupported(sentence))
    size = response.content_length
    data, over = await _taken(response, offset, length)
    if size is None:
        size = offset + len(data) + over + await _rest(response)
    elif len(data) < min(length, size - offset):
        raise _Trouble("interrupted", _unreadable("The transfer broke off."))
    return Answer(data, size, etag, response.headers)


def _unsupported(sentence: str) -> ImageRejected:
    return ImageRejected(ErrorCode.UNSUPPORTED, sentence)


async def _taken(response: ClientResponse, skip: int, length: int) -> tuple[bytes, int]:
    """This many bytes of a body, and how many more came with them."""
    taken = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        taken += chunk[skip:] if skip else chunk
        skip = max(0, skip - len(chunk))
        if len(taken) >= length:
            break
    return bytes(taken[:length]), max(0, len(taken) - length)


async def _rest(response: ClientResponse) -> int:
    """The number of bytes left of a body of unknown length."""
    count = 0
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        count += len(chunk)
        if count > _WHOLE_BYTES:
            raise _Trouble("refused", OSError(errno.EFBIG, said("The file does not end.")))
    return count
