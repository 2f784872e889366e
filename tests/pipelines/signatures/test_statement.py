"""What a signature is over: every hash of the specification, and folders as publishers sign."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.digest import build_manifest
from pipelines.models_file import DeclaredUse
from pipelines.records import Finding
from pipelines.signing import create_key
from pipelines.verification.authenticity import Signed, check_bundle
from pipelines.verification.policy import VerificationPolicy
from pipelines.verify import verify_folder

Hashing = Callable[[Any], Any]
SHA256: Hashing = lambda config: config  # noqa: E731
FORMS: dict[str, Hashing] = {
    "sha256": SHA256,
    "blake2b": lambda c: c.use_file_serialization(hashing_algorithm="blake2"),
    "blake3": lambda c: c.use_file_serialization(hashing_algorithm="blake3"),
    "sha256 shards": lambda c: c.use_shard_serialization(shard_size=10),
    "blake2b shards": lambda c: c.use_shard_serialization(hashing_algorithm="blake2", shard_size=7),
}


class Publisher:
    """Signs as publishers do: with the library's own commands, its defaults included."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model = folder, folder / "model"
        self.model.mkdir()
        (self.model / "config.json").write_text('{"a": 1}')
        (self.model / "part").mkdir()
        (self.model / "part" / "tokenizer.json").write_bytes(b"x" * 25)
        self.key, self.public = folder / "k.key", folder / "k.pub"
        create_key(self.key, self.public)
        self.bundle = self.model / "model.sig"

    def sign(self, *options: str) -> None:
        command = ["sign", "key", str(self.model), "--signature", str(self.bundle)]
        command += ["--private_key", str(self.key), *options]
        subprocess.run([sys.executable, "-m", "model_signing", *command], check=True)

    def sign_with(self, form: Hashing) -> None:
        from model_signing import hashing, signing

        everything = form(hashing.Config()).set_ignored_paths(paths=(), ignore_git_paths=False)
        config = signing.Config().use_elliptic_key_signer(private_key=self.key)
        config.set_hashing_config(everything).sign(self.model, self.folder / "model.sig")
        (self.folder / "model.sig").rename(self.bundle)

    def judge(self, *, known: bool = True, kept: bool = True) -> list[Finding]:
        files = tuple(e for e in build_manifest(self.model) if e.path != "model.sig")
        signed = Signed(files, self.model if kept else None)
        publishers = {"Acme": {"public_key": self.public.read_text()}} if known else {}
        policy = VerificationPolicy.model_validate({"publishers": publishers})
        return list(check_bundle(self.bundle, signed, policy))

    def rules(self, *, known: bool = True, kept: bool = True) -> set[tuple[str, str, str]]:
        return {(f.severity, f.rule, f.file) for f in self.judge(known=known, kept=kept)}


VALID = {("info", "signature.valid", "model.sig")}
WRONG = ("refusal", "signature.wrong", "model.sig")


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path)


def test_a_folder_that_was_signed_with_the_librarys_defaults_is_accepted(
    publisher: Publisher,
) -> None:
    publisher.sign()
    assert publisher.rules() == VALID


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_every_hash_of_the_specification_is_recomputed(publisher: Publisher, form: Hashing) -> None:
    publisher.sign_with(form)
    assert publisher.rules() == VALID
    tokenizer = publisher.model / "part" / "tokenizer.json"
    tokenizer.write_bytes(b"x" * 24 + b"y")
    assert publisher.rules() == {WRONG, ("refusal", "signature.file", "part/tokenizer.json")}
    tokenizer.write_bytes(b"x" * 26)
    assert WRONG in publisher.rules()
    tokenizer.write_bytes(b"x" * 20)
    assert WRONG in publisher.rules()
    tokenizer.unlink()
    assert ("refusal", "signature.file", "part/tokenizer.json") in publisher.rules()


def test_hashes_of_files_that_are_not_kept_are_refused(publisher: Publisher) -> None:
    publisher.sign_with(SHA256)
    assert publisher.rules(kept=False) == VALID
    publisher.bundle.unlink()
    publisher.sign_with(FORMS["blake3"])
    assert publisher.rules(kept=False) == {WRONG}


@pytest.mark.parametrize("name", [".git/config", ".github/run.py", ".gitattributes", "extra.py"])
def test_a_file_that_was_added_later_is_refused_wherever_it_lies(
    publisher: Publisher, name: str
) -> None:
    publisher.sign()
    path = publisher.model / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
    assert publisher.rules() == {WRONG, ("refusal", "signature.file", name)}


def test_an_empty_file_that_was_added_to_sharded_hashes_is_refused(publisher: Publisher) -> None:
    """The library passes over empty files when it makes shards, and so does its check."""
    publisher.sign_with(FORMS["sha256 shards"])
    (publisher.model / "__init__.py").write_text("")
    assert ("refusal", "signature.file", "__init__.py") in publisher.rules()


def test_what_the_signer_ignored_is_refused(publisher: Publisher) -> None:
    ignored = str(publisher.model / "part" / "tokenizer.json")
    publisher.sign("--ignore-paths", ignored)
    assert publisher.rules() == {WRONG}


def test_links_that_the_signer_allowed_are_refused(publisher: Publisher) -> None:
    publisher.sign("--allow_symlinks")
    assert publisher.rules() == {WRONG}


def test_a_signature_by_nobody_known_is_a_warning_while_it_speaks_of_these_bytes(
    publisher: Publisher,
) -> None:
    publisher.sign()
    (publisher.model / ".gitattributes").write_text("x")
    assert publisher.rules(known=False) == {("warning", "signature.unchecked", "model.sig")}
    (publisher.model / "config.json").write_text("{}")
    assert publisher.rules(known=False) == {WRONG, ("refusal", "signature.file", "config.json")}


def test_a_folder_outside_a_registry_is_judged_by_the_same_rules(publisher: Publisher) -> None:
    def found(**policy: Any) -> set[tuple[str, str]]:
        rules = VerificationPolicy.model_validate(policy)
        record = verify_folder(publisher.model, DeclaredUse(), rules)
        return {(f.severity, f.rule) for f in record.findings if f.rule.startswith("signature.")}

    known = {"Acme": {"public_key": publisher.public.read_text()}}
    assert found() == {("info", "signature.absent")}
    assert found(require_signature=True) == {("refusal", "signature.absent")}
    publisher.sign()
    assert found() == {("warning", "signature.unchecked")}
    assert found(require_signature=True) == {("refusal", "signature.unchecked")}
    assert found(require_signature=True, publishers=known) == {("info", "signature.valid")}
    document = json.loads(publisher.bundle.read_text())
    document["dsseEnvelope"]["signatures"][0]["sig"] = "AAAA"
    publisher.bundle.write_text(json.dumps(document))
    assert found(publishers=known) == {("refusal", "signature.wrong")}
