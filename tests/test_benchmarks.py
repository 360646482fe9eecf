"""Benchmarks run seldom: what they take from the training code must still exist."""

import importlib
from contextlib import closing
from inspect import isfunction
from pathlib import Path

import benchmarks
from benchmarks.api_process import running_api
from service.storage import schema
from service.storage.database import Database
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


def test_the_api_of_a_benchmark_accepts_its_token(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bench.db'}"
    with closing(Database(url)) as database:
        schema.upgrade(database)
    with running_api(url, tmp_path / "api") as api:
        assert api.get("/v1/jobs")["jobs"] == []
