"""Errors that are the user's to mend: one message, no traceback, exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn


class UserError(Exception):
    """A message that names what was given, what is allowed and the remedy."""


def exit_on_user_error(main: Callable[[], int | None]) -> NoReturn:
    """Run a stage's main(); print a UserError as one line on stderr and exit with code 2."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
