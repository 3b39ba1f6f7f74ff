"""What ends a command, and with which exit code."""

from __future__ import annotations

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_SUSPECT, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


class UsageError(ValueError):
    """Bad arguments, settings or input: one line that names the field and the remedy."""


class BuildFailed(RuntimeError):
    """The build could not finish; what is committed stays, the same command continues."""
