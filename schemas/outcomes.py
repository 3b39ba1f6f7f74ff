"""Why a URL or a face left the line: the stages, and the one table of reasons.

Counters, log lines, the ledger and the audit all use these words.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """Stages in flow order; `Stage.order` compares how far a sample got."""

    READ = "read"
    DOWNLOAD = "download"
    SCREEN = "screen"
    DECODE = "decode"
    DETECT = "detect"
    CROP = "crop"
    ATTRIBUTES = "attributes"
    CAPTION = "caption"

    @property
    def order(self) -> int:
        return list(Stage).index(self)


class Outcome(StrEnum):
    """What became of an input row or of a detected face."""

    KEPT = "kept"
    DROPPED = "dropped"


class Reason(StrEnum):
    """Every listed reason for a drop: value, whether a later try can get better, meaning."""

    retryable: bool
    meaning: str

    def __new__(cls, value: str, retryable: bool, meaning: str) -> Reason:
        member = str.__new__(cls, value)
        member._value_ = value
        member.retryable = retryable
        member.meaning = meaning
        return member

    # read
    MISSING_URL = "missing_url", False, "the input row has no URL"
    FILTERED = "filtered", False, "the row does not satisfy input.where"
    BLOCKED_URL = "blocked_url", False, "the URL, or a redirect's, is in screen.block_urls"
    BLOCKED_DOMAIN = "blocked_domain", False, "the host is under a domain of screen.block_domains"
    INVALID_HASH = "invalid_hash", False, "the expected hash is no md5, sha1, sha256 or sha512"
    MISSING_IMAGE = "missing_image", False, "the tar holds no image for the row"
    BAD_METADATA = "bad_metadata", False, "the row's JSON in the tar cannot be read"
    DAMAGED_TAR = "damaged_tar", False, "the tar ends early, or is damaged, inside the row"
    # download
    INVALID_URL = "invalid_url", False, "the URL, or a redirect's target, cannot be parsed"
    SCHEME_NOT_ALLOWED = "scheme_not_allowed", False, "neither http nor https"
    PRIVATE_ADDRESS = "private_address", False, "the host has a non-public address"
    DNS = "dns", True, "the host name could not be resolved"
    TIMEOUT = "timeout", True, "the total deadline of the URL passed"
    CONNECTION = "connection", True, "the connection was refused, reset or closed early"
    TLS = "tls", False, "the TLS handshake or the certificate failed"
    BAD_RESPONSE = "bad_response", False, "the answer breaks HTTP"
    TOO_MANY_REDIRECTS = "too_many_redirects", False, "redirected more often than allowed"
    NOT_FOUND = "not_found", False, "HTTP 404 or 410"
    FORBIDDEN = "forbidden", False, "HTTP 401, 402, 403, 407 or 451"
    RATE_LIMITED = "rate_limited", True, "HTTP 429 after all attempts"
    SERVER_ERROR = "server_error", True, "HTTP 5xx after all attempts"
    HTTP_STATUS = "http_status", False, "any other status than 200"
    TOO_LARGE = "too_large", False, "the body is larger than download.max_bytes"
    TRUNCATED_BODY = "truncated_body", True, "the body ended before its Content-Length"
    EMPTY_BODY = "empty_body", False, "a successful answer with no bytes"
    ROBOTS_DISALLOWED = "robots_disallowed", False, "robots.txt forbids the path"
    ROBOTS_UNREACHABLE = "robots_unreachable", True, "robots.txt answered 5xx or not at all"
    OPTED_OUT = "opted_out", False, "reserved by X-Robots-Tag or TDM-Reservation"
    # screen
    BLOCKED_HASH = "blocked_hash", False, "the body's hash is in screen.block_hashes"
    UNAVAILABLE_PICTURE = "unavailable_picture", False, "a host's 'photo unavailable' picture"
    HASH_MISMATCH = "hash_mismatch", False, "the body's hash is not the one in the input"
    # decode
    NOT_AN_IMAGE = "not_an_image", False, "the bytes are no known image format"
    UNSUPPORTED_FORMAT = "unsupported_format", False, "an image format this build cannot decode"
    TRUNCATED = "truncated", False, "the image's data ends early"
    CORRUPT = "corrupt", False, "the image's data cannot be decoded"
    TOO_MANY_PIXELS = "too_many_pixels", False, "the header claims more than decode.max_pixels"
    DECODE_CRASHED = "decode_crashed", False, "the row crashed the process natively twice"
    # detect
    NO_FACE = "no_face", False, "no face at the scale crop.min_side needs"
    # crop
    TOO_SMALL = "too_small", False, "the face's short side is under crop.min_side"
    LOW_SCORE = "low_score", False, "the detection score is under crop.min_score"
    TOO_MANY_FACES = "too_many_faces", False, "a face beyond the crop.max_faces largest"
    # attributes
    FEW_LABELS = "few_labels", False, "fewer labels than attributes.min_labels"
    # caption
    NOTHING_TO_STATE = "nothing_to_state", False, "no label that caption.policy may state"
    # any stage
    INTERNAL_ERROR = "internal_error", True, "an unexpected exception: a defect to report"


@dataclass(frozen=True, slots=True)
class Drop:
    """Where and why a sample or a face left the line.

    `error` is a short detail that depends on the input alone (no addresses, times or object
    ids), because it is written to the ledger, whose bytes must be reproducible.
    """

    stage: Stage
    reason: Reason
    error: str | None = None
