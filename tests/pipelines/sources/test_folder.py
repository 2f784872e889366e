from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.digest import build_manifest, weight_digest
from pipelines.errors import SourceChanged, SourceNotFound, UnusableSource, WrongKindOfPath
from pipelines.references import Reference, parse_reference
from pipelines.sources import dispatch
from pipelines.sources.claims import card_claims, metadata_claims
from pipelines.sources.dispatch import Fetched
from pipelines.sources.intake import Wanted
from pipelines.store.objects import ObjectStore


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / ".cache").mkdir(parents=True)
    (folder / "sub").mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "sub/config.json").write_bytes(b"{}")
    (folder / "modeling.py").write_bytes(b"print('code')")
    (folder / ".cache/state").write_bytes(b"of a download tool")
    return folder


def resolve(folder: Path, tmp_path: Path) -> Reference:
    return dispatch.resolve(
        Wanted(reference=parse_reference(f"file://{folder}")), ObjectStore(tmp_path / "home")
    )


def fetch(reference: Reference, tmp_path: Path) -> Fetched:
    (tmp_path / "model").mkdir()
    store = ObjectStore(tmp_path / "home")
    return dispatch.fetch(
        Wanted(reference=reference), store, tmp_path / "model", tmp_path / "origin"
    )


def test_a_folder_is_pinned_to_the_weight_digest_of_what_is_taken(
    source: Path, tmp_path: Path
) -> None:
    pinned = resolve(source, tmp_path)

    fetched = fetch(pinned, tmp_path)

    assert pinned.pin == weight_digest(fetched.files)
    assert pinned.pin == weight_digest(build_manifest(tmp_path / "model"))
    assert fetched.left_out == (".cache/state", "modeling.py")


def test_a_folder_that_changed_since_it_was_resolved_elsewhere_is_refused(
    source: Path, tmp_path: Path
) -> None:
    pinned = resolve(source, tmp_path / "other machine")
    (source / "model.safetensors").write_bytes(b"weightz")

    with pytest.raises(SourceChanged, match=pinned.pin):
        fetch(pinned, tmp_path)


def test_what_was_resolved_here_is_taken_from_the_store(source: Path, tmp_path: Path) -> None:
    pinned = resolve(source, tmp_path)
    (source / "model.safetensors").unlink()

    fetch(pinned, tmp_path)

    assert (tmp_path / "model/model.safetensors").read_bytes() == b"weights"


def test_a_file_that_is_no_weights_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongKindOfPath, match="there is a file"):
        resolve(source / "modeling.py", tmp_path)


def test_a_single_file_of_weights_is_a_source(source: Path, tmp_path: Path) -> None:
    fetched = fetch(resolve(source / "model.safetensors", tmp_path), tmp_path)

    assert [entry.path for entry in fetched.files] == ["model.safetensors"]


def test_patterns_choose_among_model_files_and_leave_licences(source: Path, tmp_path: Path) -> None:
    (source / "LICENSE").write_text("Do as you like.")
    (source / "other.safetensors").write_bytes(b"the same model once more")
    wanted = Wanted(
        reference=parse_reference(f"file://{source}"),
        include=("*.safetensors",),
        exclude=("other*",),
    )
    store = ObjectStore(tmp_path / "home")
    pinned = wanted.model_copy(update={"reference": dispatch.resolve(wanted, store)})
    (tmp_path / "model").mkdir()

    fetched = dispatch.fetch(pinned, store, tmp_path / "model", tmp_path / "origin")

    assert [entry.path for entry in fetched.files] == ["model.safetensors"]
    assert [claim.source for claim in fetched.licences] == ["LICENSE"]
    assert {"other.safetensors", "sub/config.json"} <= set(fetched.left_out)


def test_a_folder_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="no such folder"):
        resolve(tmp_path / "absent", tmp_path)


def test_a_link_in_a_folder_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.safetensors").write_bytes(b"weights")
    (source / "linked.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")

    with pytest.raises(WrongKindOfPath, match="links and devices are refused"):
        resolve(source, tmp_path)


def test_names_that_differ_only_by_case_are_refused(source: Path, tmp_path: Path) -> None:
    (source / "MODEL.safetensors").write_bytes(b"other weights")

    with pytest.raises(UnusableSource, match="are one name where case"):
        resolve(source, tmp_path)


def test_a_card_without_readable_front_matter_is_refused() -> None:
    with pytest.raises(UnusableSource, match="is not YAML"):
        card_claims("file:///x", "README.md", b"---\nlicense: [mit\n---\n")


@pytest.mark.parametrize(
    ("card", "claims"),
    [
        (b"# no front matter", []),
        (b"---\nlicense: mit\n---\ntext", [("README.md:license", "mit")]),
        (
            b"---\r\nlicense: other\r\nlicense_name: qwen\r\nlicense_link: LICENSE\r\n---\r\n",
            [
                ("README.md:license", "other"),
                ("README.md:license_name", "qwen"),
                ("README.md:license_link", "LICENSE"),
            ],
        ),
        (
            b"---\nlicense: [mit, apache-2.0]\n---\n",
            [("README.md:license", "mit"), ("README.md:license", "apache-2.0")],
        ),
        (b"---\n- a list\n---\n", []),
    ],
)
def test_card_claims_are_kept_as_written(card: bytes, claims: list[tuple[str, str]]) -> None:
    found = card_claims("file:///x", "README.md", card)
    assert [(claim.source, claim.identifier) for claim in found] == claims


def test_metadata_claims_keep_fields_and_classifiers_apart() -> None:
    metadata = (
        b"Metadata-Version: 2.4\nName: m\nLicense-Expression: MIT\n"
        b"Classifier: License :: OSI Approved :: MIT License\nClassifier: Topic :: Text\n"
    )
    found = metadata_claims("m.dist-info/METADATA", metadata)
    assert [(claim.source, claim.identifier) for claim in found] == [
        ("m.dist-info/METADATA:License-Expression", "MIT"),
        ("m.dist-info/METADATA:Classifier", "License :: OSI Approved :: MIT License"),
    ]
