"""Signatures by certificate: the library takes most of these, and only the first is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.x509.oid import ExtendedKeyUsageOID
from pki import Issued, Wish, issue, root

from pipelines.digest import build_manifest
from pipelines.errors import SignatureRefused
from pipelines.signatures.keys import public_pem
from pipelines.signatures.publishers import Publisher
from pipelines.signing import Certificate, sign_manifest
from pipelines.verification.authenticity import Signed, check_bundle
from pipelines.verification.policy import VerificationPolicy

SUBJECT = "CN=Acme Release,O=Acme"


class Shop:
    """A model folder and an authority that signs for it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model = folder, folder / "model"
        self.model.mkdir()
        (self.model / "config.json").write_text("{}")
        (self.model / "model.safetensors").write_bytes(b"weights")
        self.root = root()
        self.between = issue(
            Wish(name="Acme CA", authority=True, path_length=0, days=(-200, 200)), self.root
        )

    def sign(self, leaf: Issued, chain: tuple[Issued, ...] | None = None) -> Path:
        certificate, key = leaf.write(self.folder / "keys")
        links = []
        for number, link in enumerate((self.between,) if chain is None else chain):
            path = self.folder / f"chain{number}.pem"
            path.write_text(link.pem)
            links.append(path)
        bundle = self.folder / "model.sig"
        sign_manifest(key, self.model, bundle, Certificate(leaf=certificate, chain=tuple(links)))
        return bundle

    def judge(self, bundle: Path, **expected: Any) -> dict[str, str]:
        """Rules that were found, with their facts; the publisher is Acme unless said otherwise."""
        publisher = {"certificate_roots": self.root.pem, "subject": SUBJECT, **expected}
        policy = VerificationPolicy.model_validate({"publishers": {"Acme": publisher}})
        signed = Signed(build_manifest(self.model), self.model)
        return {f.rule: f.fact for f in check_bundle(bundle, signed, policy)}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.mark.parametrize(
    "expected",
    [{}, {"san": "release@acme.example"}, {"subject": "", "san": "release@acme.example"}],
)
def test_a_chain_to_the_root_with_the_expected_name_is_accepted(
    shop: Shop, expected: dict[str, str]
) -> None:
    bundle = shop.sign(issue(Wish(), shop.between))
    assert set(shop.judge(bundle, **expected)) == {"signature.valid"}


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_the_other_curves_of_the_specification_are_accepted(
    shop: Shop, curve: ec.EllipticCurve
) -> None:
    wish = Wish(key=ec.generate_private_key(curve))
    assert set(shop.judge(shop.sign(issue(wish, shop.between)))) == {"signature.valid"}


@pytest.mark.parametrize(
    ("wish", "fact"),
    [
        (Wish(days=(-90, -30)), "not valid at validation time"),
        (Wish(days=(5, 30)), "not valid at validation time"),
        (Wish(purposes=(ExtendedKeyUsageOID.SERVER_AUTH,)), "extended key usage"),
        (Wish(purposes=()), "extension"),
        (Wish(signs_data=False), "key usage"),
        (Wish(name="Mallory"), "CN=Mallory"),
        (Wish(authority=True), "digitalSignature"),
    ],
)
def test_a_leaf_that_may_not_sign_models_now_is_refused(shop: Shop, wish: Wish, fact: str) -> None:
    found = shop.judge(shop.sign(issue(wish, shop.between)))
    assert set(found) == {"signature.wrong"}
    assert fact in found["signature.wrong"]


def test_the_library_takes_an_expired_leaf_and_a_tls_server(shop: Shop) -> None:
    """Why we check certificates ourselves; when this fails, the library has learnt it."""
    from model_signing import hashing, verifying

    everything = hashing.Config().set_ignored_paths(paths=(), ignore_git_paths=False)
    root_path = shop.folder / "root.pem"
    root_path.write_text(shop.root.pem)
    for wish in (Wish(days=(-90, -30)), Wish(purposes=(ExtendedKeyUsageOID.SERVER_AUTH,))):
        bundle = shop.sign(issue(wish, shop.between))
        config = verifying.Config().use_certificate_verifier(certificate_chain=[root_path])
        config.set_hashing_config(everything).verify(shop.model, bundle)
        assert "signature.wrong" in shop.judge(bundle)


def test_another_name_than_the_expected_one_is_refused(shop: Shop) -> None:
    bundle = shop.sign(issue(Wish(), shop.between))
    assert "signature.wrong" in shop.judge(bundle, san="other@acme.example")
    assert "signature.wrong" in shop.judge(bundle, subject="CN=Acme Release")


def test_a_chain_that_does_not_lead_to_the_root_is_refused(shop: Shop) -> None:
    other = root(Wish(name="Acme Root"))
    missing = shop.sign(issue(Wish(), shop.between), chain=(shop.root,))
    assert "signature.wrong" in shop.judge(missing)
    stranger = shop.sign(issue(Wish(), other), chain=(other,))
    assert "signature.wrong" in shop.judge(stranger)
    own = issue(Wish(), None)
    assert "signature.wrong" in shop.judge(shop.sign(own, chain=(own,)))


def test_an_authority_beyond_its_path_length_is_refused(shop: Shop) -> None:
    below = issue(Wish(name="Too deep", authority=True), shop.between)
    bundle = shop.sign(issue(Wish(), below), chain=(below, shop.between))
    assert "path" in shop.judge(bundle)["signature.wrong"]


def test_a_leaf_that_plays_authority_is_refused(shop: Shop) -> None:
    leaf = issue(Wish(name="Somebody"), shop.between)
    below = issue(Wish(), leaf)
    assert "signature.wrong" in shop.judge(shop.sign(below, chain=(leaf, shop.between)))


@pytest.mark.parametrize(
    "weak",
    [
        Wish(name="Weak", key=rsa.generate_private_key(65537, 1024)),
        Wish(name="Odd", key=ec.generate_private_key(ec.SECP256K1())),
    ],
)
def test_weak_keys_and_hashes_in_the_chain_are_refused(shop: Shop, weak: Wish) -> None:
    between = issue(replace(weak, authority=True, purposes=(), san=""), shop.root)
    bundle = shop.sign(issue(Wish(), between), chain=(between,))
    assert "signature.wrong" in shop.judge(bundle)


def test_a_leaf_that_was_signed_with_sha1_is_refused(shop: Shop) -> None:
    """The key of the authority signs the same certificate anew, over SHA-1."""
    key = rsa.generate_private_key(65537, 2048)
    between = issue(Wish(name="Old CA", authority=True, key=key, san=""), shop.root)
    leaf = issue(Wish(), between)
    sha256, sha1 = (bytes.fromhex(f"2a864886f70d0101{end}") for end in ("0b", "05"))
    body = leaf.certificate.tbs_certificate_bytes.replace(sha256, sha1)
    signature = key.sign(body, PKCS1v15(), hashes.SHA1())
    der = leaf.certificate.public_bytes(serialization.Encoding.DER)
    der = der.replace(leaf.certificate.tbs_certificate_bytes, body).replace(sha256, sha1)
    old = x509.load_der_x509_certificate(der.replace(leaf.certificate.signature, signature))
    bundle = shop.sign(Issued(old, leaf.key), chain=(between,))
    assert "signature algorithm" in shop.judge(bundle)["signature.wrong"]


def test_an_rsa_authority_of_2048_bits_is_accepted(shop: Shop) -> None:
    key = rsa.generate_private_key(65537, 2048)
    between = issue(Wish(name="RSA CA", authority=True, key=key, san=""), shop.root)
    assert set(shop.judge(shop.sign(issue(Wish(), between), chain=(between,)))) == {
        "signature.valid"
    }


def test_a_certificate_of_another_key_cannot_sign(shop: Shop) -> None:
    leaf, other = issue(Wish(), shop.between), issue(Wish(), shop.between)
    certificate, _ = leaf.write(shop.folder / "a")
    _, key = other.write(shop.folder / "b")
    with pytest.raises(SignatureRefused, match="certificate cannot be used"):
        sign_manifest(
            key, shop.model, shop.folder / "s", Certificate(leaf=certificate, chain=(certificate,))
        )
    missing = Certificate(leaf=shop.folder / "none.pem", chain=(certificate,))
    with pytest.raises(SignatureRefused, match="no certificate"):
        sign_manifest(key, shop.model, shop.folder / "s", missing)


@pytest.mark.parametrize(
    ("publisher", "fact"),
    [
        ({}, "exactly one"),
        ({"public_key": "x"}, "pattern"),
        ({"subject": "CN=x"}, "exactly one"),
        ({"certificate_roots": "ROOT"}, "subject or the san"),
        ({"certificate_roots": "ROOT", "subject": "no name"}, "subject"),
        ({"certificate_roots": "ROOT", "public_key": "KEY"}, "exactly one"),
        (
            {"public_key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"},
            "not a PEM",
        ),
        (
            {
                "certificate_roots": "-----BEGIN CERTIFICATE-----\nAAAA\n"
                "-----END CERTIFICATE-----\n",
                "san": "a@b",
            },
            "certificate",
        ),
    ],
)
def test_a_publisher_that_names_nobody_is_a_typing_error(
    shop: Shop, publisher: dict[str, str], fact: str
) -> None:
    pem = public_pem(ec.generate_private_key(ec.SECP256R1()).public_key()).decode()
    words = {"ROOT": shop.root.pem, "KEY": pem}
    written = {key: words.get(value, value) for key, value in publisher.items()}
    with pytest.raises(ValueError, match=fact):
        Publisher.model_validate(written)
