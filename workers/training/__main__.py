"""Training from the command line: no service, no cluster.

python -m workers.training --depth 20 --shortcut A --dataset digits
python -m workers.training counts --against FILE
python -m workers.training convert PUBLISHED.pth OURS.safetensors
"""

import argparse
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

from service.catalog import datasets, recipes
from service.catalog.architectures import Family, Shortcut
from service.errors import InvalidInput
from service.specs import job_spec
from workers.training import cli_observer
from workers.training.models import compare_stats, convert


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["counts"]:
        return _counts(words[1:])
    if words[:1] == ["convert"]:
        return _convert(words[1:])
    written = _parser().parse_args(words)
    try:
        job = job_spec.parse_job_spec(_spec_fields(written))
    except InvalidInput as error:
        for fault in error.field_errors:
            print(f"{fault.pointer.lstrip('/')}: {fault.message}", file=sys.stderr)
        return 1
    if written.work_path is not None:
        return cli_observer.run(job, data_path=written.data_path, work_path=written.work_path)
    with tempfile.TemporaryDirectory() as folder:
        return cli_observer.run(job, data_path=written.data_path, work_path=Path(folder))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workers.training",
        description="Train one network of the paper on this machine.",
        epilog="Instead of options: `counts` compares parameters and multiply-adds, `convert` "
        "turns published weights into ours.",
    )
    parser.add_argument("--depth", type=int, required=True)
    parser.add_argument("--shortcut", choices=[str(each) for each in Shortcut], default="A")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--family", choices=[str(each) for each in Family])
    parser.add_argument("--recipe", choices=sorted(recipes.RECIPES))
    parser.add_argument("--iterations", type=int, help="the recipe's milestones keep their share")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-path", type=Path, default=Path("var/data"))
    parser.add_argument(
        "--work-path", type=Path, help="keeps checkpoints here, and goes on from the newest"
    )
    parser.add_argument("--processes", type=int, default=1)
    return parser


def _spec_fields(written: argparse.Namespace) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "depth": written.depth,
        "shortcut": written.shortcut,
        "dataset": written.dataset,
        "seed": written.seed,
        "resources": {"num_workers": written.processes},
    }
    if written.family is not None:
        fields["family"] = written.family
    if written.recipe is not None or written.iterations is not None:
        dataset = datasets.find_dataset(written.dataset)
        default = "quick" if dataset is None else dataset.default_recipe
        recipe: dict[str, Any] = {"name": written.recipe or default}
        if written.iterations is not None:
            recipe["iterations"] = written.iterations
        fields["recipe"] = recipe
    return fields


def _counts(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m workers.training counts",
        description="Our networks' parameters and multiply-adds, beside published ones.",
    )
    parser.add_argument("--against", type=Path, metavar="FILE", help="published counts as CSV")
    against = parser.parse_args(words).against
    try:
        lines, differing = (
            (compare_stats.table(), 0) if against is None else compare_stats.compare(against)
        )
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 1 if differing else 0


def _convert(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m workers.training convert",
        description="torchvision's or akamaster-style weights as safetensors under our names.",
    )
    parser.add_argument("published", type=Path)
    parser.add_argument("target", type=Path)
    written = parser.parse_args(words)
    try:
        architecture = convert.write(written.published, written.target)
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{written.target}: {architecture.label}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
