"""Commands as jobs of a remote cluster: a command line comes in, a job's exit code goes out."""

from catdog.submission.job import SubmitConfig, check_reachable, look, split, submit

__all__ = ["SubmitConfig", "check_reachable", "look", "split", "submit"]
