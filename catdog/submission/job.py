"""`catdog submit`: a command as a Ray job on a remote cluster, followed from here to its exit code.

The command line first checks the command's arguments with the command's own parser, and whether the
cluster can reach the paths in them. `submit` then sends the package as the job's working directory
and follows the job's log until the job ends. The job lives in the cluster: it continues if the
connection is lost or this process ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import tyro.conf

from catdog import scratch, terminal
from catdog.errors import CatdogError, UserInputError, counted, printable
from catdog.runtime import dependencies, embedded, package
from catdog.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Ray's own name for the job server's address.
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"

_OWN_FLAGS = {
    "--address": True,
    "--attach": True,
    "--dry-run": False,
    "--install": False,
    "--send-aws-credentials": False,
}
# They name files and settings of this machine, which mean nothing on the cluster.
_AWS_OF_THIS_MACHINE = {
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
}
_SECOND_CTRL_C_S = 5.0
# The head's agent, which starts jobs, is there some seconds after the job server.
_AGENT_WITHIN_S = 60.0


@dataclass(frozen=True, kw_only=True)
class SubmitConfig:
    """What to run on which cluster.

    Attributes:
        command: A command with its arguments, as without `submit`.
        address: URL of the cluster's job server, such as http://head:8265. (default:
            `RAY_API_SERVER_ADDRESS`)
        attach: Follow this job, submitted earlier, instead of submitting a new one.
        dry_run: Show what would be sent and its size, and send nothing.
        install: Have each node install the locked dependencies once. For clusters with nothing but
            Ray, such as the image rayproject/ray.
        send_aws_credentials: Send this machine's `AWS_*` variables to the job. Everybody with the
            cluster's token can read them there, so prefer the cluster's own credentials.
    """

    command: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="VERB ...", help_behavior_hint=""),
    ] = ()
    address: str | None = None
    attach: str | None = None
    dry_run: bool = False
    install: bool = False
    send_aws_credentials: bool = False


@dataclass(frozen=True)
class Job:
    """What is sent to the cluster.

    Attributes:
        identifier: chosen here, so that a request can be repeated if its answer is lost.
        entrypoint: the shell command that the cluster runs in the working directory.
        metadata: further entries in the cluster's list of jobs.
        environment: environment variables of the job's processes; values may be secrets.
        dependencies: what Ray installs on the nodes; empty if they have everything.
    """

    identifier: str
    entrypoint: str
    metadata: dict[str, str]
    environment: dict[str, str]
    dependencies: dict[str, Any]


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the flags of `submit`, which may stand anywhere, from the command with its arguments."""
    own: list[str] = []
    command: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag = argument.split("=", 1)[0].replace("_", "-")
        if flag in _OWN_FLAGS:
            own.append(argument)
            if _OWN_FLAGS[flag] and "=" not in argument:
                own += [value for value in [next(rest, None)] if value is not None]
        elif not command and argument.startswith("-"):
            own.append(argument)  # --help, or a flag that does not exist
        else:
            command.append(argument)
    return own, command


def submit(config: SubmitConfig, *, tensorflow: bool = True) -> int:
    """Submit and follow, or attach; returns the exit code of the job's own process.

    Args:
        config: the configuration, with a command that was checked by its own parser.
        tensorflow: whether the command needs TensorFlow, so that `install` installs it.

    Raises:
        UserInputError: no job server answers, it refuses the token, or it knows no job to attach to.
        CatdogError: contact or the cluster was lost for good, or the cluster could not run the job.
    """
    if config.attach is not None:
        if config.command or config.dry_run or config.install or config.send_aws_credentials:
            raise UserInputError("--attach: follows a job as it is; leave out the rest")
        address = _address(config)
        return _follow_to_end(_connect(address), config.attach, address)
    environment = os.environ if config.send_aws_credentials else {}
    job = plan_job(config.command, environment, install=config.install, tensorflow=tensorflow)
    with scratch.temporary_folder() as folder:
        files, size = package.stage(folder)
        if config.dry_run:
            _print_dry_run(config, job, folder, files, size)
            return 0
        address = _address(config)
        client = _connect(address)
        _say(f"sending {counted(files, 'file')} ({size / 1000:,.0f} kB) as job {job.identifier}")
        _send(client, job, str(folder))
    as_json = "--json" in config.command
    return _follow_to_end(client, job.identifier, address, as_json=as_json, submitted=True)


def look(address: str) -> str:
    """What the job server at this URL says of itself; sends nothing.

    Raises:
        UserInputError: it does not answer, or does not take the token.
        CatdogError: it does not list its jobs.
    """
    address = _address(SubmitConfig(address=address))
    client = _connect(address)
    try:
        version, jobs = client.version_of_ray(), client.list_jobs()
    except Exception as error:
        raise CatdogError(f"{address} lists no jobs: {_first_line(error)}") from error
    at_work = sum(not job.status.is_terminal() for job in jobs)
    return f"{address} answers: Ray {version}, {counted(at_work, 'job')} at work"


def check_reachable(flag: str, uri: str) -> None:
    """Refuse a path that names something else, or nothing, on the cluster.

    A plain path names a file of this machine. `file:///...` says that every node of the cluster has
    that path, such as a shared file system; this is not checked.

    Raises:
        UserInputError: names the flag and the value.
    """
    if "://" not in uri:
        raise UserInputError(
            f"{flag} {uri}: the cluster cannot see files of this machine; use s3://..., "
            "or file:///... for a path that every node of the cluster has"
        )
    if uri.startswith("file://") and not uri.startswith("file:///"):
        raise UserInputError(f"{flag} {uri}: write file:/// and an absolute path")


def plan_job(
    command: Sequence[str], environment: Any, *, install: bool = False, tensorflow: bool = True
) -> Job:
    """The job of a checked command; takes `AWS_*` variables from `environment`."""
    verb = command[0]
    identifier = f"catdog-{verb}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    return Job(
        identifier=identifier,
        # A module and not jobs/*.py: those are no part of an installed catdog.
        entrypoint=shlex.join(["python", "-m", "catdog", *command]),
        metadata={"catdog": __version__, "verb": verb},
        environment={
            name: value
            for name, value in environment.items()
            if name.startswith("AWS_") and name not in _AWS_OF_THIS_MACHINE
        },
        dependencies=dependencies.runtime_env(identifier, tensorflow=tensorflow) if install else {},
    )


def _address(config: SubmitConfig) -> str:
    address = config.address or os.environ.get(ADDRESS_VARIABLE)
    if not address:
        raise UserInputError("--address: name the cluster's job server, such as http://head:8265")
    address = address.rstrip("/")
    parts = urlsplit(address)
    if parts.scheme == "ray" and parts.hostname:
        raise UserInputError(
            f"--address {address}: jobs go to the job server, http://{parts.hostname}:8265 "
            "unless its port was changed; ray:// is an address for `catdog VERB --address`"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserInputError(
            f"--address {address}: not the URL of a job server, such as http://head:8265"
        )
    return address


def _connect(address: str) -> Any:
    """A client whose requests end: Ray's own waits for an answer without limit."""
    if urlsplit(address).scheme == "http" and urlsplit(address).hostname not in (
        "localhost",
        "127.0.0.1",
        "::1",
    ):
        _say(
            "warning: http beyond this machine shows the token to the network; forward the port, "
            "or use https"
        )
    embedded.expect_a_home()
    # Ray sends a token only if told so; told so without one, it refuses to start.
    if any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")) or (
        Path("~/.ray/auth_token").expanduser().exists()
    ):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Ray lets these two win over the address that was asked for.
    for name in (ADDRESS_VARIABLE, "RAY_ADDRESS"):
        os.environ.pop(name, None)
    import logging

    import requests
    from ray.job_submission import JobSubmissionClient

    refused = _refusal_of_tokens()

    class Client(JobSubmissionClient):  # type: ignore[misc]
        def _do_request(self, method: str, endpoint: str, **arguments: Any) -> Any:
            arguments.setdefault("timeout", 120 if method == "PUT" else 30)
            return super()._do_request(method, endpoint, **arguments)

        def version_of_ray(self) -> str:
            return str(self._do_request("GET", "/api/version").json()["ray_version"])

    logging.getLogger("ray").setLevel(logging.ERROR)
    for name in ("dashboard_sdk", "modules.job.sdk", "modules.dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.{name}").setLevel(logging.ERROR)
    try:
        return Client(address)
    except refused as error:
        raise UserInputError(
            f"--address {address}: the cluster asks for its token and got none, or a wrong one; "
            "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's"
        ) from error
    except (ConnectionError, RuntimeError, ValueError, requests.RequestException) as error:
        raise UserInputError(
            f"--address {address}: no job server answers ({_first_line(error)})"
        ) from error


def _refusal_of_tokens() -> tuple[type[BaseException], ...]:
    """What Ray raises where a cluster does not take the token; before 2.52 it has no tokens."""
    from ray import exceptions

    kind = getattr(exceptions, "AuthenticationError", None)
    return (kind,) if kind else ()


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def _send(client: Any, job: Job, folder: str) -> None:
    """Upload and submit; again where the answer was lost, without ever starting two jobs."""
    import requests

    runtime_env: dict[str, Any] = {"working_dir": folder} | job.dependencies
    if variables := runtime_env.get("env_vars", {}) | job.environment:
        runtime_env["env_vars"] = variables
    deadline = time.monotonic() + _AGENT_WITHIN_S
    attempt = 0
    while attempt < 4:
        if attempt:
            time.sleep(2**attempt)
        try:
            client.submit_job(
                entrypoint=job.entrypoint,
                submission_id=job.identifier,
                runtime_env=runtime_env,
                metadata=dict(job.metadata),
            )
        except (ConnectionError, requests.RequestException) as error:
            lost: Exception = error
            attempt += 1
        except RuntimeError as error:
            if attempt and "already" in str(error):
                return  # the request before arrived, only its answer did not
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise CatdogError(
                    f"the cluster did not accept the job: {_first_line(error)}"
                ) from error
            time.sleep(1)  # a cluster that has just started has none yet
        else:
            return
    raise CatdogError(f"the job server went away while the job was sent: {_first_line(lost)}")


def _follow_to_end(
    client: Any, identifier: str, address: str, *, as_json: bool = False, submitted: bool = False
) -> int:
    """Follow the job's log; the first Ctrl-C detaches, the second one stops the job."""
    attach = shlex.join(["submit", "--attach", identifier, "--address", address])
    come_back = f"{terminal.called_as()} {attach}"
    output = _Output(as_json=as_json)
    follower = _Follower(client, identifier, output.write, known=submitted)
    try:
        details = follower.run()
    except KeyboardInterrupt:
        return _detach(client, identifier, come_back)
    finally:
        output.close()
    if details is None:
        raise CatdogError(
            f"no contact with {address} for {_Follower.PATIENCE_S / 60:.0f} minutes; the job may "
            f"still run, come back with: {come_back}"
        )
    status = str(getattr(details.status, "value", details.status))
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        raise CatdogError(f"the job {identifier} was stopped; submit it again to continue")
    code = details.driver_exit_code
    if code is not None and 0 < code < 128:
        return int(code)  # the job has said in its log what was wrong
    lines = [line.strip() for line in (details.message or "").splitlines() if line.strip()]
    reason = f"ended by signal {abs(code) % 128}" if code else " ".join(lines[-1:]) or status
    raise CatdogError(f"the job {identifier} failed: {reason}; submit it again to continue")


def _detach(client: Any, identifier: str, come_back: str) -> int:
    _say(f"detached; the job continues. Come back with: {come_back}")
    try:
        # Said inside the block: whoever reads it may be quicker than the next line.
        _say(f"Ctrl-C again within {_SECOND_CTRL_C_S:.0f} seconds stops the job")
        time.sleep(_SECOND_CTRL_C_S)
    except KeyboardInterrupt:
        _say(f"stopping {identifier}")
        client.stop_job(identifier)
        deadline = time.monotonic() + 60
        while not client.get_job_status(identifier).is_terminal():
            if time.monotonic() > deadline:
                raise CatdogError(
                    f"the job {identifier} was told to stop but has not stopped; look with: {come_back}"
                ) from None
            time.sleep(0.5)
        _say("stopped; submit it again to continue")
    return 130


class _Follower:
    """Passes on a job's log piece by piece, each once, over as many connections as needed."""

    # Longer than a dashboard or a virtual private network takes to come back.
    PATIENCE_S = 600.0
    # A connection that died without a word looks like a silent job: ask again after so long.
    SILENCE_S = 45.0

    def __init__(
        self, client: Any, identifier: str, write: Callable[[str], None], *, known: bool
    ) -> None:
        self._client, self._identifier, self._write = client, identifier, write
        self._known = known  # to the cluster: it has taken the job, or told of it
        self._seen = 0  # characters of the log handed on; the server can only tell all of it
        self._ended = False
        self._last_contact = time.monotonic()

    def run(self) -> Any:
        """Follow until the job has ended and its log is told; None if contact is lost.

        Raises:
            UserInputError: the cluster knows no such job, or does not take the token any more.
            CatdogError: it knew the job and has lost it.
        """
        import requests

        refused = _refusal_of_tokens()
        wait_s, told = 1.0, False
        while True:
            try:
                self._client.get_job_info(self._identifier)
                self._known, self._last_contact = True, time.monotonic()
                asyncio.run(self._read())
                details = self._client.get_job_info(self._identifier)
            except refused as error:
                raise UserInputError("the cluster no longer accepts its token") from error
            except (RuntimeError, ConnectionError, OSError, requests.RequestException) as error:
                if "status code 404" in str(error):
                    if not self._known:
                        raise UserInputError(
                            f"--attach {self._identifier}: the cluster has no such job (any more)"
                        ) from error
                    # A new head: jobs live in the memory of the one that took them.
                    raise CatdogError(
                        f"the cluster was restarted and has lost the job {self._identifier}; "
                        "submit it again to continue"
                    ) from error
                if time.monotonic() - self._last_contact > self.PATIENCE_S:
                    return None
                if not told:
                    _say(f"connection lost ({_first_line(error)}); the job continues, reconnecting")
                told, wait_s = True, min(wait_s * 2, 15.0)
                time.sleep(wait_s)
                continue
            if told:
                _say("connected again")
            self._last_contact, wait_s, told = time.monotonic(), 1.0, False
            if details.status.is_terminal() and self._ended:
                return details

    async def _read(self) -> None:
        """Read from one connection until the log ends, or is silent for so long that it may be dead."""
        self._ended = False
        position = 0
        pieces = self._client.tail_job_logs(self._identifier)
        try:
            while True:
                # Python 3.11's `wait_for` loses a Ctrl-C that comes at the same time as a piece.
                async with asyncio.timeout(self.SILENCE_S):
                    piece = await anext(pieces)
                self._last_contact = time.monotonic()  # one connection can last for hours
                new = piece[max(0, self._seen - position) :]
                position += len(piece)
                if new:
                    self._seen = position
                    self._write(new)
        except StopAsyncIteration:
            self._ended = True
        except TimeoutError:
            pass
        except Exception as error:
            # The websocket's errors are aiohttp's, which Ray hands on in several shapes.
            raise ConnectionError(_first_line(error)) from error
        finally:
            await pieces.aclose()


class _Output:
    """The job's log on this terminal, whole lines only.

    With `as_json` the summary, the one line that is a JSON object, goes to standard output and
    everything else to standard error, as with the same command on this machine.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._rest = ""

    def write(self, text: str) -> None:
        """Print the lines that `text` completes."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._line(line)

    def close(self) -> None:
        """Print what is left of a last line."""
        if self._rest:
            self._line(self._rest)
        self._rest = ""

    def _line(self, line: str) -> None:
        # What a job prints must not be able to steer the terminal; Ray colours some lines.
        plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
        shown = printable(plain.expandtabs().rstrip("\r"))
        stream = sys.stderr if self._as_json and not _is_json_object(shown) else sys.stdout
        stream.write(shown + "\n")
        stream.flush()


def _is_json_object(line: str) -> bool:
    try:
        return line.startswith("{") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _print_dry_run(config: SubmitConfig, job: Job, folder: Path, files: int, size: int) -> None:
    rows = [
        ("address", config.address or os.environ.get(ADDRESS_VARIABLE) or "not named yet"),
        ("entrypoint", job.entrypoint),
        (
            "sends",
            f"the package catdog {__version__}: {counted(files, 'file')}, {size / 1000:,.0f} kB",
        ),
        *(("", f"  {line}") for line in package.listing(folder)),
        # Names only: values are secrets.
        ("environment", ", ".join(sorted(job.environment)) or "nothing of this machine's"),
        ("installs", job.dependencies["uv"]["packages"][0] if job.dependencies else "nothing"),
        ("metadata", json.dumps(job.metadata)),
    ]
    for name, value in rows:
        # Whole lines, however long: the entrypoint is there to be copied.
        sys.stdout.write(f"{name:<12}{printable(value)}\n")


def _say(text: str) -> None:
    """A line of this process's own, on standard error, apart from the job's log."""
    sys.stderr.write(f"catdog submit: {printable(text)}\n")
    sys.stderr.flush()
