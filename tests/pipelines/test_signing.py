"""Signatures over manifests and records: what must be refused, and what the library accepts too."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.digest import build_manifest
from pipelines.errors import ConfigError, SignatureRefused
from pipelines.records import Derivation, ManifestRecord
from pipelines.signatures.bundle import parse_bundle
from pipelines.signatures.statement import parse_statement
from pipelines.signing import (
    check_manifest_signature,
    create_key,
    sign_bytes,
    sign_manifest,
    verify_bytes,
)
from pipelines.verification.authenticity import check as check_authenticity
from pipelines.verification.policy import VerificationPolicy


class Signed:
    """A folder with a signature over it."""

    def __init__(self, root: Path) -> None:
        self.weights = root / "weights"
        (self.weights / "sub").mkdir(parents=True)
        (self.weights / "model.safetensors").write_bytes(b"weights" * 100)
        (self.weights / "sub" / "config.json").write_text("{}")
        (self.weights / ".gitattributes").write_text("*.bin\n")
        self.private, self.public = root / "keys" / "signing.key", root / "policy" / "signing.pub"
        self.bundle = root / "evidence" / "manifest.sig.json"
        create_key(self.private, self.public)
        sign_manifest(self.private, self.weights, self.bundle)

    def check(self) -> None:
        check_manifest_signature(self.public, self.weights, self.bundle)

    def resign(self, change: Callable[[Any], Any]) -> None:
        """Alter the signed statement and sign it again with the right key."""
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        document = json.loads(self.bundle.read_text())
        envelope = document["dsseEnvelope"]
        statement = json.loads(base64.b64decode(envelope["payload"]))
        change(statement)
        payload = json.dumps(statement).encode()
        kind = envelope["payloadType"].encode()
        signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
        key = serialization.load_pem_private_key(self.private.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        envelope["payload"] = base64.b64encode(payload).decode()
        signature = key.sign(signed, ec.ECDSA(hashes.SHA256()))
        envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode()
        self.bundle.write_text(json.dumps(document))


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    return Signed(tmp_path)


def test_unchanged_bytes_are_accepted(signed: Signed) -> None:
    signed.check()


def test_the_library_accepts_our_bundle(signed: Signed) -> None:
    from model_signing import hashing, verifying

    everything = hashing.Config().set_ignored_paths(paths=(), ignore_git_paths=False)
    config = verifying.Config().use_elliptic_key_verifier(public_key=signed.public)
    config.set_hashing_config(everything).verify(signed.weights, signed.bundle)


def test_the_private_key_is_readable_by_its_owner_only(signed: Signed) -> None:
    assert signed.private.stat().st_mode & 0o777 == 0o600


def test_a_key_is_never_overwritten(signed: Signed) -> None:
    for pair in (
        (signed.private, signed.public.with_name("x")),
        (signed.private.with_name("x"), signed.public),
    ):
        with pytest.raises(ConfigError, match="already there"):
            create_key(*pair)


@pytest.mark.parametrize(
    "name", ["extra.json", ".git/config", ".github/x.py", "sub/extra", ".hidden"]
)
def test_an_extra_file_is_refused_wherever_it_lies(signed: Signed, name: str) -> None:
    path = signed.weights / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
    with pytest.raises(SignatureRefused, match="not signed") as caught:
        signed.check()
    assert name in str(caught.value)


def test_a_flipped_bit_is_refused(signed: Signed) -> None:
    path = signed.weights / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    with pytest.raises(SignatureRefused, match=r"changed since.*model\.safetensors"):
        signed.check()


@pytest.mark.parametrize("name", ["sub/config.json", ".gitattributes"])
def test_a_missing_file_is_refused(signed: Signed, name: str) -> None:
    (signed.weights / name).unlink()
    with pytest.raises(SignatureRefused, match="missing"):
        signed.check()


def test_a_link_to_equal_content_is_refused(signed: Signed) -> None:
    path = signed.weights / "model.safetensors"
    path.rename(signed.weights.parent / "elsewhere")
    path.symlink_to(signed.weights.parent / "elsewhere")
    with pytest.raises(SignatureRefused):
        signed.check()


def test_another_key_is_refused(signed: Signed, tmp_path: Path) -> None:
    other = tmp_path / "other.pub"
    create_key(tmp_path / "other.key", other)
    with pytest.raises(SignatureRefused, match="expected key"):
        check_manifest_signature(other, signed.weights, signed.bundle)


def test_an_absent_signature_or_key_is_refused(signed: Signed) -> None:
    with pytest.raises(SignatureRefused, match="no public key"):
        check_manifest_signature(signed.private.with_name("no"), signed.weights, signed.bundle)
    signed.bundle.unlink()
    with pytest.raises(SignatureRefused, match="no signature"):
        signed.check()


def ignore(statement: Any) -> None:
    """What a signer can put in to have a file left out of the check."""
    statement["predicate"]["serialization"]["ignore_paths"] = ["sub/config.json"]
    resources = statement["predicate"]["resources"]
    resources[:] = [entry for entry in resources if entry["name"] != "sub/config.json"]


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (ignore, "ignores"),
        (lambda s: s["predicate"]["serialization"].update(allow_symlinks=True), "allow_symlinks"),
        (lambda s: s["predicate"]["serialization"].update(method="shards"), "method"),
        (lambda s: s["predicate"]["serialization"].update(hash_type="md5"), "hash_type"),
        (lambda s: s["predicate"]["resources"][0].update(digest="0" * 64), "root digest"),
        (lambda s: s["predicate"]["resources"][0].update(digest="xyz"), "cannot be used"),
        (lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0]), "cannot"),
        (lambda s: s["subject"].append(s["subject"][0]), "root digest"),
        (lambda s: s.update(predicateType="https://model_signing/Digests/v0.1"), "type"),
        (lambda s: s.update(_type="x"), "type"),
        (lambda s: s.pop("predicate"), "has no"),
    ],
)
def test_a_statement_that_covers_less_is_refused_though_its_key_is_right(
    signed: Signed, change: Callable[[Any], Any], fact: str
) -> None:
    signed.resign(change)
    with pytest.raises(SignatureRefused, match=fact):
        signed.check()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["dsseEnvelope"].update(payload="!"),
        lambda d: d["dsseEnvelope"].update(payloadType="text/plain"),
        lambda d: d["dsseEnvelope"]["signatures"].append(d["dsseEnvelope"]["signatures"][0]),
        lambda d: d["dsseEnvelope"].update(signatures=[]),
        lambda d: d["dsseEnvelope"]["signatures"][0].update(sig=""),
        lambda d: d["dsseEnvelope"]["signatures"][0].update(sig=7),
        lambda d: d.update(mediaType="x"),
        lambda d: d.clear(),
    ],
)
def test_a_bundle_of_another_form_is_refused(signed: Signed, change: Callable[[Any], Any]) -> None:
    document = json.loads(signed.bundle.read_text())
    change(document)
    signed.bundle.write_text(json.dumps(document))
    with pytest.raises(SignatureRefused):
        signed.check()


@pytest.mark.parametrize(
    "junk", [b"", b"[]", b"null", b"\xff", b'{"dsseEnvelope": 1}', b"[" * 9999]
)
def test_a_bundle_of_junk_is_refused(signed: Signed, junk: bytes) -> None:
    signed.bundle.write_bytes(junk)
    with pytest.raises(SignatureRefused):
        signed.check()


def test_a_folder_that_cannot_be_signed_is_refused(signed: Signed, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SignatureRefused, match="nothing to sign"):
        sign_manifest(signed.private, empty, signed.bundle)
    with pytest.raises(SignatureRefused, match="cannot lie"):
        sign_manifest(signed.private, signed.weights, signed.weights / "model.sig")
    for key in (signed.public, tmp_path / "nothing"):
        with pytest.raises(SignatureRefused, match="private key"):
            sign_manifest(key, signed.weights, signed.bundle)


def test_record_signatures_hold_for_their_bytes_and_key_only(
    signed: Signed, tmp_path: Path
) -> None:
    pem = signed.public.read_bytes()
    signature = sign_bytes(signed.private, b"record")
    assert signature == sign_bytes(signed.private, b"record")
    verify_bytes(pem, b"record", signature, "record.json")
    create_key(tmp_path / "b.key", tmp_path / "b.pub")
    other = (tmp_path / "b.pub").read_bytes()
    wrong = [
        (pem, b"recorD", signature),
        (other, b"record", signature),
        (pem, b"record", signature.replace(b"v1", b"v2")),
        (pem, b"record", b"{}"),
        (pem, b"record", b"junk"),
        (b"no key", b"record", signature),
    ]
    for key, data, claimed in wrong:
        with pytest.raises(SignatureRefused, match=r"record\.json"):
            verify_bytes(key, data, claimed, "record.json")


def publisher_rules(
    signed: Signed, origin: Path, *, derived: bool = False, **policy: Any
) -> list[tuple[str, str]]:
    files = build_manifest(signed.weights)
    derivation = Derivation(method="x", source_files=files) if derived else None
    manifest = ManifestRecord(
        name="m",
        weight_digest="0" * 64,
        files=() if derived else files,
        reference="x",
        code_digest="",
        derivation=derivation,
    )
    rules = VerificationPolicy.model_validate(policy)
    found = check_authenticity(origin, manifest, signed.weights, rules)
    return [(f.rule, f.severity) for f in found if f.rule != "signature.file"]


def test_a_publishers_signature_is_required_noted_or_checked(
    signed: Signed, tmp_path: Path
) -> None:
    origin = tmp_path / "origin"
    (origin / "publisher").mkdir(parents=True)
    keys = {"publishers": {"Acme": {"public_key": signed.public.read_text()}}}
    assert publisher_rules(signed, origin) == [("signature.absent", "info")]
    assert publisher_rules(signed, origin, require_signature=True) == [
        ("signature.absent", "refusal")
    ]
    (origin / "publisher" / "model.sig").write_bytes(signed.bundle.read_bytes())
    assert publisher_rules(signed, origin) == [("signature.unchecked", "warning")]
    assert publisher_rules(signed, origin, require_signature=True) == [
        ("signature.unchecked", "refusal")
    ]
    assert publisher_rules(signed, origin, **keys) == [("signature.valid", "info")]
    assert publisher_rules(signed, origin, derived=True, **keys) == [("signature.valid", "info")]
    create_key(tmp_path / "b.key", tmp_path / "b.pub")
    stranger = {"publishers": {"Else": {"public_key": (tmp_path / "b.pub").read_text()}}}
    assert publisher_rules(signed, origin, **stranger) == [("signature.wrong", "refusal")]
    (signed.weights / "extra").write_text("x")
    assert publisher_rules(signed, origin, **keys) == [("signature.wrong", "refusal")]
    (signed.weights / "extra").unlink()
    (signed.weights / "model.safetensors").unlink()
    assert publisher_rules(signed, origin, **keys) == [("signature.wrong", "refusal")]


def test_a_statement_names_every_file(signed: Signed) -> None:
    envelope = parse_bundle(signed.bundle.read_bytes(), "x")
    expected = {entry.path: (entry.sha256,) for entry in build_manifest(signed.weights)}
    assert parse_statement(envelope.payload, "x").digests == expected
