"""`python -m catdog` is `catdog`."""

try:
    from catdog.cli import entry_point
except ModuleNotFoundError as error:
    # A job on a cluster that has Ray alone ends here: catdog came along, its dependencies did not.
    raise SystemExit(
        f"catdog: this Python has no {error.name}; install catdog's dependencies there "
        "(`pip install catdog-ray`, or cluster/Dockerfile), or have Ray do it: "
        "`catdog submit --install VERB ...`"
    ) from None

entry_point()
