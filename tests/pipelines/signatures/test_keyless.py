"""Keyless signatures, checked offline by the real verifier against a private root of trust."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from private_sigstore import IDENTITY, ISSUER, PrivateSigstore

from pipelines.canonical import sha256_bytes
from pipelines.digest import build_manifest
from pipelines.errors import ConfigError
from pipelines.signing import create_key, sign_manifest
from pipelines.verification.authenticity import Signed, check_bundle
from pipelines.verification.policy import VerificationPolicy, load_policy


class Shop:
    """A model folder and a private Sigstore."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model, self.bundle = folder, folder / "model", folder / "model.sig"
        self.model.mkdir()
        (self.model / "config.json").write_text("{}")
        self.sigstore = PrivateSigstore()

    def statement(self) -> bytes:
        create_key(self.folder / "k", self.folder / "k.pub")
        sign_manifest(self.folder / "k", self.model, self.folder / "s")
        envelope = json.loads((self.folder / "s").read_text())["dsseEnvelope"]
        return base64.b64decode(envelope["payload"])

    def judge(self, bundle: dict[str, Any], **known: str) -> dict[str, str]:
        self.bundle.write_text(json.dumps(bundle))
        sigstore = {
            "identity": IDENTITY,
            "issuer": ISSUER,
            "trust_root": self.sigstore.trusted_root(),
            **known,
        }
        policy = VerificationPolicy.model_validate({"publishers": {"A": {"sigstore": sigstore}}})
        signed = Signed(build_manifest(self.model), self.model)
        return {f.rule: f.fact for f in check_bundle(self.bundle, signed, policy)}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_the_expected_identity_is_accepted_after_its_certificate_ended(shop: Shop) -> None:
    found = shop.judge(shop.sigstore.sign(shop.statement()))
    assert set(found) == {"signature.valid"}, found


@pytest.mark.parametrize(
    "known",
    [
        {"identity": "mallory@acme.example"},
        {"issuer": "https://accounts.mallory.example"},
        {"trust_root": "public-good"},
        {"trust_root": PrivateSigstore().trusted_root()},
        {"trust_root": "{}"},
    ],
)
def test_another_identity_issuer_or_root_is_refused(shop: Shop, known: dict[str, str]) -> None:
    assert set(shop.judge(shop.sigstore.sign(shop.statement()), **known)) == {"signature.wrong"}


def test_a_signature_that_was_logged_after_the_certificate_ended_is_refused(shop: Shop) -> None:
    late = shop.sigstore.sign(shop.statement(), logged_after=timedelta(minutes=20))
    assert "valid" in shop.judge(late)["signature.wrong"]


def _entry(bundle: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = bundle["verificationMaterial"]["tlogEntries"][0]
    return entry


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b["verificationMaterial"].update(tlogEntries=[]),
        lambda b: _entry(b).pop("inclusionPromise"),
        lambda b: _entry(b).pop("inclusionProof"),
        lambda b: _entry(b).update(integratedTime="1"),
        lambda b: _entry(b)["inclusionProof"].update(rootHash=base64.b64encode(b"x" * 32).decode()),
        lambda b: _entry(b)["inclusionProof"]["checkpoint"].update(envelope="x\n1\nAAAA\n\nx"),
        lambda b: _entry(b).update(canonicalizedBody=base64.b64encode(b"{}").decode()),
        lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=base64.b64encode(b"x").decode()),
        lambda b: b["verificationMaterial"]["certificate"].update(rawBytes="AAAA"),
    ],
)
def test_a_bundle_that_the_log_does_not_confirm_is_refused(
    shop: Shop, change: Callable[[dict[str, Any]], Any]
) -> None:
    bundle = shop.sigstore.sign(shop.statement())
    change(bundle)
    assert set(shop.judge(bundle)) == {"signature.wrong"}


def test_an_entry_of_another_signature_is_refused(shop: Shop) -> None:
    payload = shop.statement()
    bundle, other = shop.sigstore.sign(payload), shop.sigstore.sign(payload)
    bundle["verificationMaterial"]["tlogEntries"] = other["verificationMaterial"]["tlogEntries"]
    assert set(shop.judge(bundle)) == {"signature.wrong"}


def test_a_changed_file_is_named(shop: Shop) -> None:
    bundle = shop.sigstore.sign(shop.statement())
    (shop.model / "config.json").write_text("{ }")
    (shop.model / ".git").mkdir()
    (shop.model / ".git" / "config").write_text("x")
    shop.bundle.write_text(json.dumps(bundle))
    assert "'config.json'" in shop.judge(bundle)["signature.wrong"]
    assert "'.git/config'" in shop.judge(bundle)["signature.wrong"]


def test_a_trust_root_is_a_pinned_file_beside_the_policy(shop: Shop) -> None:
    root, policy = shop.folder / "root.json", shop.folder / "verification.yaml"
    root.write_text(shop.sigstore.trusted_root())

    def write(sha256: str, name: str = "root.json") -> None:
        policy.write_text(
            "publishers:\n  Acme:\n    sigstore:\n"
            f"      identity: {IDENTITY}\n      issuer: {ISSUER}\n"
            f"      trust_root: {name}\n      trust_root_sha256: '{sha256}'\n"
        )

    write(sha256_bytes(root.read_bytes()))
    known = load_policy(policy).publishers["Acme"].sigstore
    assert known is not None
    assert known.trust_root == root.read_text()
    write("0" * 64)
    with pytest.raises(ConfigError, match="trust_root_sha256"):
        load_policy(policy)
    write("0" * 64, "absent.json")
    with pytest.raises(ConfigError, match="no trust root"):
        load_policy(policy)
    root.write_text("not JSON")
    write(sha256_bytes(b"not JSON"))
    with pytest.raises(ConfigError, match="not JSON"):
        load_policy(policy)
