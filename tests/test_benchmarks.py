"""Benchmarks run seldom: what they take from the training code must still exist."""

import importlib
from inspect import isfunction
from pathlib import Path

import benchmarks
from workers.training.observers import NullObserver, Observer


def test_observers_of_benchmarks_define_only_methods_that_the_trainer_calls() -> None:
    for path in Path(benchmarks.__path__[0]).glob("*.py"):
        # The peers' own packages are not installed here.
        if "(NullObserver)" in path.read_text():
            importlib.import_module(f"benchmarks.{path.stem}")

    observers = [
        observer
        for observer in NullObserver.__subclasses__()
        if observer.__module__.startswith("benchmarks.")
    ]
    assert observers
    for observer in observers:
        methods = {
            name
            for name, value in vars(observer).items()
            if not name.startswith("_") and (isfunction(value) or isinstance(value, property))
        }
        assert methods <= set(dir(Observer)), observer.__qualname__
