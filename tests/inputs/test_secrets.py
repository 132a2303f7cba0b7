"""Credentials in lists, tables and arguments: nowhere written, whatever they stand in."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catdog import terminal
from catdog.cli import commands, event_log
from catdog.errors import CatdogError, UserInputError, without_secrets
from catdog.inputs import PLAN_SCHEMA, SourceLimits, list_images

LIMITS = SourceLimits()
KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPx=fiCY"
LEAKS = [
    f"s3://{KEY}:{SECRET}@bucket/x.jpg",
    f"S3A://{KEY}:{SECRET}@bucket/x.jpg",
    f"s3://{KEY}:{SECRET}:token/{SECRET}@bucket/a@b.jpg",
    f"s3://{KEY}:{SECRET}",
    f"s3:/{KEY}:{SECRET}@bucket/x.jpg",
    f"https://user:{SECRET}@host/x.jpg",
    f"https://user:{SECRET}@host:8080/x.jpg",
    f"https://{SECRET.replace('/', '')}@host/x.jpg",
    f"https://:{SECRET}@host/x.jpg",
    f"https://user:pass {SECRET}@host/x.jpg",
    f"HTTPS://user:{SECRET}@host/",
    f"hf://user:{SECRET}@datasets/x.jpg",
    f"https://host/x.jpg?X-Amz-Algorithm=A&X-Amz-Credential={KEY}/x&X-Amz-Signature={SECRET}&e=1",
    f"https://host/x.jpg?sv=1&sig={SECRET}",
    f"https://host/x.jpg?ACCESS_TOKEN={SECRET}#end",
    f"https://host/x.jpg?api_key={SECRET}",
    f"s3://bucket/x.jpg?X-Amz-Credential={KEY}&X-Amz-Signature={SECRET}",
    f"'s3://{KEY}:{SECRET}@bucket/x.jpg'",
    f"<https://user:{SECRET}@host/x.jpg>",
    f"url = https://user:{SECRET}@host/x.jpg",
    f"/s3://{KEY}:{SECRET}@bucket/x.jpg",
    f"x/../https://user:{SECRET}@host/",
    f"zip://a.jpg::s3://{KEY}:{SECRET}@bucket/x.zip",
    f"tar://a.jpg::https://user:{SECRET}@host/x.tar",
    f"parquet://3::s3://{KEY}:{SECRET}@bucket/x.parquet",
]
SAFE = [
    "s3://bucket/a@b.jpg",
    "s3://bucket/a:b@c.jpg",
    "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/mine/a@b.jpg",
    "https://host:8080/a@b.jpg",
    "http://127.0.0.1:8265: no answer, says root@host",
    "file://a:b@c.jpg",
    "zip://a:b@c.jpg::file:///x.zip",
    "hf://datasets/somebody/photos@main/x.jpg",
    "https://host/x.jpg?width=3&signal=2",
    "user@host: no such file",
    "use s3:// or a:b@c",
    "IMAGES https://: no host: ask a@b",
    "s3://bucket: no such bucket: ask a@b",
]


def leaked(text):
    return [
        part
        for part in (KEY, SECRET, SECRET.replace("/", ""), SECRET.split("/")[1])
        if part in text
    ]


@pytest.mark.parametrize("text", LEAKS)
def test_no_secret_is_left(text):
    """Users, passwords, keys and signatures become `***`; in a message that names the URI, too."""
    for each in (text, f"--output {text}: an s3:// URI must not hold credentials; see a@b"):
        assert not leaked(without_secrets(each))
        assert "***" in without_secrets(each)
    assert without_secrets(without_secrets(text)) == without_secrets(text)
    assert not leaked(str(UserInputError(f"{text}: no such file")))
    assert not leaked(str(CatdogError(text)))


@pytest.mark.parametrize("text", SAFE)
def test_what_is_no_secret_stays(text):
    """Access points, ports, and signs in names of files are left as they are."""
    assert without_secrets(text) == text


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "parquet", "bytes"])
def test_nothing_of_a_secret_is_planned(tmp_path, kind, caplog):
    """A line with credentials is one row with an error, without them; its neighbours are planned."""
    (tmp_path / "x.jpg").write_bytes(b"x")
    names = [*LEAKS, "x.jpg"]
    path = tmp_path / f"t.{'parquet' if kind == 'bytes' else kind}"
    match kind:
        case "txt":
            path.write_text("\n".join(names))
        case "csv":
            path.write_text("uri\n" + "".join(f'"{name}"\n' for name in names))
        case "jsonl":
            path.write_text("".join(json.dumps({"uri": name}) + "\n" for name in names))
        case "parquet":
            pq.write_table(pa.table({"uri": names}), path)
        case "bytes":
            columns = {
                "uri": names,
                "name": names,
                "bytes": [b"%d" % at for at in range(len(names))],
            }
            pq.write_table(pa.table(columns), path)
    table = pa.Table.from_batches(list_images([str(path)], LIMITS), PLAN_SCHEMA)
    assert not leaked(json.dumps(table.to_pylist()))
    assert not leaked(caplog.text)
    if kind == "bytes":
        assert table.num_rows == len(names)
    else:
        assert table["name"].to_pylist()[-1] == "x.jpg"
        assert table["error"].to_pylist()[-1] is None
        assert None not in table["error"].to_pylist()[:-1]


@pytest.mark.parametrize("text", LEAKS)
def test_arguments_with_secrets_are_refused_without_them(tmp_path, text, capsys):
    """As an input, an output and a model: exit code 2, one line, and nothing is left on the disk."""
    for arguments in (
        [text, "--output", str(tmp_path / "out")],
        [str(tmp_path), "--output", text],
        [str(tmp_path), "--model", text, "--output", str(tmp_path / "out")],
    ):
        assert commands.main(["classify", *arguments]) == 2
        printed = "".join(capsys.readouterr())
        assert not leaked(printed)
        assert printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    if text.startswith(("zip", "tar", "parquet")):
        (batch,) = list_images([text], LIMITS)
        assert not leaked(json.dumps(batch.to_pylist()))
    else:
        with pytest.raises(UserInputError) as caught:
            list(list_images([text], LIMITS))
        assert not leaked(str(caught.value))


@pytest.mark.parametrize("text", LEAKS)
def test_logs_and_screen_have_no_secret(tmp_path, text, capsys):
    """What nobody foresaw, with a URI in its message: neither its traceback nor its line tells it."""
    try:
        raise OSError(f"{text} cannot be read")
    except OSError as error:
        log = terminal.keep_traceback(error, tmp_path / "log")
        terminal.error_line("classify", f"a fault while reading {text}: {error}")
        with (tmp_path / "events").open("w") as file:
            event_log.EventLog(file, "classify", as_json=True).ended(70, error)
    assert "Traceback" in log.read_text()
    assert not leaked(log.read_text())
    assert "Traceback" in (tmp_path / "events").read_text()
    assert not leaked((tmp_path / "events").read_text())
    assert not leaked(capsys.readouterr().err)
