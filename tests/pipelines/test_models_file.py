from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import BadName, ConfigError, UnknownName, WrongKindOfPath
from pipelines.models_file import entry, load_models

DIGEST = "b" * 64
GOOD = f"""\
models:
  base: {{reference: "pypi://x==1#sha256={DIGEST}"}}
tunings:
  tuned: {{base: base, recipe: small, dataset: notes}}
uses:
  base: {{}}
  tuned: {{purpose: research}}
evaluations:
  tuned-smoke: {{model: tuned, suite: smoke}}
gates:
  tuned: {{release: notes, policy: default, baseline: {{name: base, digest: {DIGEST}}}}}
"""


def load(folder: Path, text: str) -> None:
    (folder / "models.yaml").write_text(text)
    load_models(folder)


def test_a_whole_models_file_is_read(tmp_path: Path) -> None:
    load(tmp_path, GOOD)
    models = load_models(tmp_path)
    assert models.weights() == ["base", "tuned"]
    assert models.evaluations_of("tuned") == ["tuned-smoke"]
    with pytest.raises(UnknownName, match="There are: base"):
        entry(tmp_path, "model", models.models, "other")


@pytest.mark.parametrize(
    ("old", "new", "fact"),
    [
        ("dataset: notes", "dataset: notes, epochs: 3", r"tunings\.tuned\.epochs: unknown key"),
        ("base: base", "base: absent", r"tunings names \['absent'\]"),
        ("  tuned: {purpose: research}\n", "", r"no declared use for \['tuned'\]"),
        (f"#sha256={DIGEST}", "", "not resolved"),
        ("purpose: research", "purpose: fun", r"uses\.tuned\.purpose"),
        ("model: tuned", "model: absent", "evaluations names"),
        (f"digest: {DIGEST}", "digest: main", r"gates\.tuned\.baseline\.digest"),
        ("  base: {}\n", "  base: {}\n  base: {}\n", "stand there twice"),
        ("models:", "models: [", "not YAML"),
    ],
)
def test_a_wrong_models_file_names_the_key(tmp_path: Path, old: str, new: str, fact: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=fact) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert str(tmp_path / "models.yaml") in str(caught.value)


def test_a_name_with_a_dot_is_refused_with_a_proposal(tmp_path: Path) -> None:
    with pytest.raises(BadName, match="qwen2-5"):
        load(tmp_path, "uses: {qwen2.5: {}}")


def test_an_absent_models_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WrongKindOfPath, match=r"models\.yaml"):
        load_models(tmp_path)
