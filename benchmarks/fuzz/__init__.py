"""Fuzzing: damaged files of every kind that is read, through the doors that a job uses.

`pictures`, `archives`, `tables` and `folders` draw a case from a seed and a number; they know the format's
numbers, names and checksums (`mutation`, `thrift`). `doors` passes it to the code of a job, and `watch`
checks time, memory and leftovers. `python -m benchmarks.fuzz --help` runs it.
"""
