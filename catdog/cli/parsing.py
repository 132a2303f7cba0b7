"""Turns a typed command into its configuration, and a mistake in it into one line."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import io
import itertools
import re
import sys
import types
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from catdog import submission
from catdog.cli.arguments import COMMANDS, Submit
from catdog.errors import UserInputError
from catdog.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


POSITIONAL = {
    "images": "IMAGES ...",
    "results": "RESULTS",
    "places": "[PLACES ...]",
    "train_results": "TRAIN",
    "test_results": "TEST",
    "model_file": "MODEL",
    "shell": "{bash,zsh,fish}",
}
_METAVARS = POSITIONAL | {"allow_hosts": "HOST ...", "keep": "COLUMN ..."}
_OPTIONAL_VALUES = ConstructorRegistry()


def parse(arguments: list[str]) -> Any:
    """The command that was typed, as one of the classes of `COMMANDS`.

    Raises:
        UserInputError: says in one line what is wrong.
        SystemExit: help or the version was asked for, and is printed.
    """
    if arguments[:1] == ["--version"]:
        sys.stdout.write(f"catdog {__version__}\n")
        raise SystemExit(0)
    if not arguments or arguments[0] == "help":
        arguments = [*arguments[1:], "--help"]
    job: list[str] = []
    if "--help" in arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        raise UserInputError(_wrong_usage(arguments, ""))
    if arguments[0] == "submit":
        own, job = submission.split(arguments[1:])
        arguments = ["submit", *own]
    for flag, value in itertools.pairwise([*arguments, "-"]):
        if flag.startswith("--") and (value == "" or flag.endswith("=")):
            raise UserInputError(f"{flag.rstrip('=')}: its value is empty")
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            parsed = call_parser(arguments)
            return dataclasses.replace(parsed, command=tuple(job)) if job else parsed
    except SystemExit as error:
        if error.code == 2:
            raise UserInputError(_wrong_usage(arguments, message.getvalue())) from None
        raise


def job_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command that runs on a cluster, which are those with `--address`."""
    verbs = [
        name
        for name, kind in COMMANDS.items()
        if kind is not Submit and any(field.name == "address" for field in dataclasses.fields(kind))
    ]
    if not arguments or arguments[0] not in verbs:
        raise UserInputError(f"name the command to run on the cluster: {', '.join(verbs)}")
    return list(arguments)


@functools.cache
def _commands() -> Any:
    """The union of all commands' classes, as tyro wants it."""
    union: Any = None
    for name, kind in COMMANDS.items():
        _describe(kind)
        choice: Any = Annotated[kind, tyro.conf.subcommand(name)]
        union = choice if union is None else union | choice
    return union


def call_parser(arguments: Sequence[str]) -> Any:
    """Tyro itself, which prints and exits at a mistake."""
    return tyro.cli(
        _commands(),
        prog="catdog",
        description="Distributed batch image classification on Ray.",
        args=arguments,
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
        registry=_OPTIONAL_VALUES,
    )


def _describe(kind: type[Any]) -> None:
    """Make the help say IMAGES in place of STR, and leave out the defaults None and False.

    The docstrings say what such a default means.
    """
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        factory: Any = field.default_factory
        if isinstance(factory, type) and dataclasses.is_dataclass(factory):
            _describe(factory)  # its fields are flags, too
        if field.name in _METAVARS:
            described = tyro.conf.arg(metavar=_METAVARS[field.name], help_behavior_hint="")
        elif field.default is None or field.default is False:
            described = tyro.conf.arg(help_behavior_hint="")
        else:
            continue
        kind.__annotations__[field.name] = Annotated[hints[field.name], described]


@_OPTIONAL_VALUES.primitive_rule
def _optional_value(info: PrimitiveTypeInfo) -> Any:
    """`int | None` is an INT in the help: leaving the flag out is the way to say None."""
    kinds = get_args(info.type)
    if get_origin(info.type) not in (Union, types.UnionType) or types.NoneType not in kinds:
        return None
    (kind,) = (each for each in kinds if each is not types.NoneType)
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))
    if not isinstance(spec, PrimitiveConstructorSpec):
        return None
    return dataclasses.replace(
        spec,
        is_instance=lambda value: value is None or spec.is_instance(value),
        str_from_instance=lambda value: [] if value is None else spec.str_from_instance(value),
    )


def _wrong_usage(arguments: Sequence[str], boxed: str) -> str:
    """The parser's box of many lines, as one line that says what to do."""
    verb, rest = arguments[0], arguments[1:]
    if verb not in COMMANDS:
        if verb.startswith("-"):
            return f"{verb}: name a command first: {', '.join(COMMANDS)}"
        return f"{verb}: no such command{_meant(verb, COMMANDS) or _one_of(COMMANDS)}"
    known = flags(verb)
    given = [each.split("=", 1)[0].replace("_", "-") for each in rest if each.startswith("--")]
    short = [each for each in rest if re.fullmatch(r"-[A-Za-z][A-Za-z-]*", each) and each != "-h"]
    for flag in (*given, *short):
        if flag not in known:
            said = _meant(flag, known)
            return f"{flag}: no such flag{said}; `catdog {verb} --help` shows all"
    text = _folded(boxed)
    if "Missing from" in text:
        return _missing(verb, rest, given)
    return _wrong_value(text) or _unexpected(text, verb, rest) or text


def _missing(verb: str, rest: Sequence[str], given: Sequence[str]) -> str:
    kind = COMMANDS[verb]
    missing = [flag for flag in _required(kind) if flag not in given]
    words = len(list(itertools.takewhile(lambda each: not each.startswith("-"), rest)))
    places = [name for name in missing if not name.startswith("-")]
    missing = [name for name in missing if name not in places[:words]]
    example = re.search(r"Example: (.+)", kind.__doc__ or "")
    said = f"; for example: {example[1]}" if example else ""
    return f"{' and '.join(missing)}: missing{said}"


def _wrong_value(text: str) -> str | None:
    if found := re.search(r"Missing value for argument '(--[\w-]+)'", text):
        return f"{found[1]}: its value is missing"
    if found := re.search(
        r"invalid choice '(.*)' for argument '(.+?)'\. .*? one of \((.*)\)", text
    ):
        choices = [each.strip(" '") for each in found[3].split(",") if each.strip()]
        return f"{found[2]} {found[1]}: {_one_of(choices).removeprefix('; ')}"
    if found := re.search(
        r"Error parsing (--[\w-]+): (invalid literal|could not).*: '(.*?)'", text
    ):
        number = "whole number" if found[2] == "invalid literal" else "number"
        return f"{found[1]} {found[3]}: is not a {number}"
    return None


def _unexpected(text: str, verb: str, rest: Sequence[str]) -> str | None:
    found = re.search(r"Unrecognized options: (\S+?),?( |$)", text)
    if not found:
        return None
    said = f"{found[1]}: not expected here"
    if not any(field.name in POSITIONAL for field in dataclasses.fields(COMMANDS[verb])):
        return f"{said}; this command takes flags only, and `catdog {verb} --help` shows them"
    if len(rest) > 1:
        said += "; put everything that is not a flag together, before the flags"
    return f"{said}; `catdog {verb} --help` shows what is"


def _meant(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), 1)
    if re.fullmatch("-[a-z]", word):  # no flag but -h has a short form
        close = [flag for flag in known if flag.startswith(f"-{word}")]
    return f"; did you mean {close[0]}?" if close else ""


def _one_of(choices: Iterable[str]) -> str:
    return f"; choose one of {', '.join(choices)}"


def flags(verb: str) -> list[str]:
    """Every flag of a command, from its help."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        call_parser([verb, "--help"])
    return re.findall(r"^(?:│ |  )(?:-h, )?(--[a-z][\w-]*)", text.getvalue(), re.MULTILINE)


def _required(kind: type[Any]) -> list[str]:
    """The required arguments of a command, as users write them."""
    absent = dataclasses.MISSING
    names = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is absent and field.default_factory is absent
    ]
    return [written(name) for name in names]


def written(name: str) -> str:
    """A field as users know it: a flag, or a positional argument's name."""
    if name in POSITIONAL:
        return re.sub("_(results|file)$", "", name).upper()
    return f"--{name.replace('_', '-')}"


def _folded(boxed: str) -> str:
    """A box of several lines as one line, without its frame, its title and its last words."""
    lines = [re.sub(r"[\u2500-\u257f]+", " ", line).strip() for line in boxed.splitlines()]
    text = " ".join(" ".join(line for line in lines[1:] if line).split())
    return re.sub(r" ?For full helptext, .*", "", text)
