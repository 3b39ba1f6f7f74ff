"""The one exception of a download that did not work out."""

from __future__ import annotations

from facecap.schemas.outcomes import Reason, Stage
from facecap.transforms.railway import Dropped


class Failed(Dropped):
    """A URL, or one attempt at it, failed for a listed reason.

    `http_status` is that of the last answer, `retry_after` the pause the server asked for
    in seconds. `may_retry` says whether another attempt at once can get better.
    `connected` is False when no connection to the host came about, `attempted` when none was
    tried, for the answer was known from another URL.
    """

    def __init__(
        self,
        reason: Reason,
        error: str | None = None,
        *,
        http_status: int | None = None,
        retry_after: float | None = None,
        may_retry: bool | None = None,
        connected: bool = True,
        attempted: bool = True,
    ) -> None:
        super().__init__(Stage.DOWNLOAD, reason, error)
        self.http_status = http_status
        self.retry_after = retry_after
        self.may_retry = reason.retryable if may_retry is None else may_retry
        self.connected = connected
        self.attempted = attempted

    def copy(self) -> Failed:
        """A fresh exception, for a failure that is kept and raised many times."""
        return Failed(
            self.drop.reason,
            self.drop.error,
            http_status=self.http_status,
            retry_after=self.retry_after,
            may_retry=self.may_retry,
            connected=self.connected,
            attempted=self.attempted,
        )
