"""Picklable callables for tests/test_parallel.py: worker processes import this module."""


def square(x):
    return x * x
