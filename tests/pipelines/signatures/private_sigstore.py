"""A private Sigstore: an authority for identities, a certificate log and a transparency log.

The real parts are servers on the Internet. What they write is made here with keys of our own, in
the form that the public instance writes (Fulcio certificates with an embedded log timestamp, Rekor
entries dsse 0.0.1 with inclusion promise, proof and checkpoint), so that the real verifier checks
every step of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from pki import Issued, Wish, root

IDENTITY, ISSUER = "release@acme.example", "https://accounts.acme.example"
_ISSUER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_LOG_TIMESTAMPS = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_PAYLOAD_TYPE = "application/vnd.in-toto+json"


class PrivateSigstore:
    """Signs statements for any identity, at any time."""

    def __init__(self) -> None:
        self.authority: Issued = root(Wish(name="Private Fulcio", path_length=0))
        self.certificate_log = ec.generate_private_key(ec.SECP256R1())
        self.log = ec.generate_private_key(ec.SECP256R1())

    def trusted_root(self) -> str:
        """What a policy names as trust root."""
        der = self.authority.certificate.public_bytes(serialization.Encoding.DER)
        period = {"start": "2020-01-01T00:00:00Z"}
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [_log_entry(self.log, period)],
                "certificateAuthorities": [
                    {
                        "subject": {"organization": "Acme", "commonName": "Private Fulcio"},
                        "uri": "https://fulcio.acme.example",
                        "certChain": {"certificates": [{"rawBytes": _base64(der)}]},
                        "validFor": period,
                    }
                ],
                "ctlogs": [_log_entry(self.certificate_log, period)],
                "timestampAuthorities": [],
            }
        )

    def sign(
        self,
        payload: bytes,
        identity: str = IDENTITY,
        issuer: str = ISSUER,
        logged_after: timedelta = timedelta(minutes=1),
    ) -> dict[str, Any]:
        """A bundle over `payload`, by a certificate of ten minutes that ended an hour ago."""
        key = ec.generate_private_key(ec.SECP256R1())
        start = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=70)
        leaf = self._certificate(key, identity, issuer, start)
        kind = _PAYLOAD_TYPE.encode()
        signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
        signature = _base64(key.sign(signed, ec.ECDSA(hashes.SHA256())))
        entry = self._entry(payload, signature, leaf, start + logged_after)
        der = leaf.public_bytes(serialization.Encoding.DER)
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": _base64(der)},
                "tlogEntries": [entry],
            },
            "dsseEnvelope": {
                "payload": _base64(payload),
                "payloadType": _PAYLOAD_TYPE,
                "signatures": [{"sig": signature}],
            },
        }

    def _certificate(
        self, key: ec.EllipticCurvePrivateKey, identity: str, issuer: str, start: datetime
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.authority.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(minutes=10))
            .add_extension(_data_signing(), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.key.public_key()),
                False,
            )
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(identity)]), True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_OID, issuer.encode()), False)
        )
        # The timestamp is over the certificate without its own extension: issue it twice.
        before = self._issue(builder, self._timestamp(b"", start))
        return self._issue(builder, self._timestamp(before.tbs_precertificate_bytes, start))

    def _issue(self, builder: x509.CertificateBuilder, timestamps: bytes) -> x509.Certificate:
        extension = x509.UnrecognizedExtension(_LOG_TIMESTAMPS, timestamps)
        return builder.add_extension(extension, False).sign(self.authority.key, hashes.SHA256())

    def _timestamp(self, certificate: bytes, at: datetime) -> bytes:
        """The extension's value with one signed certificate timestamp (RFC 6962, 3.2 and 3.3)."""
        milliseconds = int(at.timestamp() * 1000)
        entry = _key_id(self.authority.key) + len(certificate).to_bytes(3, "big") + certificate
        signed = struct.pack("!BBQH", 0, 0, milliseconds, 1) + entry + struct.pack("!H", 0)
        signature = self.certificate_log.sign(signed, ec.ECDSA(hashes.SHA256()))
        timestamp = struct.pack("!B32sQH", 0, _key_id(self.certificate_log), milliseconds, 0)
        timestamp += struct.pack("!BBH", 4, 3, len(signature)) + signature
        listed = struct.pack("!HH", len(timestamp) + 2, len(timestamp)) + timestamp
        return bytes([0x04, 0x81, len(listed)] if len(listed) > 127 else [4, len(listed)]) + listed

    def _entry(
        self, payload: bytes, signature: str, leaf: x509.Certificate, at: datetime
    ) -> dict[str, Any]:
        """The transparency log's entry: the first and only leaf of its tree."""
        verifier = _base64(leaf.public_bytes(serialization.Encoding.PEM))
        digest = {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()}
        spec = {
            "envelopeHash": digest,
            "payloadHash": digest,
            "signatures": [{"signature": signature, "verifier": verifier}],
        }
        body = _canonical({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
        root_hash = hashlib.sha256(b"\x00" + body).digest()
        key_id, seconds = _key_id(self.log), int(at.timestamp())
        promise = _canonical(
            {
                "body": _base64(body),
                "integratedTime": seconds,
                "logID": key_id.hex(),
                "logIndex": 0,
            }
        )
        note = f"rekor.acme.example\n1\n{_base64(root_hash)}\n"
        checkpoint = _base64(key_id[:4] + self._log_signs(note.encode()))
        return {
            "logIndex": "0",
            "logId": {"keyId": _base64(key_id)},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(seconds),
            "inclusionPromise": {"signedEntryTimestamp": _base64(self._log_signs(promise))},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": _base64(root_hash),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": f"{note}\n— rekor.acme.example {checkpoint}\n"},
            },
            "canonicalizedBody": _base64(body),
        }

    def _log_signs(self, data: bytes) -> bytes:
        return self.log.sign(data, ec.ECDSA(hashes.SHA256()))


def _data_signing() -> x509.KeyUsage:
    others = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(digital_signature=True, **others)


def _log_entry(key: ec.EllipticCurvePrivateKey, period: dict[str, str]) -> dict[str, Any]:
    return {
        "baseUrl": "https://log.acme.example",
        "hashAlgorithm": "SHA2_256",
        "publicKey": {
            "rawBytes": _base64(_spki(key)),
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "validFor": period,
        },
        "logId": {"keyId": _base64(_key_id(key))},
    }


def _spki(key: Any) -> bytes:
    data: bytes = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return data


def _key_id(key: Any) -> bytes:
    return hashlib.sha256(_spki(key)).digest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
