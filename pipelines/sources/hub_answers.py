"""What the Hub's answers mean: errors by name, and how long it asks to be left alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from pipelines.errors import (
    BadReference,
    ConfigError,
    SourceClosed,
    SourceNotFound,
    SourceUnreachable,
)
from pipelines.references import Reference
from pipelines.store.resuming import describe

if TYPE_CHECKING:
    from httpx2 import Response
    from huggingface_hub.errors import HfHubHTTPError

_ADDRESS = re.compile(r"https?://[\w.-]+(:\d+)?(/[\w./-]*)?|https?://\[[0-9a-f:]+\](:\d+)?")
_PRINTABLE = re.compile(r"[\x20-\x7e]+")
_ASK_FOR_ACCESS = "Accept the model's terms on its page, then set HF_TOKEN to a token of an account"


def endpoint() -> str:
    """The Hub or mirror that HF_ENDPOINT names now; the client reads it once, at its import.

    Raises ConfigError for what is no address.
    """
    from huggingface_hub import constants

    address = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    if not _ADDRESS.fullmatch(address):  # not shown: somebody may have put a password into it
        form = "https://HOST[:PORT][/PATH]"
        raise ConfigError("HF_ENDPOINT", f"it is no address of the form {form}", "Correct it.")
    return address


def request_headers() -> dict[str, str]:
    """The client's headers, with this machine's token as HF_TOKEN or a login says now.

    Raises ConfigError for a token that no header can carry; the HTTP library would show it.
    """
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # re-exported

    headers: dict[str, str] = build_hf_headers()
    if not _PRINTABLE.fullmatch(headers.get("authorization", "-")):
        fact = "the token holds characters that no token has"
        raise ConfigError("HF_TOKEN", fact, "Copy it again from the Hub's settings page.")
    return headers


def timeout_s() -> float:
    """How long the Hub may be silent: HF_HUB_DOWNLOAD_TIMEOUT, as for its own client."""
    from huggingface_hub import constants

    return float(constants.HF_HUB_DOWNLOAD_TIMEOUT)


@contextmanager
def named_errors(reference: Reference) -> Iterator[None]:
    """Turn what the client raises into our errors, with what to do about each."""
    from huggingface_hub import errors

    asked, where = str(reference), reference.where
    try:
        yield
    except errors.HFValidationError as error:
        raise BadReference(asked, str(error).strip().splitlines()[0]) from error
    except errors.GatedRepoError as error:
        raise _closed(reference, error) from error
    except errors.RevisionNotFoundError as error:
        fact = f"{where} has no revision {reference.revision}"
        remedy = "Look up the branch, tag or commit on the repository's page."
        raise SourceNotFound(asked, fact, remedy) from error
    except errors.RepositoryNotFoundError as error:
        seen = "this machine's token may not see it" if _with_token(error) else "it needs HF_TOKEN"
        raise SourceNotFound(asked, f"there is no repository {where}, or {seen}") from error
    except errors.RemoteEntryNotFoundError as error:
        fact = f"the commit lists a file that {endpoint()} does not have ({error.response.url})"
        raise SourceNotFound(asked, fact) from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise _closed(reference, error) from error
        fact = f"{endpoint()} answered {error.response.status_code}"
        raise SourceUnreachable(asked, fact) from error
    except errors.OfflineModeIsEnabled as error:
        fact = "the Hub's client is offline (HF_HUB_OFFLINE)"
        raise SourceUnreachable(asked, fact, "Unset HF_HUB_OFFLINE to fetch it.") from error
    except errors.HTTPError as error:  # type: ignore[attr-defined]  # its HTTP library's root
        fact = f"the connection to {endpoint()} failed ({describe(error)})"
        raise SourceUnreachable(asked, fact) from error


def asked_wait_s(response: Response) -> float:
    """Seconds that an answer asks to wait before the next request; 0.0 when it says nothing.

    `Retry-After` in seconds or as a date (RFC 9110, 10.2.3), or the rest of a `RateLimit` window.
    """
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    stated = response.headers.get("Retry-After", "").strip()
    if stated.isdigit():
        return float(stated)
    if stated:
        try:
            until = parsedate_to_datetime(stated)
        except ValueError:  # neither form: as if it were not there
            return 0.0
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    limit = parse_ratelimit_headers(response.headers)
    return float(limit.reset_in_seconds) if limit and limit.remaining == 0 else 0.0


def _closed(reference: Reference, error: HfHubHTTPError) -> SourceClosed:
    asked, where = str(reference), reference.where
    if not _with_token(error):
        fact = f"{where} is gated, and this machine has no token"
        return SourceClosed(asked, fact, f"{_ASK_FOR_ACCESS} that may read it.")
    said = error.server_message or f"the Hub answered {error.response.status_code}"
    fact = f"this machine's token may not read {where} ({said.splitlines()[0]})"
    remedy = f"{_ASK_FOR_ACCESS} that may read it; a fine-grained one must allow gated ones."
    return SourceClosed(asked, fact, remedy)


def _with_token(error: HfHubHTTPError) -> bool:
    return "authorization" in error.response.request.headers
