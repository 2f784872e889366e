"""Keyless signatures: Sigstore's certificate for an identity, and its transparency log, offline.

The `sigstore` library checks the certificate's chain and log timestamp, the log entry's inclusion
proof, checkpoint and promise, and the envelope. Nothing is fetched: the trust root is the policy's
file, or the one that the installed library carries for the public instance.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipelines.errors import SignatureRefused
from pipelines.signatures.bundle import PAYLOAD_TYPE, SignedEnvelope
from pipelines.signatures.publishers import PUBLIC_GOOD

if TYPE_CHECKING:
    from sigstore.models import TrustedRoot

_PUBLIC_STORE = "_store/https%3A%2F%2Ftuf-repo-cdn.sigstore.dev/trusted_root.json"


def check_keyless(envelope: SignedEnvelope, identity: str, issuer: str, trust_root: str) -> None:
    """Check that `identity`, vouched for by `issuer`, signed; raises SignatureRefused.

    `trust_root` is JSON (a trusted root or a client trust configuration), or 'public-good'.
    """
    from sigstore.errors import Error, VerificationError
    from sigstore.models import Bundle
    from sigstore.verify import Verifier
    from sigstore.verify.policy import Identity

    try:
        bundle = Bundle.from_json(envelope.data)
    except (Error, ValidationError, ValueError, KeyError, TypeError) as error:
        fact = f"it is no Sigstore bundle ({_first_line(error)})"
        raise SignatureRefused(envelope.subject, fact) from error
    verifier = Verifier(trusted_root=_trusted_root(trust_root, envelope.subject))
    try:
        kind, payload = verifier.verify_dsse(bundle, Identity(identity=identity, issuer=issuer))
    except (VerificationError, ValidationError, ValueError) as error:
        fact = f"Sigstore does not confirm it ({_first_line(error)})"
        raise SignatureRefused(envelope.subject, fact) from error
    if kind != PAYLOAD_TYPE or payload != envelope.payload:
        raise SignatureRefused(envelope.subject, "Sigstore read another payload than we did")


def _trusted_root(text: str, subject: str) -> TrustedRoot:
    import sigstore
    from sigstore.errors import Error
    from sigstore.models import TrustedRoot

    if text == PUBLIC_GOOD:
        assert sigstore.__file__ is not None
        text = (Path(sigstore.__file__).parent / _PUBLIC_STORE).read_text(encoding="utf-8")
    try:
        document: Any = json.loads(text)
        if isinstance(document, dict) and "trustedRoot" in document:
            text = json.dumps(document["trustedRoot"])
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            Path(file.name).write_text(text, encoding="utf-8")
            return TrustedRoot.from_file(file.name)
    except (Error, ValidationError, ValueError, KeyError, TypeError) as error:
        fact = f"the policy's trust_root cannot be used ({_first_line(error)})"
        raise SignatureRefused(subject, fact) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
