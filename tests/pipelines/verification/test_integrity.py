"""A folder against a pinned manifest, file by file."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from pipelines.digest import build_manifest
from pipelines.errors import ConfigError, WrongKindOfPath
from pipelines.models_file import DeclaredUse
from pipelines.verification.integrity import compare, read_manifest
from pipelines.verification.policy import VerificationPolicy
from pipelines.verify import verify_folder


@pytest.fixture(params=["json", "lines"])
def manifest(request: pytest.FixtureRequest, model: Path) -> Path:
    entries = build_manifest(model)
    path = model.parent / f"manifest.{request.param}"
    if request.param == "json":
        path.write_text(json.dumps({"files": [entry.model_dump() for entry in entries]}))
    else:
        path.write_text("".join(f"{entry.sha256}  ./{entry.path}\n" for entry in entries))
    return path


def found(model: Path, manifest: Path) -> set[tuple[str, str]]:
    record = verify_folder(model, DeclaredUse(), VerificationPolicy(), manifest)
    found = {(f.rule, f.file) for f in record.findings if f.rule.startswith("integrity.")}
    assert not (found and record.passed)
    return {(rule.removeprefix("integrity."), file) for rule, file in found}


def test_the_pinned_bytes_give_no_finding(model: Path, manifest: Path) -> None:
    assert found(model, manifest) == set()


def test_each_difference_names_its_file(model: Path, manifest: Path) -> None:
    (model / "README.md").unlink()
    (model / "extra.txt").write_text("x")
    (model / "LICENSE").rename(model / "LICENSE.txt")
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (model / "model.safetensors").write_bytes(data)
    assert found(model, manifest) == {
        ("missing", "README.md"),
        ("extra", "extra.txt"),
        ("renamed", "LICENSE.txt"),
        ("changed", "model.safetensors"),
    }


def test_every_random_mutation_is_refused(model: Path) -> None:
    pinned = build_manifest(model)
    chance = random.Random(1)
    for _ in range(200):
        victim = chance.choice([path for path in model.iterdir() if path.is_file()])
        original = victim.read_bytes()
        match chance.choice(["bit", "rename", "add", "drop"]):
            case "bit":
                data = bytearray(original)
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
                victim.write_bytes(data)
                added = None
            case "rename":
                added = victim.rename(victim.with_name(f"{victim.name}.{chance.random()}"))
            case "add":
                added = model / f"new{chance.random()}"
                added.write_bytes(chance.randbytes(9))
            case _:
                victim.unlink()
                added = None
        assert list(compare(pinned, build_manifest(model)))
        if added is not None:
            added.unlink()
        victim.write_bytes(original)
    assert not list(compare(pinned, build_manifest(model)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"files": [{"path": "a"}]}',
        '{"files": [], "files": []}',
        '{"files": [{"path": "../a", "size_bytes": 1, "sha256": "x"}]}',
        "abc  file\n",
        f"{'0' * 64}  /etc/passwd\n",
        f"{'0' * 64}  a\n{'1' * 64}  a\n",
        "\udcff",
    ],
)
def test_a_manifest_that_cannot_be_read_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError):
        read_manifest(path)


def test_a_manifest_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WrongKindOfPath):
        read_manifest(tmp_path / "manifest")
