"""The public functions: keywords become configurations, and wrong ones are named."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

import catdog
from catdog import api, storage
from catdog.demo import archives
from catdog.observer import Observer, forgiving


@pytest.fixture
def pets_of_one(tmp_path):
    """A drawn picture."""
    archives.write_dataset(tmp_path, 2, seed=3)
    return min(tmp_path.rglob("*.jpg"))


def configured(*arguments, **settings):
    return api._configured(catdog.ClassifyConfig, *arguments, settings)


def test_keywords_are_the_flags():
    """Paths and single inputs are taken as Python programs have them."""
    made = configured(Path("photos"), Path("out"), model=Path("run"), workers=2, max_rejected=0)
    assert made == catdog.ClassifyConfig(
        images=("photos",), output="out", model="run", workers=2, max_rejected=0
    )
    assert configured(["a", Path("b")], "out").images == ("a", "b")
    assert configured(("a",), "out", workers=None).workers is None
    assert configured((each for each in "ab"), "out").images == ("a", "b")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"workers": "2"}, "workers '2': must be int or None"),
        ({"workers": True}, "workers True: must be int or None"),
        ({"min_probability": "0.5"}, "min_probability '0.5': must be float"),
        ({"precision": "half"}, "precision 'half': must be 'auto' or"),
        ({"output": 3}, "output 3: must be str"),
        ({"retry_rejected": 1}, "retry_rejected 1: must be bool"),
        (
            {"decode_limits": {"max_pixels": 3}},
            "decode_limits {'max_pixels': 3}: must be DecodeLimits",
        ),
    ],
)
def test_a_wrong_type_is_named(settings, said):
    """The message has the keyword, the value and what is wanted."""
    with pytest.raises(catdog.UserInputError, match=re.escape(said)):
        configured("photos", None, **{"output": "out"} | settings)


@pytest.mark.parametrize("images", [7, None, b"photos", ["a", 7], {"a": 1}])
def test_inputs_that_are_none(images):
    """What is no path, nor several of them, is refused before anything starts."""
    with pytest.raises(catdog.UserInputError, match=r"images .* must be str, or several of them"):
        configured(images, "out")


def test_a_keyword_that_is_not_there():
    """Python's own TypeError names it."""
    with pytest.raises(TypeError, match="worker"):
        configured("photos", "out", worker=2)


def test_a_configuration_is_whole():
    """Beside one, other arguments would be lost: they are refused."""
    made = catdog.ClassifyConfig(images=("photos",), output="out")
    assert configured(made, None) is made
    with pytest.raises(catdog.UserInputError, match="whole"):
        configured(made, "elsewhere")


def test_a_running_event_loop_changes_nothing(s3, pets_of_one):
    """In a notebook or a server there is one: pictures are scored, from a store too."""
    picture = pets_of_one.read_bytes()
    storage.write_atomic(f"{s3}/cat.jpg", picture)

    async def program():
        await asyncio.sleep(0)
        return catdog.load_model().predict([picture, str(pets_of_one), f"{s3}/cat.jpg"])

    answers = asyncio.run(program())
    assert [answer.error for answer in answers] == [None] * 3
    assert len({answer.scores for answer in answers}) == 1


def test_an_observer_that_raises_stops_nothing(caplog):
    """It is told of in the log, once, and asked no more."""

    class Broken(Observer):
        def phase(self, text):
            raise RuntimeError(text)

    observer = forgiving(Broken())
    observer.phase("one")
    observer.phase("two")
    observer.planned(3)
    assert [record.exc_info[1].args for record in caplog.records] == [("one",)]


def test_every_event_reaches_the_observer():
    """Whatever event an observer knows is handed on."""
    events = [name for name in vars(Observer) if not name.startswith("_")]
    assert set(events) <= set(vars(type(forgiving(Observer()))))
