"""The documents: every command and Python block in them is run, or checked against what it names.

The commands run in one folder that has what a reader would have (`reader`), in the order of the
pages, on the session's cluster. What only a cluster can do is checked against the command line's
own parser, the Makefile, the flags that exist and the files that are there. A line that no rule
here knows fails its page's test.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import catdog as catdog_package
from catdog import storage
from catdog.cli import commands as cli
from catdog.cli import parsing, summaries
from catdog.cli.arguments import COMMANDS
from tests.jobs import catdog

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import figures  # noqa: E402 - of docs/, which is no package
import flags  # noqa: E402 - likewise

PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "getting-started.md",
    *sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs" / "getting-started.md"}),
    ROOT / "cluster" / "README.md",
    ROOT / "CONTRIBUTING.md",
]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
VERBS = tuple(COMMANDS)

# The one place where a documented command is made smaller: these flags take the place of its own.
SMALLER = {
    "train": {
        "--architecture": "article",
        "--epochs": "1",
        "--height": "48",
        "--width": "48",
        "--workers": "1",
    },
    "demo": {"--drawings": "40", "--unseen": "20", "--epochs": "1", "--workers": "1"},
}
# What runs on the session's cluster once, however often the pages show it: it takes long.
ONCE = ("train", "demo")
# These go through the command's own parser and checks only.
ONLY_PARSED = {
    "catdog train photos/ --output runs/article --architecture article --steps-per-epoch 2000 "
    "--validation-steps 800": "takes hours; the README's command with other numbers",
    "catdog package net.onnx --labels cat dog --height 224 --width 224 --output runs/net": "wants a "
    "network of the reader's; tests/exchange has one",
    "catdog review results": "serves until it is ended; tests/reporting/test_reviewing.py runs it",
    "catdog review results --against results-first --port 8123": "likewise",
    "catdog classify s3://public-archive/2024/ --no-sign-request --output s3://bucket/results": "the "
    "test's store has no public bucket; tests/storage/test_stores.py has one",
    "catdog classify s3://archive/photos --source-profile theirs --output s3://bucket/results "
    "--output-profile mine": "likewise, with two stores",
    "catdog classify urls.txt --allow-hosts images.intranet 10.1.0.0/16 --output results": "needs an "
    "intranet; tests/storage/test_web.py is one",
    "catdog export --model runs/first --format onnx --output exported": "tests/exchange runs it",
}
# A reader's first three commands, on which other pages build.
FIRST = (
    "catdog train photos/ --output runs/first --test 0.1",
    "catdog classify photos/ --output results",
    "catdog classify photos/ --model runs/first --output results-first",
)
# What the pages of `duplicates`, `leaks` and `similar` start from.
EMBEDDED = (
    "catdog classify photos/ --output results-embedded --embeddings",
    "catdog classify archive.zip --output results-test --embeddings",
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str

    @property
    def commands(self):
        """The lines of a shell block, continued ones joined, without comments."""
        joined = self.text.replace("\\\n", " ")
        lines = (re.sub(r"\s+#.*", "", line).strip() for line in joined.splitlines())
        return [" ".join(line.split()) for line in lines if line and not line.startswith("#")]


def blocks(page):
    """The fenced blocks of a page; one without a language is a drawing or shell."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    drawing = re.compile("[\u2500-\u257f]")
    return [
        Block(language or ("text" if drawing.search(text) else "sh"), text)
        for language, text in found
    ]


def inline(page):
    """What stands between single backquotes outside of the blocks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


class Reader:
    """Somebody who tries what the pages say, in a folder of their own."""

    def __init__(self, folder, s3_server):
        self.folder, self.s3_server = folder, s3_server
        self.done = set()

    def run(self, line):
        """Run or check one line of a shell block; fails where no rule knows it."""
        program = shlex.split(line, comments=True)[0]
        if program == "catdog":
            self.catdog(line)
        elif program in CHECKS:
            CHECKS[program](shlex.split(line.removesuffix("&")))
        else:
            pytest.fail(f"no rule of {Path(__file__).name} knows how to run: {line}")

    def catdog(self, line):
        """Run a command where it can run; check it where it cannot."""
        words = shlex.split(line)[1:]
        verb = words[0]
        if line in ONLY_PARSED:
            cli._check_places(parsing.parse(words))
        elif verb == "submit":
            self.submit(words)
        elif verb in ONCE and line in self.done:
            pass
        elif any(word.startswith("s3://") for word in words):
            self.on_s3(words)
        else:
            output = self.call(smaller(words))
            if "--json" in words:
                json.loads(output)
        self.done.add(line)

    def call(self, words):
        """The command in this process, on the session's cluster; returns its standard output."""
        target = None
        if ">" in words:
            words, target = words[: words.index(">")], words[words.index(">") + 1]
        output = io.StringIO()
        with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
            if "<" in words:
                words, source = words[: words.index("<")], words[words.index("<") + 1]
                file = stack.enter_context(Path(source).open("rb"))
                patch.setattr(sys, "stdin", stack.enter_context(io.TextIOWrapper(file)))
            stack.enter_context(contextlib.redirect_stdout(output))
            assert cli.main(words) == 0, f"catdog {shlex.join(words)}"
        if target:
            Path(target).expanduser().write_text(output.getvalue())
        return output.getvalue()

    def submit(self, words):
        """What would be sent; tests/test_submission.py sends it. `--attach` names a job."""
        if "--attach" not in words:
            assert "entrypoint" in self.call([*words, "--dry-run"])
        else:
            assert parsing.parse(words).attach

    def on_s3(self, words):
        """The command as a process of its own, with the environment that S3 takes.

        Its standard output is one JSON object, and it is quiet but for its own lines.
        """
        process = catdog(*words, "--json", environment=self.s3_server.environment)
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        if words[0] == "doctor":  # an object a line
            assert all(json.loads(line)["ok"] for line in output.splitlines())
            return
        summary = json.loads(output)
        assert output.count("\n") == 1
        assert summary["planned"] == summary["classified"] + summary["rejected"] > 0
        own = re.compile(r" *[\d.]+[smh]( \d+[sm])?  \S.*")
        assert [line for line in errors.splitlines() if not own.fullmatch(line)] == []


def smaller(words):
    """A command with the flags of `SMALLER`."""
    kept = list(words)
    for flag, value in SMALLER.get(words[0], {}).items():
        if flag in kept:
            del kept[kept.index(flag) : kept.index(flag) + 2]
        kept += [flag, value]
    return kept


def check_make(words):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(words[1:]) <= set(targets)


def check_files(words):
    """Every file that `-f` or `--filename` names is in the repository."""
    for flag, name in itertools.pairwise(words):
        if flag in ("-f", "--filename"):
            assert (ROOT / name).is_file(), name


def check_kubectl(words):
    assert words[1] in {"apply", "create", "delete", "get", "logs", "port-forward"}
    check_files([word for word in words if word != "logs"] if words[1] != "logs" else [])


def check_docker(words):
    assert words[1] == "build"
    assert words[-1] == "."
    check_files(words)


def check_ray(words):
    """`ray up FILE` and the like; of `ray job submit`, the command that it runs."""
    if words[1:3] == ["job", "submit"]:
        check_python(words[words.index("--") + 1 :])
        return
    assert words[1] in {"up", "down", "dashboard", "status", "start", "stop"}
    assert all((ROOT / word).is_file() for word in words[2:] if word.endswith(".yaml"))


def check_python(words):
    """`python jobs/VERB.py ...` and other programs of the repository exist; jobs take the flags."""
    module = words[words.index("-m") + 1] if "-m" in words else None
    assert module is None or importlib.util.find_spec(module) is not None, module
    scripts = [ROOT / word for word in words if word.endswith(".py")]
    assert all(script.is_file() for script in scripts), words
    assert module or scripts
    for script in scripts:
        if script.parent.name == "jobs" and "..." not in words:
            parsing.parse([script.stem, *words[words.index(f"jobs/{script.name}") + 1 :]])


def check_sudo(words):
    """A system's package, or a program of the repository as root."""
    if words[1:3] != ["apt-get", "install"]:
        CHECKS[words[1]](words[1:])


def check_pipx(words):
    assert words[1:3] == ["run", "pip-audit"]
    assert (ROOT / words[-1]).is_file()


def check_local_script(words):
    assert (ROOT / "cluster" / Path(words[0]).name).is_file()


def check_sbatch(words):
    """Slurm itself is in tests/cluster/test_slurm.py; here the script is there and takes the command."""
    (script,) = [word for word in words if word.endswith(".sbatch")]
    assert (ROOT / script).is_file()
    assert parsing.parse(words[words.index(script) + 1 :])


CHECKS = {
    "sbatch": check_sbatch,
    "make": check_make,
    "kubectl": check_kubectl,
    "docker": check_docker,
    "ray": check_ray,
    "python": check_python,
    ".venv/bin/python": check_python,
    "sudo": check_sudo,
    "pipx": check_pipx,
    "../cluster/local.sh": check_local_script,
    "cluster/local.sh": check_local_script,
}
SHELL = re.compile(r"(mkdir|cd|echo|export|openssl)\b|[A-Z_a-z]+=\S*$")


def run_shell(lines, folder):
    """What is the shell's own, in bash, in a folder of its own; no cluster answers there."""
    if any(line.startswith("openssl") for line in lines) and not shutil.which("openssl"):
        pytest.skip("no openssl on this machine")
    kubectl = "kubectl() { echo; }"
    script = "\n".join(["set -eu", kubectl, *lines])
    subprocess.run(["bash", "-c", script], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def reader(ray_cluster, s3_server, drawings, tmp_path_factory):
    """A reader with photos, an archive, a list of them and a bucket, after the first commands."""
    folder = tmp_path_factory.mktemp("reader")
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.setenv("HOME", str(folder))
    for name in [name for name in os.environ if name.startswith(("AWS_", "XDG_"))]:
        patch.delenv(name)
    for label in ("cat", "dog"):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(24):
            name = f"photos/{label}/{label}.{number}.jpg"
            shutil.copy(drawings / label / f"{label}.{number}.jpg", folder / name)
    (folder / "list-of-uris.txt").write_text("photos/cat/cat.1.jpg\nphotos/dog/dog.1.jpg\n")
    shutil.make_archive(str(folder / "archive"), "zip", folder / "photos")
    s3_server.shell("s3.bucket.create -name bucket")
    with pytest.MonkeyPatch.context() as bucket:
        for name, value in s3_server.environment.items():
            bucket.setenv(name, value)
        storage.write_atomic("s3://bucket/archive.zip", (folder / "archive.zip").read_bytes())
        picture = (folder / "photos" / "cat" / "cat.2.jpg").read_bytes()
        storage.write_atomic("s3://bucket/more/cat.jpg", picture)
    reader = Reader(folder, s3_server)
    for line in (*FIRST, *EMBEDDED):
        reader.run(line)
    yield reader
    patch.undo()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_works(page, reader, tmp_path):
    """Every line of the page's shell blocks does what a reader expects; so do Python blocks."""
    for block in blocks(page):
        if block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.text, str(page), "exec"), {"__name__": "reader"})
        elif block.language == "sh":
            shell = [line for line in block.commands if SHELL.match(line)]
            folder = reader.folder if "openssl" not in block.text else tmp_path
            run_shell(shell, folder)
            for line in block.commands:
                if line not in shell:
                    reader.run(line)
        else:
            assert block.language == "text", f"what is a block of {block.language}?"


def test_the_recording_shows_no_machine_and_fetches_nothing():
    """The picture of a terminal in the README is drawn by itself, and names the reader's home only."""
    picture = (ROOT / "docs" / "recording.svg").read_text()
    assert "classified" in picture
    assert set(re.findall(r"url\((.)", picture)) <= {"#"}
    assert "href" not in picture
    assert "file:///home/you/results" in picture
    assert str(ROOT) not in picture
    assert ".venv" not in picture


def examples(name):
    """The Python blocks in the docstring of something that `catdog` offers; "" is the package's."""
    said = inspect.getdoc(getattr(catdog_package, name) if name else catdog_package) or ""
    return re.findall(r"^```python\n(.*?)^```$", said, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", "classify", "Progress", "report", "load_model", "Classifier"])
def test_examples_of_the_reference_work(name, reader):
    """What a docstring shows can be copied and run."""
    assert examples(name)
    for text in examples(name):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(text, f"catdog.{name}", "exec"), {"__name__": "reader"})


@pytest.mark.slow
def test_reference_has_all_that_is_offered(tmp_path):
    """`make docs` writes it; no example stands where none is run."""
    code = (
        "import sys; sys.path.insert(0, 'docs'); "
        "import pathlib, reference, catdog, inspect; reference.write(pathlib.Path(sys.argv[1])); "
        "print([name for name in catdog.__all__ if '```python' in (inspect.getdoc(getattr(catdog, name)) or '')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "catdog.html").read_text()
    assert [name for name in catdog_package.__all__ if f'id="{name}"' not in page] == []
    assert done.stdout.strip() == "['Classifier', 'Progress', 'classify', 'load_model', 'report']"


@pytest.mark.slow
def test_demo_leaves_what_its_page_says(reader):
    """Every file of the table is there; the labels are measured and the page shows them."""
    reader.run("catdog demo")
    demo = reader.folder / "demo"
    table = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "demo.md").read_text(), re.MULTILINE)
    for name in itertools.chain.from_iterable(re.findall(r"`([^`]+)`", row) for row in table):
        assert name.startswith("--") or (demo / name).exists(), name
    for command in summaries.next_commands("demo"):
        reader.call(shlex.split(command))
    measured = json.loads((demo / "metrics.json").read_text())
    summary = json.loads((demo / "results" / "_summary.json").read_text())
    assert (measured["images"], measured["rejected"]) == (20, 10)
    assert (summary["classified"], summary["rejected"]) == (20, 10)
    assert f"{measured['accuracy']:.1%} of 20 images right" in (demo / "report.html").read_text()
    # A finished one stays finished.
    made = [
        path for kind in ("*.jpg", "unseen.*", "*.parquet", "*.keras") for path in demo.rglob(kind)
    ]
    times = {path: path.stat().st_mtime_ns for path in made}
    assert len(times) > 40
    assert "nothing to do: the job was complete" in reader.call(smaller(["demo"]))
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_strange_line_is_not_passed_over():
    """A program that no rule knows, and a flag that is misspelt, fail."""
    reader = Reader(ROOT, None)
    with pytest.raises(pytest.fail.Exception, match="terraform"):
        reader.run("terraform apply")
    with pytest.raises(AssertionError):
        reader.run("catdog classify photos/ --outptu results")
    with pytest.raises(AssertionError):
        reader.run("make coffee")
    with pytest.raises(AssertionError):
        reader.run("kubectl apply -f cluster/no-such-file.yaml")


def test_first_commands_are_documented():
    """What the other pages build on is what a reader finds first."""
    lines = {line for page in PAGES[:2] for block in blocks(page) for line in block.commands}
    assert set(FIRST) <= lines
    everywhere = {line for page in PAGES for block in blocks(page) for line in block.commands}
    assert {*ONLY_PARSED, *EMBEDDED} <= everywhere


@pytest.mark.parametrize(
    "page", [*PAGES, *DECISIONS], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_inline_commands_exist(page):
    """`catdog VERB`, `make TARGET` and `--flag` in the text are ones that exist."""
    if page.stem == "006-tyro":
        return  # names the flags that another parser would make
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    others = {"--help", "--version", "--require-hashes"}
    for code in inline(page):
        words = code.split()
        if words[:1] == ["make"] and len(words) == 2:
            assert words[1] in targets, code
        if words[:1] == ["catdog"] and len(words) > 1 and words[1].islower():
            assert words[1] in VERBS, code
        if words[0] == "catdog" or words[0].startswith("--"):
            verbs = [word for word in words[1:2] if word in VERBS] or VERBS
            known = others.union(*(every_flag(verb) for verb in verbs))
            if verbs == ["submit"]:
                known |= set().union(*(every_flag(verb) for verb in words[2:3] if verb in VERBS))
            named = {word.split("=")[0] for word in words if word.startswith("--")}
            assert named <= known, code


def every_flag(verb):
    if verb not in _FLAGS:
        _FLAGS[verb] = set(parsing.flags(verb))
    return _FLAGS[verb]


_FLAGS: dict[str, set[str]] = {}


@pytest.mark.parametrize(
    "page",
    [*PAGES, *DECISIONS, ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere(page):
    """Files that a page links to exist, and so do the headings."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        path = (page.parent / name) if name else page
        assert path.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
            assert heading in anchors, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_tables_of_flags_are_the_commands(page):
    """`python docs/flags.py` would change nothing."""
    assert flags.written(page.read_text()) == page.read_text()


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_a_page(verb):
    """With an example that the command's help shows too, and a table of all its flags."""
    if verb == "completion":
        assert "catdog completion bash" in (ROOT / "docs" / "getting-started.md").read_text()
        return
    page = (ROOT / "docs" / f"{verb}.md").read_text()
    assert page.startswith(f"# catdog {verb}\n\n```sh\ncatdog {verb}")
    table = flags.table(verb)
    assert table in page
    assert all(f"`{flag}" in table for flag in parsing.flags(verb) if flag != "--help")


def test_each_defence_names_its_tests():
    """Every line of docs/security.md's table ends with tests, and they are there."""
    page = (ROOT / "docs" / "security.md").read_text()
    _, _, page = page.partition("| threat | defence | shown by, in tests/ |\n")
    _, *lines = page.partition("\n\n")[0].splitlines()
    for line in lines:
        file, cited = "", re.findall(r"`([^`]+)`", line.split("|")[-2])
        assert cited, line
        for each in cited:
            file, _, test = each.partition("::") if "/" in each else (file, "", each)
            code = (ROOT / "tests" / f"{file}.py").read_text()
            assert not test or f"\ndef {test}(" in code, each


def test_tests_that_are_named_are_there():
    """In documents, and in what starts clusters."""
    files = [*figures.DOCUMENTS, ROOT / "CONTRIBUTING.md", *(ROOT / "cluster").iterdir()]
    for file in files:
        for path in re.findall(r"\btests/[\w/]+\.py\b", file.read_text()):
            assert (ROOT / path).is_file(), f"{file} names {path}"


def test_the_model_card_has_the_figures_of_its_measurement():
    """Accuracies and calibration errors under changed photos are those of docs/model-card.json."""
    found = json.loads((ROOT / "docs" / "model-card.json").read_text())
    page = (ROOT / "docs" / "model-card.md").read_text()
    for models in (("shipped", "article"), ("large", "shipped")):
        for change, told in found[models[0]].items():
            if re.search(rf"^\| {re.escape(change)} \|", page, re.MULTILINE):
                first, second = (
                    f"{100 * found[model][change]['accuracy']:.1f} %" for model in models
                )
                assert f"| {change} | {first} | {told['ece']:.3f} | {second} |\n" in page
    for row in found["thresholds"][1:-1]:
        assert f"| {row['odd_uncertain']:.0%} |\n".replace("%", " %") in page


@pytest.mark.parametrize("page", figures.DOCUMENTS, ids=lambda page: page.stem)
def test_figures_are_those_that_were_measured(page):
    """`python docs/figures.py` would change nothing."""
    assert figures.written(page.read_text()) == page.read_text()


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=str
)
def test_no_rate_without_its_measurement(page):
    """Images a second stand where a command writes them, from a file of figures that has the machine."""
    rest = re.sub(
        r"<!-- [^>]*`python [^>]*` writes \w+ -->.*?<!-- end -->",
        "",
        page.read_text(),
        flags=re.DOTALL,
    )
    assert re.findall(r"\d[\d,.]* (?:images/s|images a second|images per second)", rest) == []
