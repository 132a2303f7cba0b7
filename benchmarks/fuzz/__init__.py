"""Fuzzing: damaged files of every kind that is read, through the doors that a job uses.

`pictures`, `archives`, `tables` and `folders` draw a case from a seed and a number, with the format's own
numbers, names and checksums in mind (`mutation`, `thrift`); `doors` hands it to the code of a job;
`watch` looks at what that costs and leaves behind. `python -m benchmarks.fuzz --help` runs it.
"""
