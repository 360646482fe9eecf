"""Training from the command line, without the service and without a cluster.

python -m workers.training --depth 20 --shortcut A --dataset digits
python -m workers.training stats --against FILE
python -m workers.training convert PUBLISHED.pth OURS.safetensors
"""

import argparse
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

from service.catalog import recipes
from service.catalog.architectures import Family, Shortcut
from service.errors import InvalidInput
from service.specs import job_spec
from workers.training import cli
from workers.training.models import compare_stats, convert


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["stats"]:
        return _compare_stats(arguments[1:])
    if arguments[:1] == ["convert"]:
        return _convert(arguments[1:])
    options = make_parser().parse_args(arguments)
    try:
        spec = job_spec.parse_job_spec(_make_spec_fields(options))
    except InvalidInput as error:
        for field_error in error.field_errors:
            print(f"{field_error.pointer.lstrip('/')}: {field_error.message}", file=sys.stderr)
        return 1
    if options.work_dir is not None:
        return cli.run(spec, data_dir=options.data_dir, work_dir=options.work_dir)
    with tempfile.TemporaryDirectory() as work_dir:
        return cli.run(spec, data_dir=options.data_dir, work_dir=Path(work_dir))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workers.training",
        description="Train one network of the paper on this machine.",
        epilog="Other commands: `stats` compares parameters and multiply-adds with published "
        "ones, `convert` converts published weights to ours.",
    )
    parser.add_argument("--depth", type=int, required=True, help="number of layers")
    parser.add_argument(
        "--shortcut", choices=[str(option) for option in Shortcut], default="A", help="default: A"
    )
    parser.add_argument("--dataset", default="digits", help="default: digits")
    parser.add_argument(
        "--family",
        choices=[str(family) for family in Family],
        help="default: by dataset and depth",
    )
    parser.add_argument(
        "--recipe", choices=sorted(recipes.RECIPES), help="default: that of the dataset"
    )
    parser.add_argument("--iterations", type=int, help="milestones are scaled accordingly")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--data-dir", type=Path, default=Path("var/data"), help="default: var/data")
    parser.add_argument(
        "--work-dir", type=Path, help="keep checkpoints here, and resume from the newest"
    )
    parser.add_argument("--processes", type=int, default=1, help="default: 1")
    return parser


def _make_spec_fields(options: argparse.Namespace) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "depth": options.depth,
        "shortcut": options.shortcut,
        "dataset": options.dataset,
        "seed": options.seed,
        "resources": {"num_workers": options.processes},
    }
    if options.family is not None:
        fields["family"] = options.family
    if options.recipe is not None or options.iterations is not None:
        recipe: dict[str, Any] = {} if options.recipe is None else {"name": options.recipe}
        if options.iterations is not None:
            recipe["iterations"] = options.iterations
        fields["recipe"] = recipe
    return fields


def _compare_stats(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m workers.training stats",
        description="Parameters and multiply-adds of our networks, compared with published ones.",
    )
    parser.add_argument("--against", type=Path, metavar="FILE", help="published numbers as CSV")
    published = parser.parse_args(arguments).against
    try:
        lines, mismatches = (
            (compare_stats.format_table(), 0)
            if published is None
            else compare_stats.compare(published)
        )
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 1 if mismatches else 0


def _convert(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m workers.training convert",
        description="Convert weights of torchvision or akamaster to safetensors with our names.",
    )
    parser.add_argument("published", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args(arguments)
    try:
        architecture = convert.convert_file(options.published, options.target)
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.target}: {architecture.label}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
