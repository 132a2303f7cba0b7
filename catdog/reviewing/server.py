"""The server of the page: on 127.0.0.1 only, and only for users with its URL."""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catdog import scratch, storage
from catdog.errors import CatdogError, ErrorCode, UserInputError
from catdog.reporting import Picture, ReportConfig, Review, examine, page_of, read_rows
from catdog.reviewing.config import ReviewConfig, ReviewSummary

if TYPE_CHECKING:
    from collections.abc import Iterator

    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from catdog.observer import Observer
    from catdog.reporting import Findings
    from catdog.reviewing.labels import Labels
    from catdog.reviewing.pictures import Thumbnails
    from catdog.reviewing.rows import Rows

LABELS_FILE = "_labels.csv"
"""With an underscore: readers that take the results folder as a dataset skip such files."""
_HOST = "127.0.0.1"
_ENDS_WITHIN_S = 3  # requests at the end are still answered
_MAX_TOGETHER = 1_000  # rows
_HEADERS = [
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


@dataclass(frozen=True)
class Opened:
    """A server that listens; `run` answers.

    Attributes:
        summary: where it is.
    """

    summary: ReviewSummary
    _server: uvicorn.Server
    _socket: socket.socket

    def run(self) -> None:
        """Answer until Ctrl-C, SIGTERM (which goes on to its handler) or `stop`."""
        with contextlib.suppress(KeyboardInterrupt):
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Make `run` return, from another thread."""
        self._server.should_exit = True


@contextlib.contextmanager
def opened(config: ReviewConfig, observer: Observer) -> Iterator[Opened]:
    """Read the results, listen.

    Raises:
        UserInputError: there are no results, the port is taken, or packages are missing.
        CatdogError: a file of the results is damaged.
    """
    started = time.monotonic()
    try:
        import uvicorn

        from catdog.reviewing.labels import Labels
        from catdog.reviewing.pictures import Thumbnails
        from catdog.reviewing.rows import Rows
    except ModuleNotFoundError as error:
        if error.name not in ("duckdb", "starlette", "uvicorn"):
            raise
        raise UserInputError(
            f"this Python has no {error.name}; run `pip install 'catdog-ray[review]'`"
        ) from error

    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(_listening(config.port))
        found = examine(ReportConfig(results=config.results, against=config.against), observer)
        folder = stack.enter_context(scratch.private_folder())
        rows = stack.enter_context(contextlib.closing(Rows(found, folder, observer)))
        table = storage.join(found.found_at, LABELS_FILE)
        labels = Labels(rows, storage.to_uri(config.output) if config.output else table)
        pictures = stack.enter_context(contextlib.closing(Thumbnails(found)))
        host, token = f"{_HOST}:{listening.getsockname()[1]}", secrets.token_urlsafe(32)
        server = uvicorn.Server(
            uvicorn.Config(
                _Guard(_application(found, rows, labels, pictures), host, token),
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,  # the token is in every line
                server_header=False,
                timeout_graceful_shutdown=_ENDS_WITHIN_S,
            )
        )
        seconds = round(time.monotonic() - started, 2)
        url = f"http://{host}/{token}/"
        summary = ReviewSummary(url, rows.count, labels.table, labels.marked, seconds)
        yield Opened(summary, server, listening)


def _listening(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((_HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise UserInputError(f"--port {port}: {error.strerror}; name another one") from error
    return listening


class _Guard:
    """Lets requests through that name this host and begin with the token.

    The token keeps out other accounts of the machine and other pages of the browser. The host name
    keeps out pages whose own host name was made to lead here.
    """

    def __init__(self, application: ASGIApp, host: str, token: str) -> None:
        self._application, self._host, self._token = application, host.encode(), token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import PlainTextResponse

        hosts = [value for name, value in scope["headers"] if name == b"host"]
        token, _, rest = scope["path"].removeprefix("/").partition("/")
        known = hmac.compare_digest(token.encode("utf-8", "replace"), self._token)
        if hosts != [self._host] or not known:
            answer: ASGIApp = PlainTextResponse("catdog review printed the address", 404)
        else:
            scope = {**scope, "path": f"/{rest}", "root_path": ""}
            answer = self._application

        async def send_more(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], *_HEADERS]
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                message = {**message, "headers": headers}
            await send(message)

        await answer(scope, receive, send_more)


def _application(found: Findings, rows: Rows, labels: Labels, pictures: Thumbnails) -> Starlette:
    """The application behind the guard: the page, its rows and pictures, and the target of new labels."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    from catdog.reviewing.rows import Query

    described = read_rows(found.plan, found.chosen.described())

    def page(_request: Request) -> Response:
        return HTMLResponse(_page(found, described, rows, labels))

    def some_rows(request: Request) -> Response:
        asked = request.query_params
        start, count = max(0, int(asked["start"])), min(int(asked["count"]), _MAX_TOGETHER)
        total, shown = rows.search(Query.read(asked), start, count)
        return JSONResponse({"found": total, "rows": shown})

    def picture(request: Request) -> Response:
        place = request.path_params["shard"], request.path_params["row"]
        made = pictures.get(place).result()
        if made.webp is None:
            return PlainTextResponse(made.trouble, 404)
        kept = {"cache-control": "private, max-age=3600"}  # a card is drawn at every move
        return Response(made.webp, media_type="image/webp", headers=kept)

    async def mark(request: Request) -> Response:
        told = await request.json()
        number, given, marked = int(told["id"]), told["given"], bool(told["marked"])
        await run_in_threadpool(labels.change, number, given, marked=marked)
        return JSONResponse({"said": labels.said()})

    def wrong(_request: Request, error: Exception) -> Response:
        return PlainTextResponse(f"{type(error).__name__}: {error}", 400)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/rows", some_rows),
            Route("/pictures/{shard:int}-{row:int}", picture),
            Route("/marks", mark, methods=["POST"]),
        ],
        exception_handlers=dict.fromkeys((KeyError, ValueError, OSError, CatdogError), wrong),
    )


def _page(found: Findings, described: dict[Any, dict[str, Any]], rows: Rows, labels: Labels) -> str:
    tally = found.reader.tally
    about = {
        "page": secrets.token_hex(8),
        "labels": tally.labels,
        "errors": [code.value for code in ErrorCode],
        "codes": rows.codes,
        "truth": tally.truth is not None,
        "several": tally.several,
        "other": found.other is not None,
        "count": rows.count,
        "said": labels.said(),
    }
    pictures = {
        (shard, row): Picture(
            f"pictures/{shard}-{row}",
            described[shard, row]["width"] or 4,
            described[shard, row]["height"] or 3,
        )
        for shard, row in found.chosen.pictured()
    }
    review = Review(about, rows.count, rows.count, len(pictures), tally.several)
    return page_of(found, described, pictures, review, served=True)
