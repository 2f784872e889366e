"""docs/signatures.md: every command works as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

from pipelines.verification.policy import VerificationPolicy

PAGE = Path(__file__).parents[2] / "docs" / "signatures.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_every_command_of_the_page_works(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "LICENSE").write_text("x")
    environ = {**os.environ, "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"}
    lines = [line for block in blocks("sh") for line in block.strip().splitlines()]
    assert len(lines) == 11
    for line in lines:
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environ, capture_output=True, text=True
        )
        if line.startswith("weighbridge verify"):  # a folder of papers is no model, but signed
            assert "signature.valid" in done.stdout, done.stderr
        else:
            assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("block", blocks("yaml"))
def test_every_key_of_the_page_is_a_key_of_the_policy(block: str, tmp_path: Path) -> None:
    keys = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-subj", "/CN=x", "-keyout", "key", "-out", "certificate"]
    subprocess.run(["openssl", *keys, *files], cwd=tmp_path, check=True, capture_output=True)
    argv = ["openssl", "pkey", "-in", "key", "-pubout"]
    public = subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    document = yaml.safe_load(block)
    for publisher in document.get("publishers", {}).values():
        if "public_key" in publisher:
            publisher["public_key"] = public
        if "certificate_roots" in publisher:
            publisher["certificate_roots"] = (tmp_path / "certificate").read_text()
    VerificationPolicy.model_validate(document)
