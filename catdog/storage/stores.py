"""The store of a URI: the AWS profile for its requests, or none for requests without credentials.

By default the AWS environment decides for all. If images, results and model are on different stores,
a table in the environment names the profile of each, so that every process that this one starts
knows it. The table holds names of profiles and nothing secret.
"""

from __future__ import annotations

import functools
import json
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from catdog.errors import UserInputError
from catdog.storage.uris import to_uri

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "CATDOG_STORES"
"""Of the environment: JSON, a list of [prefix of URIs, profile or null, whether unsigned]."""

HOSTS_VARIABLE = "CATDOG_ALLOW_HOSTS"
"""Of the environment: names, addresses and networks, separated by commas."""

_YES = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True, kw_only=True)
class Stores:
    """Access to the stores of images, results and model, in place of the environment's.

    Attributes:
        source_profile: AWS profile (endpoint, region, credentials) of the store with the images.
            (default: the environment's)
        output_profile: AWS profile of the store with the results. (default: the environment's)
        model_profile: AWS profile of the store with the model. (default: the environment's)
        no_sign_request: Read the images without credentials, as public buckets allow.
        allow_hosts: Hosts that image URLs may lead to although their addresses are not public:
            names, addresses, or networks such as 10.1.0.0/16.
    """

    source_profile: str | None = None
    output_profile: str | None = None
    model_profile: str | None = None
    no_sign_request: bool = False
    allow_hosts: tuple[str, ...] = ()


class Access(NamedTuple):
    """Access to a store of S3."""

    profile: str | None = None
    unsigned: bool = False


class Place(NamedTuple):
    """Where a store of S3 is, and whether requests are signed, as botocore's files say.

    Endpoint and region are None where botocore's defaults are meant.
    """

    profile: str | None
    endpoint: str | None
    region: str | None
    unsigned: bool


_SCHEMES = ("s3://", "gs://", "az://")
_OUTPUTS = ("output", "results", "against", "train_results", "test_results", "thresholds")
_MODELS = ("model", "weights")


@contextmanager
def chosen(config: Any) -> Iterator[None]:
    """Within the block, this process and those that it starts access stores as a configuration says.

    Args:
        config: of a job. Its field `stores` says how; `output`, `model` and the like say what is
            where, and everything else is the source.

    Raises:
        UserInputError: this machine has no such profile.
    """
    stores: Stores | None = getattr(config, "stores", None)
    if stores is None or stores == Stores():
        yield
        return
    for flag in ("source_profile", "output_profile", "model_profile"):
        _check(f"--{flag.replace('_', '-')}", getattr(stores, flag))
    table: list[tuple[str, str | None, bool]] = [
        (scheme, stores.source_profile, stores.no_sign_request) for scheme in _SCHEMES
    ]
    for fields, profile in ((_OUTPUTS, stores.output_profile), (_MODELS, stores.model_profile)):
        named = (getattr(config, field, None) for field in fields)
        table += [(uri, profile, False) for value in named for uri in _remote(value)]
    told = {VARIABLE: json.dumps(table), HOSTS_VARIABLE: ",".join(stores.allow_hosts)}
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _remote(value: Any) -> Iterator[str]:
    """The URIs on stores among what a field of a configuration holds."""
    for text in value if isinstance(value, tuple) else (value,):
        with suppress(ValueError):  # whoever looks there says what is wrong with it
            if isinstance(text, str) and to_uri(text).startswith(_SCHEMES):
                yield to_uri(text).rstrip("/")


def for_workers() -> dict[str, str]:
    """Environment variables that workers on other machines need for the same access."""
    names = (VARIABLE, HOSTS_VARIABLE)
    return {name: os.environ[name] for name in names if name in os.environ}


def access(uri: str) -> Access:
    """Access to the store of a canonical `s3://` URI; the inner one of two places in the table counts."""
    table = _table(os.environ.get(VARIABLE, ""))
    fits = [row for row in table if f"{uri}/".startswith(row[0].rstrip("/") + "/")]
    if not fits:
        return Access()
    _, profile, unsigned = max(fits, key=lambda row: len(row[0]))
    return Access(profile, unsigned)


@functools.lru_cache(maxsize=8)
def _table(text: str) -> list[tuple[str, str | None, bool]]:
    return [tuple(row) for row in json.loads(text)] if text else []


def _check(flag: str, profile: str | None) -> None:
    if profile is None:
        return
    import botocore.session  # type: ignore[import-untyped]

    if profile not in botocore.session.Session().available_profiles:
        raise UserInputError(f"{flag} {profile}: the AWS configuration here has no such profile")


def place(how: Access) -> Place:
    """A store's settings, from botocore's environment and files.

    For a named profile, only the profile counts: an endpoint in the environment is that of another
    store.

    Raises:
        botocore.exceptions.ProfileNotFound: there is no such profile on this machine.
    """
    import botocore.session

    session = botocore.session.Session(profile=how.profile)
    settings = session.get_scoped_config()
    unsigned = how.unsigned
    if how.profile is None:
        unsigned = unsigned or os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in _YES
    preferred = session.get_config_variable("auth_scheme_preference") or ""
    unsigned = unsigned or preferred.split(",")[0].strip() == "noAuth"
    if how.profile is None:
        return Place(None, None, None, unsigned)
    services = session.full_config.get("services", {}).get(settings.get("services"), {})
    endpoint = services.get("s3", {}).get("endpoint_url") or settings.get("endpoint_url")
    return Place(how.profile, endpoint, settings.get("region"), unsigned)
