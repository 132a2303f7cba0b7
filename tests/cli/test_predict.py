"""`catdog predict`: a line for each image, its exit code, and neither Ray nor TensorFlow."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import catdog
from catdog.cli import main
from catdog.demo import archives


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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "IMAGES: name at least one image"),
        (["."], ".: is a folder; name images, or use `catdog classify .`"),
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
