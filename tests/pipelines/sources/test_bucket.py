"""Sources in a bucket: a real SeaweedFS, with a misbehaving proxy before it where it must."""

from __future__ import annotations

import base64
import hashlib
import io
import random
import secrets
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from pipelines.canonical import sha256_bytes
from pipelines.errors import (
    ConfigError,
    SourceChanged,
    SourceClosed,
    SourceNotFound,
    SourceUnreachable,
    TransferCutOff,
    UnusableSource,
)
from pipelines.references import Reference, parse_reference
from pipelines.sources import bucket, dispatch
from pipelines.sources.bucket import BucketSource, stated_by
from pipelines.sources.dispatch import Fetched
from pipelines.sources.intake import Wanted
from pipelines.store import resuming
from pipelines.store.bucket_errors import named_errors
from pipelines.store.objects import ObjectStore
from tests.s3_proxy import S3Proxy, s3_proxy
from tests.s3_server import S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SIZE = 3_000_000
WEIGHTS = random.Random(3).randbytes(SIZE)
CONFIG = b'{"model_type": "llama"}'
FILES = {
    "model.safetensors": WEIGHTS,
    "config.json": CONFIG,
    "sub/tokenizer.json": b"{}",
    "LICENSE": b"Apache License, Version 2.0 ...",
    "pytorch_model.bin": b"a pickle",
}


@dataclass
class Bucket:
    """A bucket with a model under one prefix."""

    server: S3Server
    client: S3Client
    name: str
    prefix: str

    @property
    def model(self) -> str:
        return f"s3://{self.name}/{self.prefix}"

    def key(self, path: str) -> str:
        return f"{self.prefix}/{path}"

    def put(self, path: str, data: bytes, **options: Any) -> None:
        self.server.client().put_object(Bucket=self.name, Key=self.key(path), Body=data, **options)

    def fill(self) -> None:
        with ThreadPoolExecutor(len(FILES)) as pool:
            list(pool.map(self.put, FILES, FILES.values()))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(bucket, "_ATTEMPTS", 2)


@pytest.fixture(scope="module")
def shared(s3_server: S3Server) -> Bucket:
    """One bucket for all: SeaweedFS sets several volumes aside for each, and has few."""
    return Bucket(s3_server, s3_server.client(), s3_server.bucket(), "")


@pytest.fixture
def kept(shared: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in shared.server.environ().items():
        monkeypatch.setenv(name, value)
    made = replace(shared, prefix=f"models/{secrets.token_hex(4)}")
    made.fill()
    return made


@pytest.fixture
def proxy(kept: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """What stands between us and the bucket."""
    with s3_proxy(kept.server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "home")


def resolve(text: str, store: ObjectStore, **patterns: tuple[str, ...]) -> Reference:
    return dispatch.resolve(Wanted(reference=parse_reference(text), **patterns), store)


def fetch(reference: Reference, store: ObjectStore, out: Path) -> Fetched:
    (out / "model").mkdir(parents=True)
    (out / "origin").mkdir()
    return dispatch.fetch(Wanted(reference=reference), store, out / "model", out / "origin")


def test_a_prefix_is_pinned_to_the_weight_digest_of_what_is_taken(
    kept: Bucket, store: ObjectStore, tmp_path: Path
) -> None:
    found = resolve(kept.model + "/", store)

    fetched = fetch(found, store, tmp_path)

    assert str(found) == f"{kept.model}#sha256={found.pin}"
    assert {entry.path: entry.sha256 for entry in fetched.files} == {
        name: sha256_bytes(FILES[name])
        for name in ("model.safetensors", "config.json", "sub/tokenizer.json")
    }
    assert (tmp_path / "model/sub/tokenizer.json").read_bytes() == b"{}"
    assert [claim.source for claim in fetched.licences] == ["LICENSE"]
    assert fetched.left_out == ("pytorch_model.bin",)


def test_what_was_resolved_is_not_fetched_again(
    kept: Bucket, proxy: S3Proxy, store: ObjectStore, tmp_path: Path
) -> None:
    found = resolve(kept.model, store)
    proxy.asked.clear()

    fetch(found, store, tmp_path)

    assert proxy.asked == []
    assert "pytorch_model.bin" not in {key.rsplit("/", 1)[-1] for key in proxy.sent}


def test_another_machine_fetches_the_same_pin(
    kept: Bucket, store: ObjectStore, tmp_path: Path
) -> None:
    found = resolve(kept.model, store)
    elsewhere = ObjectStore(tmp_path / "elsewhere")

    fetched = fetch(found, elsewhere, tmp_path)

    assert len(fetched.files) == 3


def test_one_object_of_weights_is_a_source_by_itself(
    kept: Bucket, store: ObjectStore, tmp_path: Path
) -> None:
    kept.put("model.safetensors.index.json", b"{}")  # begins with the same name

    found = resolve(f"{kept.model}/model.safetensors", store)

    assert [entry.path for entry in fetch(found, store, tmp_path).files] == ["model.safetensors"]


def test_a_whole_bucket_can_be_a_source(kept: Bucket, store: ObjectStore, tmp_path: Path) -> None:
    alone = replace(kept, name=kept.server.bucket(), prefix="of-it")
    alone.fill()

    fetched = fetch(resolve(f"s3://{alone.name}", store), store, tmp_path)

    assert "of-it/model.safetensors" in {entry.path for entry in fetched.files}


def test_a_prefix_ends_at_a_slash(kept: Bucket, store: ObjectStore, tmp_path: Path) -> None:
    kept.client.put_object(
        Bucket=kept.name, Key=f"{kept.prefix}-2/other.safetensors", Body=b"other"
    )

    fetched = fetch(resolve(kept.model, store), store, tmp_path)

    assert all("other" not in entry.path for entry in fetched.files)


def test_listings_of_many_pages_are_read_to_the_end(
    kept: Bucket, proxy: S3Proxy, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.paginate import Paginator

    ask = Paginator.paginate

    def by_twos(self: Any, **arguments: Any) -> Any:
        return ask(self, **arguments, PaginationConfig={"PageSize": 2})

    monkeypatch.setattr(Paginator, "paginate", by_twos)

    source = BucketSource(parse_reference(kept.model))

    assert set(source.offers) == set(FILES)


def test_patterns_choose_among_model_files(kept: Bucket, store: ObjectStore) -> None:
    kept.put("extra.safetensors", b"not wanted")

    found = resolve(kept.model, store, exclude=("extra.*", "sub/*"))
    alone = resolve(kept.model, store, include=("extra.*",))

    assert found.pin != resolve(kept.model, store).pin != alone.pin


@pytest.mark.parametrize(
    ("options", "algorithm"),
    [
        ({"ChecksumAlgorithm": "SHA256"}, "sha256"),
        ({"ChecksumAlgorithm": "CRC32"}, "crc32"),
    ],
)
def test_a_store_that_keeps_checksums_is_held_to_them(
    kept: Bucket,
    proxy: S3Proxy,
    store: ObjectStore,
    tmp_path: Path,
    options: dict[str, str],
    algorithm: str,
) -> None:
    kept.put("model.safetensors", WEIGHTS, **options)
    proxy.flips.add(kept.key("model.safetensors"))

    with pytest.raises(SourceChanged, match=f"resolved to {algorithm} "):
        resolve(kept.model, store)
    proxy.flips.clear()

    assert fetch(resolve(kept.model, store), store, tmp_path)


def test_small_objects_are_held_to_the_checksum_they_come_with(
    kept: Bucket, proxy: S3Proxy, store: ObjectStore
) -> None:
    proxy.flips.add(kept.key("config.json"))

    with pytest.raises(SourceChanged, match=r"config\.json: .*the checksum that the store keeps"):
        resolve(kept.model, store)
    assert ("HEAD", kept.key("config.json"), "") not in proxy.asked


def test_an_object_uploaded_in_parts_states_no_digest_of_its_bytes(
    kept: Bucket, store: ObjectStore, tmp_path: Path
) -> None:
    from boto3.s3.transfer import TransferConfig

    parts = WEIGHTS * 4
    kept.client.upload_fileobj(
        io.BytesIO(parts),
        kept.name,
        kept.key("model.safetensors"),
        Config=TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20),
    )

    source = BucketSource(parse_reference(kept.model))
    fetched = fetch(resolve(kept.model, store), store, tmp_path)

    assert source.offers["model.safetensors"].stated is None
    assert sha256_bytes(parts) in {entry.sha256 for entry in fetched.files}


MD5 = hashlib.md5(WEIGHTS).hexdigest()
HEAD = {"ETag": f'"{MD5}"'}
SHA256_BASE64 = base64.b64encode(hashlib.sha256(WEIGHTS).digest()).decode()
CRC32_BASE64 = base64.b64encode(zlib.crc32(WEIGHTS).to_bytes(4, "big")).decode()


@pytest.mark.parametrize(
    ("head", "stated"),
    [
        (HEAD, ("md5", MD5)),
        ({**HEAD, "ServerSideEncryption": "AES256"}, ("md5", MD5)),
        ({**HEAD, "ServerSideEncryption": "aws:kms"}, None),
        ({**HEAD, "ServerSideEncryption": "aws:kms:dsse"}, None),
        ({**HEAD, "SSECustomerAlgorithm": "AES256"}, None),
        ({"ETag": f'"{MD5}-3"'}, None),
        ({"ETag": '"an identity of its own kind"'}, None),
        ({**HEAD, "ChecksumSHA256": SHA256_BASE64}, ("sha256", sha256_bytes(WEIGHTS))),
        ({**HEAD, "ChecksumCRC32": CRC32_BASE64}, ("crc32", f"{zlib.crc32(WEIGHTS):08x}")),
        ({"ETag": '"x-2"', "ChecksumSHA256": f"{SHA256_BASE64}-2"}, None),
        (
            {"ETag": '"x-2"', "ChecksumCRC32": CRC32_BASE64, "ChecksumType": "COMPOSITE"},
            None,
        ),
        ({"ETag": '"x-2"', "ChecksumCRC64NVME": "AAAAAAAAAAA="}, None),
    ],
)
def test_only_digests_of_the_whole_are_taken(
    head: dict[str, str], stated: tuple[str, str] | None
) -> None:
    found = stated_by(head)

    assert (found and (found.algorithm, found.value)) == stated


def test_directory_buckets_state_no_md5() -> None:
    assert stated_by(HEAD, is_directory_bucket=True) is None


def test_an_object_replaced_after_the_listing_is_refused_and_not_mixed(
    kept: Bucket, proxy: S3Proxy, store: ObjectStore, tmp_path: Path
) -> None:
    other = WEIGHTS[::-1]
    proxy.cuts[kept.key("model.safetensors")] = [1_000_000]
    once = threading.Event()

    def put_another(key: str) -> None:
        asked_again = [entry for entry in proxy.asked if entry[2] == "bytes=1000000-"]
        if asked_again and not once.is_set():
            once.set()
            kept.put("model.safetensors", other)

    proxy.before_get = put_another

    with pytest.raises(SourceChanged, match=r"model\.safetensors: .*another object"):
        resolve(kept.model, store)

    fetched = fetch(resolve(kept.model, store), store, tmp_path)
    assert sha256_bytes(other) in {entry.sha256 for entry in fetched.files}


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_a_store_that_ignores_the_condition_is_noticed(
    kept: Bucket, proxy: S3Proxy, store: ObjectStore, path: str
) -> None:
    proxy.drops = "If-Match"
    proxy.before_get = lambda key: kept.put(path, FILES[path][::-1]) if path in key else None

    with pytest.raises(SourceChanged, match=f"{path}.*ETag"):
        resolve(kept.model, store)


def test_an_object_removed_after_the_listing_is_refused(
    kept: Bucket, proxy: S3Proxy, store: ObjectStore
) -> None:
    def remove(key: str) -> None:
        kept.client.delete_object(Bucket=kept.name, Key=key)

    proxy.before_get = remove

    with pytest.raises(SourceChanged, match="now gives nothing"):
        resolve(kept.model, store)


def test_where_versions_are_kept_the_listed_one_is_read(
    kept: Bucket, proxy: S3Proxy, store: ObjectStore, tmp_path: Path
) -> None:
    kept.name = kept.server.bucket()
    kept.client.put_bucket_versioning(
        Bucket=kept.name, VersioningConfiguration={"Status": "Enabled"}
    )
    kept.fill()

    def put_another(key: str) -> None:
        if key == kept.key("model.safetensors"):
            kept.put("model.safetensors", WEIGHTS[::-1])

    proxy.before_get = put_another

    fetched = fetch(resolve(kept.model, store), store, tmp_path)

    assert sha256_bytes(WEIGHTS) in {entry.sha256 for entry in fetched.files}


def test_a_pin_whose_objects_changed_is_refused(
    kept: Bucket, store: ObjectStore, tmp_path: Path
) -> None:
    found = resolve(kept.model, store)
    kept.put("config.json", b"{}")

    with pytest.raises(SourceChanged, match=found.pin):
        fetch(found, ObjectStore(tmp_path / "elsewhere"), tmp_path)


@pytest.mark.parametrize("resets", [False, True], ids=["silence", "reset"])
def test_a_stream_that_breaks_off_goes_on_at_the_byte_that_it_reached(
    kept: Bucket, proxy: S3Proxy, store: ObjectStore, tmp_path: Path, resets: bool
) -> None:
    proxy.resets = resets
    large, small = kept.key("model.safetensors"), kept.key("config.json")
    proxy.cuts = {large: [1_000_000, 0, 7], small: [5]}

    fetched = fetch(resolve(kept.model, store), store, tmp_path)

    assert {sha256_bytes(WEIGHTS), sha256_bytes(CONFIG)} < {e.sha256 for e in fetched.files}
    if not resets:  # which drops what was sent and not yet read
        assert (proxy.sent[large], proxy.sent[small]) == (SIZE, len(CONFIG))


def test_a_second_run_asks_only_for_what_is_missing(
    kept: Bucket,
    proxy: S3Proxy,
    store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = kept.key("model.safetensors")
    proxy.cuts = {large: [2_000_000]}
    monkeypatch.setattr(resuming, "_ATTEMPTS", 1)
    with pytest.raises(TransferCutOff, match="2000000 of 3000000 bytes came"):
        resolve(kept.model, store)
    proxy.asked.clear()

    fetched = fetch(resolve(kept.model, store), store, tmp_path)

    assert sha256_bytes(WEIGHTS) in {entry.sha256 for entry in fetched.files}
    assert [span for verb, key, span in proxy.asked if (verb, key) == ("GET", large)] == [
        "bytes=2000000-"
    ]
    assert proxy.sent[large] == SIZE


def test_an_object_replaced_between_two_runs_is_fetched_whole(
    kept: Bucket,
    proxy: S3Proxy,
    store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy.cuts = {kept.key("model.safetensors"): [2_000_000]}
    monkeypatch.setattr(resuming, "_ATTEMPTS", 1)
    with pytest.raises(TransferCutOff):
        resolve(kept.model, store)
    other = WEIGHTS[::-1]
    kept.put("model.safetensors", other)

    fetched = fetch(resolve(kept.model, store), store, tmp_path)

    assert sha256_bytes(other) in {entry.sha256 for entry in fetched.files}


def test_a_store_that_knows_no_ranges_is_read_past_what_is_here(
    kept: Bucket, proxy: S3Proxy, store: ObjectStore, tmp_path: Path
) -> None:
    proxy.drops = "Range"
    proxy.cuts = {kept.key("model.safetensors"): [2_000_000, 1_500_000]}

    fetched = fetch(resolve(kept.model, store), store, tmp_path)

    assert sha256_bytes(WEIGHTS) in {entry.sha256 for entry in fetched.files}


def test_a_store_that_falls_silent_is_asked_again(
    kept: Bucket,
    proxy: S3Proxy,
    store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bucket, "_READ_TIMEOUT_S", 1.0)
    proxy.stalls = True
    proxy.cuts = {kept.key("model.safetensors"): [1_000_000]}

    fetched = fetch(resolve(kept.model, store), store, tmp_path)

    assert sha256_bytes(WEIGHTS) in {entry.sha256 for entry in fetched.files}


def test_a_store_that_fails_for_a_while_is_waited_for(
    kept: Bucket, proxy: S3Proxy, store: ObjectStore, tmp_path: Path
) -> None:
    proxy.failing = 1

    assert fetch(resolve(kept.model, store), store, tmp_path).files


def test_a_store_that_fails_for_ever_is_unreachable(
    kept: Bucket, proxy: S3Proxy, store: ObjectStore
) -> None:
    proxy.failing = 1000

    with pytest.raises(SourceUnreachable, match=r"answers with 500 \(InternalError"):
        resolve(kept.model, store)


def test_an_endpoint_that_is_down_is_unreachable(
    kept: Bucket, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    with pytest.raises(SourceUnreachable, match=r"127\.0\.0\.1:9.*AWS_ENDPOINT_URL"):
        resolve(kept.model, store)


def test_an_endpoint_that_is_no_url_is_a_mistake(
    kept: Bucket, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")

    with pytest.raises(ConfigError, match=r"AWS_ENDPOINT_URL: .*nonsense"):
        resolve(kept.model, store)


def test_a_missing_bucket_is_not_found(kept: Bucket, store: ObjectStore) -> None:
    with pytest.raises(SourceNotFound, match="there is no bucket no-such-bucket at http"):
        resolve("s3://no-such-bucket/models", store)


@pytest.mark.parametrize("prefix", ["model", "nothing", "models/none.gguf"])
def test_an_empty_prefix_is_not_found(kept: Bucket, store: ObjectStore, prefix: str) -> None:
    with pytest.raises(SourceNotFound, match="nothing lies under this prefix"):
        resolve(f"s3://{kept.name}/{prefix}", store)


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_keys_are_refused_access(
    kept: Bucket, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "wrong")

    with pytest.raises(SourceClosed, match=r"refuses access .*AWS_PROFILE"):
        resolve(kept.model, store)


def test_a_machine_without_keys_is_told_how_to_give_them(
    kept: Bucket, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(SourceClosed, match=r"Unable to locate credentials.*AWS_ACCESS_KEY_ID"):
        resolve(kept.model, store)


@pytest.mark.parametrize(
    ("status", "code", "error", "fact"),
    [
        (403, "AccessDenied", SourceClosed, "refuses access .AccessDenied"),
        (403, "InvalidObjectState", UnusableSource, "is archived"),
        (400, "ExpiredToken", SourceClosed, "refuses access .ExpiredToken"),
        (301, "PermanentRedirect", SourceUnreachable, "answers with 301"),
        (503, "SlowDown", SourceUnreachable, "answers with 503"),
    ],
)
def test_what_aws_answers_is_told_apart(
    status: int, code: str, error: type[Exception], fact: str
) -> None:
    # Answers that SeaweedFS never gives.
    response: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}

    with pytest.raises(error, match=fact), named_errors("s3://b/m", "https://s3", "b"):
        raise ClientError(response, "GetObject")


@pytest.mark.parametrize(
    "name", ["../config.json", "/config.json", "a//config.json", "a\\config.json", "a/./b.json"]
)
def test_an_unsafe_key_is_refused_before_a_byte_is_fetched(
    kept: Bucket, proxy: S3Proxy, store: ObjectStore, name: str
) -> None:
    listed = kept.key(
        "config.json"
    ).encode()  # SeaweedFS takes no such names: the listing is edited
    proxy.listing = lambda body: body.replace(listed, kept.key(name).encode())

    with pytest.raises(UnusableSource, match="is unsafe"):
        resolve(kept.model, store)
    assert proxy.asked == []


def test_keys_that_differ_only_by_case_are_refused(kept: Bucket, store: ObjectStore) -> None:
    kept.put("Config.json", b"{}")

    with pytest.raises(UnusableSource, match="are one name where case"):
        resolve(kept.model, store)


def test_empty_folder_markers_are_passed_over(
    kept: Bucket, store: ObjectStore, tmp_path: Path
) -> None:
    kept.put("", b"")
    kept.put("empty/", b"")

    assert len(fetch(resolve(kept.model, store), store, tmp_path).files) == 3


def test_a_name_in_another_normal_form_is_read_and_kept_composed(
    kept: Bucket, store: ObjectStore, tmp_path: Path
) -> None:
    kept.put("cafe\u0301.json", b"{}")

    fetched = fetch(resolve(kept.model, store), store, tmp_path)

    assert "caf\u00e9.json" in {entry.path for entry in fetched.files}
