"""Second opinions: what scanners say is shown, and a scan that did not happen is no pass."""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
from pathlib import Path

import pytest

from pipelines.confinement import Limits, run_confined
from pipelines.records import Finding
from pipelines.verification import second_opinion
from pipelines.verification.contents import read_contents
from pipelines.verification.policy import VerificationPolicy

LIMITS = Limits(timeout_s=60, memory_bytes=4 * 1024**3)


class Opens:
    """A pickle that would run a harmless command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("true",))


def ask(folder: Path, *scanners: str, **policy: object) -> list[Finding]:
    rules = VerificationPolicy.model_validate({"second_opinion": scanners, **policy})
    return list(second_opinion.check(read_contents(folder, rules), rules))


def rules(findings: list[Finding]) -> set[tuple[str, str, str]]:
    return {(finding.severity, finding.rule, finding.file) for finding in findings}


def install(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a scanner: what a real one does wrong cannot be ordered."""
    program = folder / name
    program.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_no_scanner_is_asked_by_default(model: Path) -> None:
    assert ask(model) == []


def test_an_honest_model_gets_no_warning_from_hayward(model: Path) -> None:
    assert rules(ask(model, "hayward")) == {("info", "scanner.hayward.ran", "")}


def test_what_a_scanner_finds_is_a_warning_or_a_refusal_as_the_policy_says(model: Path) -> None:
    (model / "weights.bin").write_bytes(pickle.dumps(Opens()))
    found = ("scanner.hayward.MFV-PICKLE-001", "weights.bin")
    assert ("warning", *found) in rules(ask(model, "hayward"))
    blocking = ask(model, "hayward", second_opinion_blocks=True)
    assert ("refusal", *found) in rules(blocking)
    assert blocking == ask(model, "hayward", second_opinion_blocks=True)
    assert str(model) not in str(blocking)


def test_a_file_over_the_scanners_own_limit_is_read_all_the_same(model: Path) -> None:
    """hayward alone passes over files of more than 500 MB."""
    name = "second.safetensors"
    size = 600 * 1024**2
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}})
    with (model / name).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        for _ in range(600):
            file.write(b"\1" * 1024**2)
    assert rules(ask(model, "hayward")) == {("info", "scanner.hayward.ran", "")}
    short = ask(model, "hayward", second_opinion_memory_mb=300)
    assert "refusal" in {finding.severity for finding in short}


@pytest.mark.parametrize("name", ["hayward", "modelaudit"])
def test_a_scanner_that_is_not_installed_refuses(
    model: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(second_opinion, "find_program", lambda _: None)
    assert rules(ask(model, name)) == {("refusal", f"scanner.{name}.absent", "")}


@pytest.mark.parametrize(
    ("script", "fact"),
    [
        ("sys.exit('no disk')", "no disk"),
        ("print('{}')", "another form"),
        ("print('[]')", "no JSON object"),
        ("print('not JSON')", "cannot be read"),
        ("os.kill(os.getpid(), 9)", "-9"),
        ("x = bytearray(10**10)", "MemoryError"),
        ("print(json.dumps({'tool': 'hayward', 'schema_version': 1}))", "findings"),
        (
            "print(json.dumps({'tool': 'hayward', 'schema_version': 1, 'version': '9',"
            " 'findings': [], 'coverage_gaps': ['model.safetensors']}))",
            "unread",
        ),
        (
            "print(json.dumps({'tool': 'hayward', 'schema_version': 1, 'version': '9',"
            " 'findings': [{'rule_id': 'R', 'severity': 'mild', 'file': '', 'message': ''}],"
            " 'coverage_gaps': []}))",
            "'mild'",
        ),
    ],
)
def test_a_scanner_that_gives_no_verdict_refuses(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, fact: str
) -> None:
    install(tmp_path, "hayward", script, monkeypatch)
    (finding,) = ask(model, "hayward", second_opinion_memory_mb=2048)
    assert (finding.severity, finding.rule) == ("refusal", "scanner.hayward.failed")
    assert fact in finding.fact


def test_a_scanner_that_does_not_end_is_ended_with_its_children(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "child"
    child = f"os.fork() or (time.sleep(3), open({str(mark)!r}, 'w').close())"
    install(tmp_path, "hayward", f"{child}\ntime.sleep(600)", monkeypatch)
    (finding,) = ask(model, "hayward", second_opinion_timeout_s=1)
    assert "not ended after 1 s" in finding.fact
    run_confined([sys.executable, "-c", "import time; time.sleep(4)"], LIMITS)
    assert not mark.exists()


def test_a_file_that_a_scanner_left_unread_refuses(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = {
        "tool": "hayward",
        "schema_version": 1,
        "version": "9",
        "findings": [
            {
                "rule_id": "MFV-SKIP-001",
                "severity": "low",
                "file": "model.safetensors",
                "message": "too large",
            }
        ],
        "coverage_gaps": ["model.safetensors"],
    }
    install(tmp_path, "hayward", f"print({json.dumps(report)!r})", monkeypatch)
    found = ("refusal", "scanner.hayward.MFV-SKIP-001", "model.safetensors")
    assert found in rules(ask(model, "hayward"))


def test_modelaudits_report_is_understood(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in: the real one brings 80 packages. The form is that of modelaudit 0.2.54."""
    script = (
        "if sys.argv[1] == '--version': sys.exit(print('modelaudit, version 0.2.54'))\n"
        "root = sys.argv[-1]\n"
        "issue = {'message': f'in {root}/config.json', 'severity': 'critical', 'type': 'x_check',"
        " 'location': f'{root}/config.json:chat_template', 'timestamp': time.time()}\n"
        "coded = {**issue, 'rule_code': 'S201', 'severity': 'info', 'location': None}\n"
        "known = {f'{root}/model.safetensors': {'scan_outcome': 'inconclusive'}}\n"
        "print(json.dumps({'has_errors': False, 'issues': [issue, coded],"
        " 'file_metadata': known}))\n"
        "sys.exit(1)"
    )
    install(tmp_path, "modelaudit", script, monkeypatch)
    found = ask(model, "modelaudit", second_opinion_blocks=True)
    assert rules(found) == {
        ("info", "scanner.modelaudit.ran", ""),
        ("refusal", "scanner.modelaudit.x_check", "config.json"),
        ("info", "scanner.modelaudit.S201", ""),
        ("refusal", "scanner.modelaudit.inconclusive", "model.safetensors"),
    }
    assert "modelaudit 0.2.54" in found[0].fact
    assert str(model) not in str(found)
    install(tmp_path, "modelaudit", "print(json.dumps({'has_errors': True}))", monkeypatch)
    assert rules(ask(model, "modelaudit")) == {("refusal", "scanner.modelaudit.failed", "")}


def test_a_confined_program_reaches_no_server_and_sees_nothing_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = (
            "import os, json, urllib.request, urllib.error\n"
            "try:\n"
            f"    urllib.request.urlopen('http://localhost.example:{port}/', timeout=5)\n"
            "    reached = True\n"
            "except urllib.error.URLError:\n"
            "    reached = False\n"
            "print(json.dumps([reached, sorted(os.environ), os.listdir('.'), os.getuid()]))"
        )
        done = run_confined([sys.executable, "-c", code], LIMITS)
    assert done.returncode == 0, done.stderr
    reached, variables, files, user = json.loads(done.stdout)
    assert not reached
    assert "AWS_SECRET_ACCESS_KEY" not in variables
    assert {"PROMPTFOO_DISABLE_TELEMETRY", "AISBOM_OFFLINE", "https_proxy"} <= set(variables)
    assert (files, user) == ([], os.getuid())
