"""`resnetd-server`: the operator's command for what needs no other process."""

import argparse
import sys
from datetime import UTC, datetime

from service import log, schema, settings, tokens
from service.database import Database
from service.errors import ResnetdError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="resnetd-server", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("migrate", help="bring the database to this version's schema")
    token = commands.add_parser("token", help="make a person's token and print it once")
    token.add_argument("name", help="whose; a token of the same name stops working")
    chosen = parser.parse_args(arguments)
    try:
        configured = settings.load()
        log.configure(configured.log_format)
        database = Database(configured.database)
        if chosen.command == "migrate":
            schema.upgrade(database)
            print("the database is at this version's schema")
        else:
            _make_token(database, chosen.name)
        database.close()
    except ResnetdError as error:
        print(f"resnetd-server: {error}", file=sys.stderr)
        return 1
    return 0


def _make_token(database: Database, name: str) -> None:
    schema.require_current(database)
    secret = tokens.new_secret()
    with database.transaction() as session:
        tokens.ensure(session, secret, name=name, now=datetime.now(UTC))
    print(secret)


if __name__ == "__main__":
    sys.exit(main())
