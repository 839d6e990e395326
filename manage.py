#!/usr/bin/env python3
"""Django's command line for Berth."""

import errno
import os
import sys
from pathlib import Path

# platform/ holds top-level packages (config, runtimes, gateway, launcher). It is never a package itself:
# that would hide the standard library's `platform`.
sys.path.insert(1, str(Path(__file__).resolve().parent / "platform"))


def main() -> None:
    """Run the command named on the command line with the development settings unless told otherwise."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.dev")
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except OSError as error:
        # The settings make their keys at first use, before any command could say what is wrong.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        where = error.filename or os.environ.get("BERTH_HOME", "var")
        sys.exit(
            f"{where}: {error.strerror}. Free space there, or set BERTH_HOME to a folder you can write to."
        )


if __name__ == "__main__":
    main()
