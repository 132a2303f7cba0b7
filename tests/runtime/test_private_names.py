"""What may go with any new version of a library, looked for in the one that is installed."""

from __future__ import annotations

import importlib
import importlib.metadata

import pytest

from catdog.runtime import private_names
from catdog.storage import private_names as storage_names


def found(dotted):
    """Whether a module's attribute, or an attribute of that, exists."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False


def look_for(names):
    """Each name exists, or the test says which, of what version, and what it is needed for."""
    for name, needed_for in names.items():
        library = name.split(".", 1)[0]
        version = importlib.metadata.version(library)
        assert found(name), f"{library} {version} has no {name}; it was needed for {needed_for}"


@pytest.mark.slow
def test_private_names_of_ray():
    """Ray's own modules; Ray Data's are the ones that move."""
    version = tuple(map(int, importlib.metadata.version("ray").split(".")[:2]))
    later = {name for name, since in private_names.RAY_SINCE.items() if since > version}
    look_for({name: need for name, need in private_names.RAY.items() if name not in later})


@pytest.mark.slow
def test_private_names_of_keras():
    """Set by Keras in each layer, so looked for in one."""
    import keras

    layer = keras.layers.Dense(1)
    of_layers = {name for name in private_names.KERAS if ".Layer." in name}
    for name in of_layers:
        assert hasattr(layer, name.rpartition(".")[2]), (
            f"keras {keras.__version__} has no {name}; it was needed for {private_names.KERAS[name]}"
        )
    look_for({name: private_names.KERAS[name] for name in private_names.KERAS.keys() - of_layers})


@pytest.mark.slow
def test_ray_has_no_public_way_to_bound_restarts():
    """Where this fails `map_batches` has learnt it.

    Then that is to be used, and `ray_quirks.map_batches` need not hide Ray's warning.
    """
    import inspect

    import ray.data

    assert "max_restarts" not in inspect.signature(ray.data.Dataset.map_batches).parameters


def test_private_names_of_s3fs():
    """The one way to a single request."""
    look_for(storage_names.S3FS)


def test_a_name_that_is_gone_is_told():
    """With the version that lacks it, and what for."""
    with pytest.raises(AssertionError, match=r"s3fs 20.* has no s3fs.core._gone; .* for listings"):
        look_for({"s3fs.core._gone": "listings"})
