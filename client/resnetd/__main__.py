"""`python -m resnetd` is the command."""

from resnetd.cli import main

main()
