"""`catdog predict`: a line for each image, its exit code, and neither Ray nor TensorFlow."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import catdog
from catdog.cli import main, summaries
from catdog.demo import archives
from catdog.prediction import Prediction
from tests.storage.servers import Answering, serving


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("predict")
    archives.write_dataset(made, 4, seed=2)
    return made


def test_a_line_for_each_image(folder, capsys):
    """Labels and probabilities are `predict`'s; a rejected image has its reason, and the code is 1."""
    paths = [str(path) for path in sorted(folder.rglob("*.jpg"))]
    assert main(["predict", *paths]) == 0
    answers = catdog.load_model().predict(paths)
    expected = [f"{p}: {a.label} {a.probability:.4f}" for p, a in zip(paths, answers, strict=True)]
    assert capsys.readouterr().out.splitlines() == expected
    assert main(["predict", paths[0], "no-such.jpg"]) == 1
    assert capsys.readouterr().out.splitlines()[1] == (
        "no-such.jpg: missing: No such file or directory."
    )


def test_json_lines(folder, capsys):
    """Every line is an object with the scores of every class."""
    path = str(next(folder.rglob("*.jpg")))
    assert main(["predict", "--json", path, path]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == lines[1]
    assert lines[0]["image"] == path
    assert sum(lines[0]["scores"]) == pytest.approx(1, abs=1e-5)


def test_the_best_classes(folder, capsys):
    """As many as are asked for, at most all, best first; a rejected image has none."""
    path = str(next(folder.rglob("*.jpg")))
    (answer,) = catdog.load_model().predict(path)
    best = sorted(zip(("cat", "dog"), answer.scores, strict=True), key=lambda each: -each[1])
    assert main(["predict", path, "--top", "9"]) == 0
    shown = ", ".join(f"{label} {score:.4f}" for label, score in best)
    assert capsys.readouterr().out == f"{path}: {shown}\n"
    assert main(["predict", path, "no-such.jpg", "--top", "1", "--json"]) == 1
    one, none = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (one["top_labels"], one["top_probabilities"]) == ([best[0][0]], [best[0][1]])
    assert [none[each] for each in ("top_labels", "top_probabilities", "scores")] == [None] * 3


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (None, 0, r"-: (cat|dog) [01]\.\d{4}"),
        (b"", 1, r"-: empty: The file has no bytes\."),
        (b"no picture at all", 1, r"-: not-an-image: .*"),
    ],
)
def test_an_image_on_standard_input(folder, capsys, monkeypatch, content, code, said):
    """Its bytes are scored; what is none has its reason."""
    given = next(folder.rglob("*.jpg")).read_bytes() if content is None else content
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert main(["predict", "-"]) == code
    assert re.fullmatch(said + "\n", capsys.readouterr().out)


def test_nothing_on_standard_input_is_one_line(capsys, monkeypatch):
    """A shell may have closed it."""
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["predict", "-"]) == 2
    error = capsys.readouterr().err
    assert error == "catdog predict: IMAGES -: nothing is sent to standard input\n"


def test_an_image_of_a_pipe(folder, tmp_path, capsys):
    """What a shell makes of `<(command)`."""
    os.mkfifo(tmp_path / "pipe")
    picture = next(folder.rglob("*.jpg")).read_bytes()
    with ThreadPoolExecutor(1) as pool:
        pool.submit((tmp_path / "pipe").write_bytes, picture)
        assert main(["predict", str(tmp_path / "pipe")]) == 0
    assert re.search(r"pipe: (cat|dog) [01]\.", capsys.readouterr().out)


def test_a_glob_in_quotes(folder, capsys):
    """Stands for the images that it matches, named by their URIs."""
    assert main(["predict", f"{folder}/*/cat.*.jpg"]) == 0
    shown = [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == sorted(path.as_uri() for path in folder.rglob("cat.*.jpg"))


class Picture(Answering):
    """Gives its server's picture, whatever is asked for."""

    def do_GET(self):  # noqa: N802 - http.server's name
        """The picture."""
        self.answer(200, self.server.picture, {"ETag": '"1"'})


def test_an_image_of_the_web(folder, capsys):
    """Where its host may be asked; else its line says why not."""
    picture = next(folder.rglob("*.jpg")).read_bytes()
    with serving(Picture, picture=picture) as server:
        url = f"{server.url}/x.jpg?size=1"
        assert main(["predict", url]) == 1
        refused = capsys.readouterr().out
        assert refused.startswith(f"{url}: forbidden: 127.0.0.1 ")
        assert "--allow-hosts" in refused
        assert main(["predict", url, "--allow-hosts", "127.0.0.1"]) == 0
        assert re.fullmatch(re.escape(url) + r": (cat|dog) [01]\.\d{4}\n", capsys.readouterr().out)


def test_a_model_of_several_classes(folder, several_model, capsys):
    """All that an image has stand beside the best one, and none of one that was rejected."""
    path = str(next(folder.rglob("*.jpg")))
    assert main(["predict", path, "--model", several_model]) == 0
    assert re.search(r"\.jpg: (cat|dog) \d\.\d{4} \((cat|dog)\)\n$", capsys.readouterr().out)
    assert main(["predict", "--json", path, "no-such.jpg", "--model", several_model]) == 1
    one, none = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert one["labels"] == [one["label"]]
    assert (none["label"], none.get("labels"), none["error"]) == (None, None, "missing")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-*.jpg"], "no-such-*.jpg"),
        (["-", "-"], "IMAGES -: is one image, standard input; name it once"),
        (["a.jpg", "--top", "0"], "--top must be at least 1"),
        ([], "IMAGES: name at least one image"),
        (["."], ".: is a folder; name images, or use `catdog classify . --output results`"),
        (["a.jpg", "s3://bucket/photos/"], "s3://bucket/photos/: is a folder"),
        (["a b.TGZ"], "is an archive; name images, or use `catdog classify 'a b.TGZ' --output"),
        (["s3://bucket/a.zip"], "s3://bucket/a.zip: is an archive"),
        (["photos.7z"], "photos.7z: is an archive"),
        (["list.txt"], "list.txt: is a list"),
        (["part-0.parquet"], "part-0.parquet: is a table"),
        (["a.jpg", "--model", "nowhere"], "--model nowhere: no finished model there"),
        (["a.jpg", "--model", "s3://key:secret@bucket/m"], "--model"),
    ],
)
def test_mistakes_are_one_line(arguments, said, capsys):
    """Exit code 2, and the line names what is wrong."""
    assert main(["predict", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "secret" not in error
    assert len(error.splitlines()) == 1


def test_neither_ray_nor_tensorflow_is_loaded(folder):
    """A cold shell has its answer without them."""
    code = (
        "import sys\nfrom catdog.cli import main\n"
        f"code = main(['predict', {str(next(folder.rglob('*.jpg')))!r}])\n"
        "assert not {'ray', 'tensorflow', 'keras'} & set(sys.modules)\nsys.exit(code)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb.jpg", r"a\nb.jpg"),
        ("\x1b[2Jred.jpg", r"\x1b[2Jred.jpg"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\udcff.jpg", r"\udcff.jpg"),
        ("große Katze.jpg", "große Katze.jpg"),
    ],
)
def test_a_line_an_image_whatever_it_is_called(capsys, name, shown):
    """A file's name neither steers the terminal nor ends the line."""
    summaries.print_predicted(name, Prediction("cat", 0.5, (0.5,)), None, as_json=False)
    assert capsys.readouterr().out == f"{shown}: cat 0.5000\n"
