"""`resnetd-server`: commands for operators: schema, stored files, backups, checks of machines."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from service import log, settings
from service.errors import ResnetdError
from service.jobs import backup, consistency
from service.settings import Settings
from service.storage import schema
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database
from service.text import count_of, format_bytes


def main(arguments: list[str] | None = None) -> int:
    parsed = make_parser().parse_args(arguments)
    try:
        configured = settings.load()
        log.configure(configured.log_format)
        database = Database(configured.database_url.get_secret_value())
        try:
            return _run(parsed, configured, database)
        finally:
            database.close()
    except ResnetdError as error:
        print(f"resnetd-server: {error}", file=sys.stderr)
        return 1


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="resnetd-server", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("migrate", help="upgrade the database to this version's schema")
    fsck = commands.add_parser("fsck", help="check the artifact store against the database")
    fsck.add_argument(
        "--repair", action="store_true", help="delete orphans and drop broken checkpoint records"
    )
    doctor = commands.add_parser(
        "doctor", help="check the machine of the API; exit status 1 if a check fails"
    )
    doctor.add_argument(
        "--cluster", action="store_true", help="check each node of the Ray cluster, too"
    )
    saving = commands.add_parser(
        "backup", help="save the database, artifacts and uploaded datasets, while the service runs"
    )
    saving.add_argument("folder", type=Path, help="new, empty, or of an earlier backup")
    restoring = commands.add_parser("restore", help="restore a backup to an empty database")
    restoring.add_argument("folder", type=Path, help="of a backup")
    moving = commands.add_parser(
        "migrate-artifacts", help="copy the artifacts of all checkpoints to another store"
    )
    moving.add_argument("url", help="file:///PATH, s3://BUCKET/PREFIX, gs:// or az://")
    return parser


def _run(parsed: argparse.Namespace, configured: Settings, database: Database) -> int:
    if parsed.command == "migrate":
        return _migrate(database)
    if parsed.command == "doctor":
        return _examine(configured, database, with_cluster=parsed.cluster)
    artifacts = _open_store(configured.artifacts_url)
    if parsed.command == "fsck":
        return _fsck(database, artifacts, should_repair=parsed.repair)
    if parsed.command == "migrate-artifacts":
        return _migrate_artifacts(database, artifacts, _open_store(parsed.url))
    data_dir = configured.data_dir
    if parsed.command == "backup":
        return _back_up(database, artifacts, data_dir, parsed.folder)
    return _restore(database, artifacts, data_dir, parsed.folder)


def _open_store(url: str) -> ArtifactStore:
    """Checked, since a bucket that does not exist looks as if it had lost all artifacts."""
    artifacts = ArtifactStore(url)
    artifacts.check()
    return artifacts


def _migrate(database: Database) -> int:
    schema.upgrade(database)
    print("the database has this version's schema")
    return 0


def _examine(configured: Settings, database: Database, *, with_cluster: bool) -> int:
    """Returns 1 if a check fails."""
    # Imported here: the only command that needs Ray, over HTTP.
    from workers.cluster.doctor import command  # noqa: PLC0415

    schema.require_compatible(database)
    diagnosis = command.examine(configured, database, with_cluster=with_cluster)
    print(diagnosis.text)
    return 0 if diagnosis.is_healthy else 1


def _fsck(database: Database, artifacts: ArtifactStore, *, should_repair: bool) -> int:
    """Returns 1 if issues remain."""
    schema.require_compatible(database)
    issues = consistency.check(database, artifacts, now=datetime.now(UTC))
    for issue in issues:
        print(f"{issue.kind}: {issue.key}: {issue.message}")
    if should_repair:
        consistency.repair(database, artifacts, issues)
    action = "repaired" if should_repair else "found"
    print(f"{count_of(len(issues), 'issue')} {action}")
    return 0 if should_repair or not issues else 1


def _back_up(database: Database, artifacts: ArtifactStore, data_dir: Path, folder: Path) -> int:
    """Returns 1 if files are missing."""
    done = backup.back_up(
        database, artifacts, data_dir=data_dir, folder=folder, now=datetime.now(UTC)
    )
    print(f"saved to {folder}: {_describe(done.manifest)}")
    return _print_problems(done.problems)


def _restore(database: Database, artifacts: ArtifactStore, data_dir: Path, folder: Path) -> int:
    """Returns 1 if files are missing."""
    done = backup.restore(database, artifacts, data_dir=data_dir, folder=folder)
    print(f"restored the backup of {done.manifest.created_at}: {_describe(done.manifest)}")
    return _print_problems(done.problems)


def _migrate_artifacts(database: Database, source: ArtifactStore, target: ArtifactStore) -> int:
    """Returns 1 if files are missing."""
    problems = backup.copy_artifacts(database, source, target)
    print("copied; now set RESNETD_ARTIFACTS_URL to the new store and restart the API")
    return _print_problems(problems)


def _print_problems(problems: list[str]) -> int:
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        missing = count_of(len(problems), "file")
        print(f"{missing} missing; see `resnetd-server fsck`", file=sys.stderr)
    return 1 if problems else 0


def _describe(manifest: backup.Manifest) -> str:
    jobs = count_of(manifest.rows["jobs"], "job")
    artifacts = count_of(manifest.artifacts, "artifact")
    size = format_bytes(manifest.artifact_bytes)
    uploads = count_of(len(manifest.datasets), "uploaded dataset")
    return f"{jobs}, {artifacts} of {size}, {uploads}"


if __name__ == "__main__":
    sys.exit(main())
