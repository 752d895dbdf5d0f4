import doctest
import importlib
import pkgutil

import pytest

import bidkv.stability

MODULES = sorted(f"bidkv.stability.{m.name}" for m in pkgutil.iter_modules(bidkv.stability.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings_hold(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_most_modules_show_an_example():
    shown = [
        m
        for m in MODULES
        if any(t.examples for t in doctest.DocTestFinder().find(importlib.import_module(m)))
    ]
    assert len(shown) >= len(MODULES) // 2
