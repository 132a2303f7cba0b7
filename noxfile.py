"""The tests on other versions of the libraries that clusters and images bring: `nox -s "versions(oldest)"`.

pyproject.toml allows what these sessions have shown; requirements.lock is the recommended set.
"""

import nox

nox.options.default_venv_backend = "uv|virtualenv"

OLDEST = ("ray==2.51.*", "tensorflow==2.18.*", "keras==3.12.*", "pyarrow==19.*")
SECOND = ("ray==2.54.*", "tensorflow==2.19.*", "keras==3.13.*", "pyarrow==22.*")
THIRD = ("ray==2.57.*", "tensorflow==2.20.*", "keras==3.14.*", "pyarrow==24.*")
NEWEST = ()  # whatever the registry has of what is allowed

# Embedded classification and training, each with a kill; every command on a plain cluster, `submit` too.
SLOW = (
    "tests/runtime/test_private_names.py",
    "tests/runtime/test_ray_runtime.py",
    "tests/cluster/test_strangers.py",
    "tests/classification/test_classification.py::test_scores_are_the_models",
    "tests/classification/test_classification.py::test_killed_worker_costs_nothing",
    "tests/training/test_training.py::test_run_folder_holds_what_the_contract_says",
    "tests/training/test_training.py::test_two_workers_follow_one_in_everything",
    "tests/training/test_training.py::test_killed_worker_and_killed_driver_change_nothing",
)


@nox.session
@nox.parametrize(
    "libraries", [OLDEST, SECOND, THIRD, NEWEST], ids=["oldest", "second", "third", "newest"]
)
def versions(session: nox.Session, libraries: tuple[str, ...]) -> None:
    """The fast tests and a choice of the slow ones."""
    session.install("pip", "--editable", ".[dev]", *libraries)  # pip for the test of the wheel
    session.run("python", "-m", "pytest")
    session.run("python", "-m", "pytest", "-rs", "-m", "slow", *SLOW)
