"""The order of the house: floors, doors, what stays light."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import catdog
from catdog.runtime import private_names
from catdog.storage import private_names as storage_names

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "catdog"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
DOORS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
FILES = [
    *PACKAGE.rglob("*.py"),
    *(
        path
        for name in ("benchmarks", "jobs", "examples", "docs")
        for path in (ROOT / name).rglob("*.py")
    ),
]
PAGES = sorted(
    [*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))]
)
LIBRARIES = {"ds", "fsspec", "keras", "os", "ray", "strategy", "tf", "tool", "torch"}
OTHERS = {"model.fit", "model.predict"}  # methods of Keras
# What ends the name of a file, which no module of the package is called.
SUFFIXES = set(
    "bin cfg csv html ini db json jsonl keras lock log npz onnx parquet png py sbatch sh tar tflite txt "
    "xml yaml zip".split()
)
BY_FILE = [["storage", "patient_s3"]]  # loads s3fs, which few who come to the door need


def room_of(path):
    """The room that a file of the package belongs to, and nothing for all others."""
    inside = path.is_relative_to(PACKAGE) and len(path.relative_to(PACKAGE).parts) > 1
    return path.relative_to(PACKAGE).parts[0] if inside else None


@functools.cache
def nodes(path):
    """Every node of a file's syntax tree; each file is parsed once for all tests."""
    return list(ast.walk(ast.parse(path.read_text())))


@functools.cache
def imports(path):
    """Module and name of each `from catdog... import name`, wherever in the file it stands."""
    found = []
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("catdog"):
            found += [(node.module.split(".")[1:], alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("catdog."):
                    *module, name = alias.name.split(".")[1:]
                    found.append((module, name))
    return found


def test_no_import_runs_up():
    """The contracts of pyproject.toml are kept, imports for types included, and no circle is left."""
    tool = Path(sys.executable).with_name("lint-imports")
    command = [str(tool), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rooms_meet_at_the_door():
    """Whoever is not of a room imports what its door exports, and nothing from inside."""
    wrong = []
    for path in FILES:
        for module, name in imports(path):
            if not module or module[0] not in DOORS or module[0] == room_of(path):
                continue
            exported = importlib.import_module(f"catdog.{module[0]}").__all__
            if module not in BY_FILE and (len(module) > 1 or name not in exported):
                wrong.append(f"{path.relative_to(ROOT)}: {name} of {'.'.join(module)}")
    assert wrong == []


def uses(path):
    """Room and name of all that a file uses of other rooms: imported, or as `room.name`."""
    room = room_of(path)
    rooms = {name for module, name in imports(path) if not module}
    found = {(module[0], name) for module, name in imports(path) if module}
    for node in nodes(path):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found |= {(node.value.id, node.attr)} if node.value.id in rooms else set()
    return {(other, name) for other, name in found if other != room}


def test_doors_export_what_others_use():
    """A name that no other room, benchmark or example uses is the room's own business."""
    used = {use for path in FILES for use in uses(path)}
    exported = {
        (room, name) for room in DOORS for name in importlib.import_module(f"catdog.{room}").__all__
    }
    assert exported - used == set()


def test_doors_are_light():
    """What comes and goes at the doors of the lower rooms needs neither Ray nor TensorFlow."""
    code = (
        "import importlib, sys\n"
        "for room in ('storage', 'inputs', 'pixels', 'results'):\n"
        "    door = importlib.import_module(f'catdog.{room}')\n"
        "    [getattr(door, name) for name in door.__all__]\n"
        "heavy = {'ray', 'tensorflow', 'keras', 'openvino'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def private_uses(path):
    """Names with an underscore that a file takes from what is not its own."""
    for node in nodes(path):
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not own and re.match("_[a-z]", node.attr):
                yield node.attr
        elif isinstance(node, ast.ImportFrom) and not re.match("catdog|__", node.module or ""):
            for alias in node.names:
                if re.search(r"(^|\.)_[a-z]", name := f"{node.module}.{alias.name}"):
                    yield name


# Of namedtuples and of the standard library: public in spite of the underscore.
PUBLIC = {"_replace", "_exit"}


def test_private_names_of_libraries_are_listed():
    """None is used that a room's `private_names` does not name, and none is named for nothing."""
    text = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    ours = {f"_{name}" for name in re.findall(r"(?:def |class |self\.)_(\w+)", text)} | PUBLIC
    used = {use for path in PACKAGE.rglob("*.py") for use in private_uses(path)} - ours
    listed = private_names.RAY | private_names.KERAS | storage_names.S3FS
    assert [use for use in used if not any(use in name for name in listed)] == []
    assert [name for name in listed if not any(use in name for use in used)] == []


@functools.cache
def defined(room):
    """Names of the functions and classes of a room, methods as `Class.method`."""
    files = (
        (PACKAGE / room).rglob("*.py") if (PACKAGE / room).is_dir() else [PACKAGE / f"{room}.py"]
    )
    return set().union(*(definitions(path) for path in files))


def definitions(path):
    """Names of the functions and classes of a file, methods as `Class.method`."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    found = set()
    for node in nodes(path)[0].body:
        if isinstance(node, kinds):
            found.add(node.name)
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, kinds)}
    return found


def test_the_walks_lead_through_the_code():
    """Each function and class that docs/architecture.md names is in the room that it names."""
    steps = [line for line in ARCHITECTURE.splitlines() if re.match(r"\| \d", line)]
    named = re.findall(r"`([a-z]+)\.(?!json)([A-Za-z]\w*(?:\.\w+)?)`", "\n".join(steps))
    assert len(named) > 25
    assert [f"{room}.{name}" for room, name in named if name not in defined(room)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_names_of_the_code_are_there(page):
    """Each `room.name` or `file.name` in a document is in that room or file of the package."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for name in re.findall(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?:\(.*?\))?`", text):
        place, _, rest = name.removeprefix("catdog.").partition(".")
        if name in OTHERS or place in LIBRARIES or name.rpartition(".")[2] in SUFFIXES:
            continue
        assert rest in there(place) if rest else place in {*dir(catdog), *DOORS}, name


@functools.cache
def there(place):
    """The files of a room and what is defined in it, or what is defined in a file."""
    paths = [
        path for path in PACKAGE.rglob("*") if place in (path.name, path.name.removesuffix(".py"))
    ]
    found = set()
    for path in paths:
        for file in path.rglob("*.py") if path.is_dir() else [path]:
            names = definitions(file)
            found |= {*names, file.stem, *(f"{file.stem}.{each}" for each in names)}
    return found


def test_the_map_has_the_floors_of_the_contract():
    """Its table names the same rooms in the same order."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (floors,) = [each["layers"] for each in contracts["contracts"] if each["type"] == "layers"]
    table = ARCHITECTURE.split("\n\n")[2]
    drawn = [set(re.findall(r"`(\w+)`", line.split("|")[2])) for line in table.splitlines()[2:]]
    assert drawn == [set(floor.split(" | ")) for floor in floors if floor != "__main__"]
