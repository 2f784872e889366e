"""What boto3 raises while a source is read, as errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipelines.errors import (
    SourceChanged,
    SourceClosed,
    SourceNotFound,
    SourceUnreachable,
    UnusableSource,
)
from pipelines.store.resuming import Transient, describe

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_KEYS = (
    "Give keys that may list and read there: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a "
    "profile in AWS_PROFILE."
)
_LATER = (
    "Check the endpoint (AWS_ENDPOINT_URL) and that this machine reaches it, then run the same "
    "command again: what was fetched is kept."
)
_REFUSED = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}  # these come with a 400


def transient_in_body() -> Transient:
    """What ends a body early; failed requests are not among them, as the client repeats those."""
    from botocore.exceptions import (
        IncompleteReadError,
        ReadTimeoutError,
        ResponseStreamingError,
    )
    from urllib3.exceptions import HTTPError

    return (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, HTTPError)


@contextmanager
def named_errors(subject: str, endpoint: str, bucket: str) -> Iterator[None]:
    """Raise what is left after the client's own retries as one of ours, about `subject`.

    SourceNotFound for a bucket that is not there, SourceChanged for an object that is gone or
    another one, SourceClosed for missing or refused keys, UnusableSource for an archived object,
    SourceUnreachable for the rest.
    """
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        raise _answered(subject, endpoint, bucket, error) from error
    except exceptions.FlexibleChecksumError as error:
        fact = "the bytes of the checksum that the store keeps of it"
        raise SourceChanged(subject, fact, "other bytes") from error
    except (exceptions.HTTPClientError, exceptions.ConnectionError) as error:
        fact = f"{endpoint} does not answer as S3 does ({describe(error)})"
        raise SourceUnreachable(subject, fact, _LATER) from error
    except exceptions.BotoCoreError as error:  # the rest is about this machine's keys and settings
        raise SourceClosed(subject, f"boto3 finds no way in ({describe(error)})", _KEYS) from error


def _answered(subject: str, endpoint: str, bucket: str, error: ClientError) -> Exception:
    code = error.response["Error"].get("Code", "")
    status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
    said = f"{code} {error.response['Error'].get('Message', '')}".strip()
    if code == "NoSuchBucket":
        return SourceNotFound(subject, f"there is no bucket {bucket} at {endpoint}")
    if status in (404, 412, 416):
        now = "nothing" if status == 404 else "another object"
        return SourceChanged(subject, "the object that was listed", now)
    if code == "InvalidObjectState":
        fact = "the object is archived and cannot be read"
        return UnusableSource(subject, fact, "Restore it from its archive tier first.")
    if status in (401, 403) or code in _REFUSED:
        return SourceClosed(subject, f"{endpoint} refuses access ({said})", _KEYS)
    return SourceUnreachable(subject, f"{endpoint} answers with {status} ({said})", _LATER)
