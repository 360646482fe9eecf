"""`resnetd-server`: commands for operators that need only the database and the artifact store."""

import argparse
import sys
from datetime import UTC, datetime

from service import log, settings
from service.errors import ResnetdError
from service.jobs import consistency
from service.storage import schema
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database
from service.text import count_of


def main(arguments: list[str] | None = None) -> int:
    parsed = make_parser().parse_args(arguments)
    try:
        configured = settings.load()
        log.configure(configured.log_format)
        database = Database(configured.database_url.get_secret_value())
        try:
            if parsed.command == "migrate":
                return _migrate(database)
            artifacts = ArtifactStore(configured.artifacts_url)
            return _fsck(database, artifacts, should_repair=parsed.repair)
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
    return parser


def _migrate(database: Database) -> int:
    schema.upgrade(database)
    print("the database has this version's schema")
    return 0


def _fsck(database: Database, artifacts: ArtifactStore, *, should_repair: bool) -> int:
    """Returns 1 if issues remain."""
    schema.require_current(database)
    issues = consistency.check(database, artifacts, now=datetime.now(UTC))
    for issue in issues:
        print(f"{issue.kind}: {issue.key}: {issue.message}")
    if should_repair:
        consistency.repair(database, artifacts, issues)
    action = "repaired" if should_repair else "found"
    print(f"{count_of(len(issues), 'issue')} {action}")
    return 0 if should_repair or not issues else 1


if __name__ == "__main__":
    sys.exit(main())
