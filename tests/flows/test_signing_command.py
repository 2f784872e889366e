"""`weighbridge sign`: what it signs, the public tool accepts; what it cannot sign, it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import toy_registry
from released_model import release_weights

from flows.signing_command import SigningOptions, make_key, sign_target
from pipelines import signing
from pipelines.errors import ConfigError, SignatureRefused, UnknownName, WrongKindOfPath


def weighbridge(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def public_tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "model_signing", "verify", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "part").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "part" / ".hidden").write_bytes(b"weights")
    return folder


def test_the_public_tool_accepts_what_we_sign_with_a_key(model: Path, tmp_path: Path) -> None:
    made = weighbridge("sign", "--new-key", str(tmp_path / "keys"), "--json")
    assert made.returncode == 0, made.stderr
    pair = json.loads(made.stdout)
    out = tmp_path / "model.sig"
    signed = weighbridge("sign", str(model), "--key", pair["private"], "--out", str(out))
    assert signed.returncode == 0, signed.stderr
    assert "Signed 2 files" in signed.stdout
    check = ("key", str(model), "--signature", str(out), "--public_key", pair["public"])
    assert public_tool(*check, "--no-ignore-git-paths").returncode == 0
    (model / "config.json").write_text("{ }")
    assert public_tool(*check, "--no-ignore-git-paths").returncode != 0


def test_the_public_tool_accepts_what_we_sign_with_a_certificate(
    model: Path, tmp_path: Path
) -> None:
    authority = _authority(tmp_path / "pki")
    out = tmp_path / "model.sig"
    options = SigningOptions(
        key=authority / "leaf.key",
        certificate=authority / "leaf.pem",
        chain=(authority / "root.pem",),
        out=out,
    )
    sign_target(str(model), options)
    root = str(authority / "root.pem")
    done = public_tool(
        "certificate", str(model), "--signature", str(out), "--certificate_chain", root
    )
    assert done.returncode == 0, done.stderr


def _authority(folder: Path) -> Path:
    """A root and a leaf for code signing, made with the command that the documentation shows."""
    folder.mkdir()
    subject, days = "/O=Acme/CN=Acme Release", ("-days", "30", "-nodes")
    elliptic = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    usage = (
        *("-addext", "keyUsage=critical,digitalSignature"),
        *("-addext", "extendedKeyUsage=codeSigning", "-addext", "basicConstraints=CA:FALSE"),
    )
    root = ("-keyout", "root.key", "-out", "root.pem", "-subj", "/O=Acme/CN=Acme Root")
    _openssl(folder, *elliptic, *days, *root, "-addext", "keyUsage=critical,keyCertSign")
    leaf = ("-keyout", "leaf.key", "-out", "leaf.pem", "-subj", subject)
    _openssl(folder, *elliptic, *days, *leaf, *usage, "-CA", "root.pem", "-CAkey", "root.key")
    return folder


def _openssl(folder: Path, *arguments: str) -> None:
    argv = ["openssl", "req", "-x509", *arguments]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)


def test_a_folder_with_links_is_not_signed(model: Path, tmp_path: Path) -> None:
    key = Path(make_key(tmp_path / "keys")["private"])
    (model / "link").symlink_to(model / "config.json")
    with pytest.raises(WrongKindOfPath, match="links"):
        sign_target(str(model), SigningOptions(key=key, out=tmp_path / "s"))
    assert not (tmp_path / "s").exists()


def test_a_folder_that_changes_while_it_is_signed_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Path(make_key(tmp_path / "keys")["private"])
    build = signing.build_manifest

    def build_then_change(folder: Path) -> object:
        files = build(folder)
        (folder / "config.json").write_text("[]")
        return files

    monkeypatch.setattr(signing, "build_manifest", build_then_change)
    with pytest.raises(SignatureRefused, match="changed while"):
        sign_target(str(model), SigningOptions(key=key, out=tmp_path / "s"))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o666])
def test_a_key_that_others_may_read_or_change_does_not_sign(
    model: Path, tmp_path: Path, mode: int
) -> None:
    key = Path(make_key(tmp_path / "keys")["private"])
    key.chmod(mode)
    with pytest.raises(SignatureRefused, match=f"{mode:04o}"):
        sign_target(str(model), SigningOptions(key=key, out=tmp_path / "s"))


def test_a_key_of_another_kind_does_not_sign(model: Path, tmp_path: Path) -> None:
    key = tmp_path / "rsa.key"
    argv = ["openssl", "genrsa", "-out", str(key), "2048"]
    subprocess.run(argv, check=True, capture_output=True)
    key.chmod(0o600)
    with pytest.raises(SignatureRefused, match="P-256, P-384 or P-521"):
        sign_target(str(model), SigningOptions(key=key, out=tmp_path / "s"))


def test_a_request_that_names_too_little_says_what_is_missing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for options in (
        SigningOptions(),
        SigningOptions(certificate=tmp_path / "c"),
        SigningOptions(key=tmp_path / "k", certificate=tmp_path / "c"),
        SigningOptions(key=tmp_path / "k", chain=(tmp_path / "c",)),
    ):
        with pytest.raises(ConfigError):
            sign_target(str(model), options)
    with pytest.raises(WrongKindOfPath):
        sign_target("absent", SigningOptions())
    for arguments in ((), (str(model), "--new-key", str(tmp_path / "keys"))):
        assert weighbridge("sign", *arguments).returncode == 2


def test_a_model_of_the_registry_is_signed_with_its_key(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = toy_registry.make(tmp_path / "made")
    settings = toy_registry.copied(template, tmp_path / "toy", monkeypatch)
    assert settings.work_tree is not None
    release_weights(settings, model, "toy-model", "toys")
    monkeypatch.chdir(tmp_path)
    done = sign_target("toy-model", SigningOptions(), settings.work_tree)
    assert (done.signature, done.files) == ("toy-model.sig", 2)
    public = settings.work_tree / "policy" / "signing.pub"
    signing.check_manifest_signature(public, model, tmp_path / "toy-model.sig")
    with pytest.raises(UnknownName):
        sign_target("other", SigningOptions(), settings.work_tree)
