"""`weighbridge sign`: sign a folder or a model of the registry, for whoever checks it elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows import console
from flows.options import Json, Registry
from pipelines.canonical import Frozen
from pipelines.digest import FileEntry, check_digest, weight_digest
from pipelines.errors import ConfigError, NotARegistry, UnknownName, WrongKindOfPath
from pipelines.records import ManifestRecord, read_record
from pipelines.settings import Settings, load_settings

app = typer.Typer()

_MAKE_ONE = "Name one with --key, or make one with `weighbridge sign --new-key DIR`."


class SigningOptions(Frozen):
    """With what to sign, and where to put the signature."""

    key: Path | None = None
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()
    out: Path | None = None


class Signature(Frozen):
    """A signature that was written."""

    signature: str
    weight_digest: str
    files: int


@app.command()
def sign(
    target: Annotated[
        str, typer.Argument(help="A folder, or a model of the registry.", show_default=False)
    ] = "",
    key: Annotated[
        Path | None, typer.Option(help="PEM private key. Default: the registry's own.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM certificate of that key, for code signing.")
    ] = None,
    chain: Annotated[
        list[Path] | None,
        typer.Option(help="PEM certificates between it and the root; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Default: NAME.sig here.")] = None,
    new_key: Annotated[
        Path | None, typer.Option(help="Make signing.key and signing.pub in this folder.")
    ] = None,
    registry: Registry = None,
    json: Json = False,
) -> None:
    """Sign weights in the OpenSSF form that `model_signing verify` reads. Nothing is fetched."""
    if bool(target) == bool(new_key):
        fact = "either a folder or name to sign, or --new-key DIR, is needed"
        raise ConfigError("sign", fact, "See `weighbridge sign --help`.")
    if new_key is not None:
        pair = make_key(new_key)
        console.show(pair, json, f"Keep {pair['private']} secret; give {pair['public']} away")
        return
    options = SigningOptions(key=key, certificate=certificate, chain=tuple(chain or ()), out=out)
    done = sign_target(target, options, registry)
    text = f"Signed {done.files} files (weight digest {done.weight_digest}): {done.signature}"
    console.show(done.model_dump(mode="json"), json, text)


def make_key(folder: Path) -> dict[str, str]:
    """Create a key pair; raises ConfigError when one is there already."""
    from pipelines.signing import create_key

    private, public = folder / "signing.key", folder / "signing.pub"
    create_key(private, public)
    return {"private": str(private), "public": str(public)}


def sign_target(target: str, options: SigningOptions, registry: Path | None = None) -> Signature:
    """Sign a folder, or the model of the registry that is called `target`.

    A folder that exists is taken before a name. Raises ConfigError when no key is named and no
    registry has one, WrongKindOfPath for a folder with links and for what is neither folder nor
    name, DigestMismatch for a model whose bytes are not those of its manifest, SignatureRefused
    for a key, a certificate or a folder that cannot be used.
    """
    path = Path(target)
    if path.is_dir() or "/" in target or path.exists():
        return _sign(path, path.resolve().name, options, _key(options, registry))
    try:
        settings = load_settings(registry)
    except NotARegistry as error:
        raise WrongKindOfPath(path, "a folder of weights") from error
    return _sign_registered(settings, target, options)


def _sign_registered(settings: Settings, name: str, options: SigningOptions) -> Signature:
    """Sign what origin holds under a name, from a disposable clone, against its manifest."""
    from pipelines.models_file import load_models
    from pipelines.store.registry import Layout
    from pipelines.store.workspace import open_workspace

    with open_workspace(settings) as workspace:
        layout, known = Layout(workspace.root), load_models(workspace.root).weights()
        if name not in known:
            raise UnknownName(workspace.root / "models.yaml", "model or tuning", name, known)
        workspace.restore(f"models/{name}", f"evidence/{name}/origin")
        manifest = read_record(layout.origin(name) / "manifest.json", ManifestRecord)
        check_digest(layout.weights(name), manifest.weight_digest)
        return _sign(layout.weights(name), name, options, options.key or settings.signing_key)


def _sign(weights: Path, name: str, options: SigningOptions, key: Path) -> Signature:
    from pipelines.signing import Certificate, sign_manifest

    certificate = None
    if options.certificate is not None and options.chain:
        certificate = Certificate(leaf=options.certificate, chain=options.chain)
    elif options.certificate is not None or options.chain:
        remedy = "Name both; where the root itself issued the certificate, --chain is the root."
        raise ConfigError("sign", "--certificate and --chain belong together", remedy)
    out = options.out or Path(f"{name}.sig")
    files: tuple[FileEntry, ...] = sign_manifest(key, weights, out, certificate)
    return Signature(signature=str(out), weight_digest=weight_digest(files), files=len(files))


def _key(options: SigningOptions, registry: Path | None) -> Path:
    if options.key is not None:
        return options.key
    if options.certificate is not None:
        raise ConfigError("sign", "a certificate needs its own key", _MAKE_ONE)
    try:
        return load_settings(registry).signing_key
    except NotARegistry as error:
        raise ConfigError("sign", "there is no key to sign with", _MAKE_ONE) from error
