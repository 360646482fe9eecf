"""Training from the command line, without the service and without a cluster.

python -m workers.training --depth 20 --shortcut A --dataset digits
python -m workers.training stats --against FILE
python -m workers.training convert PUBLISHED.pth OURS.safetensors
python -m workers.training detect WEIGHTS.safetensors COCO_FOLDER --iterations 1000
"""

import argparse
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from service.catalog import recipes
from service.catalog.architectures import Family, Shortcut
from service.errors import InvalidInput, ResnetdError
from service.specs import job_spec
from workers.training import cli
from workers.training.models import compare_stats, convert


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["stats"]:
        return _compare_stats(arguments[1:])
    if arguments[:1] == ["convert"]:
        return _convert(arguments[1:])
    if arguments[:1] == ["detect"]:
        return _detect(arguments[1:])
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
        "ones, `convert` converts published weights to ours, `detect` trains an object detector.",
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


def _detect(arguments: list[str]) -> int:
    options = make_detect_parser().parse_args(arguments)
    # Imported here: torchvision's detectors take seconds.
    from workers.training.detection.training import (  # noqa: PLC0415
        DetectionSettings,
        train_detector,
    )

    settings = DetectionSettings(
        options.iterations,
        torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        batch_size=options.batch_size,
        min_size=options.min_size,
        max_size=options.max_size,
        seed=options.seed,
    )
    try:
        detector, scores = train_detector(
            options.weights, options.folder, settings, lambda _, message: print(message, flush=True)
        )
    except (OSError, ResnetdError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.output is not None:
        torch.save(detector.state_dict(), options.output)
    print(f"AP {scores.ap:.3f}, AP50 {scores.ap50:.3f}, AP75 {scores.ap75:.3f}")
    return 0


def make_detect_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workers.training detect",
        description="Fine-tune Faster R-CNN on a trained network, and score it as COCO does.",
    )
    parser.add_argument("weights", type=Path, help="safetensors file of this service")
    parser.add_argument("folder", type=Path, help="images and annotations in COCO's format")
    parser.add_argument("--iterations", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=2, help="images; default: 2")
    parser.add_argument("--min-size", type=int, default=800, help="shorter side; default: 800")
    parser.add_argument("--max-size", type=int, default=1333, help="longer side; default: 1333")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--output", type=Path, help="write the detector's state_dict here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
