"""`resnetd-server`: the operator's command for what needs no other process."""

import argparse
import sys
from datetime import UTC, datetime

from service import log, settings
from service.access import tokens
from service.errors import ResnetdError
from service.jobs import consistency
from service.storage import schema
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="resnetd-server", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("migrate", help="bring the database to this version's schema")
    token = commands.add_parser("token", help="make a person's token and print it once")
    token.add_argument("name", help="whose; a token of the same name stops working")
    check = commands.add_parser("doctor", help="check the artifact store and the database")
    check.add_argument("--repair", action="store_true", help="forget and delete what is no use")
    chosen = parser.parse_args(arguments)
    is_well = True
    try:
        configured = settings.load()
        log.configure(configured.log_format)
        database = Database(configured.resolved_database_url)
        if chosen.command == "migrate":
            schema.upgrade(database)
            print("the database is at this version's schema")
        elif chosen.command == "doctor":
            is_well = _examine(
                database, ArtifactStore(configured.resolved_artifacts_url), chosen.repair
            )
        else:
            _make_token(database, chosen.name)
        database.close()
    except ResnetdError as error:
        print(f"resnetd-server: {error}", file=sys.stderr)
        return 1
    return 0 if is_well else 1


def _examine(database: Database, artifacts: ArtifactStore, is_repaired: bool) -> bool:
    """Whether nothing was found, or it was repaired."""
    schema.require_current(database)
    findings = consistency.check(database, artifacts, now=datetime.now(UTC))
    for finding in findings:
        print(f"{finding.ailment}: {finding.key}: {finding.message}")
    if findings and is_repaired:
        consistency.repair(database, artifacts, findings)
    print(f"{len(findings)} found{', repaired' if findings and is_repaired else ''}")
    return is_repaired or not findings


def _make_token(database: Database, name: str) -> None:
    schema.require_current(database)
    secret = tokens.new_secret()
    with database.transaction() as session:
        tokens.set_token(session, secret, name=name, now=datetime.now(UTC))
    print(secret)


if __name__ == "__main__":
    sys.exit(main())
