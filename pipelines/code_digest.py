"""Which code a stage runs, as a digest that DVC can depend on.

DVC's run cache knows a stage's command and its dependencies, not the code behind the command. Each
stage therefore depends on code/STAGE.json in the registry, which names the digest of every module
that the stage can reach and of the lock files that its environment may be built from. Modules are
found by following imports in the source, lazy ones and child processes included; they are hashed
as syntax trees without docstrings, so that a comment does not make a night's evaluations stale.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from pipelines.canonical import canonical_json, sha256_bytes, sha256_file
from pipelines.errors import CodeDiffers

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipelines", "evals")
ENTRY_MODULES = {
    "ingest": "pipelines.ingest",
    "finetune": "pipelines.finetune",
    "verify": "pipelines.verify",
    "evaluate": "evals.scoring",
    "gate": "evals.gate",
}
LOCK_STAMP = "weighbridge-lock.sha256"  # written into the environment by `make`


def code_file(registry: Path, stage: str) -> Path:
    """Where a registry names the code of a stage."""
    return registry / "code" / f"{stage}.json"


@cache
def module_digests(entry: str) -> dict[str, str]:
    """sha256 of every module and data file that `entry` can reach, by dotted name or path."""
    found: dict[str, str] = {}
    waiting = [entry]
    while waiting:
        module = waiting.pop()
        path = _module_path(module)
        if path is None or module in found:
            continue
        tree = ast.parse(path.read_bytes())
        _strip_docstrings(tree)
        nodes = list(ast.walk(tree))
        literals = _string_constants(nodes)
        names = _mentioned(nodes, literals, module, is_package=path.name == "__init__.py")
        found[module] = sha256_bytes(ast.dump(tree).encode())
        waiting += sorted(names)
        waiting += _parents(module)
        for literal in literals:
            data = path.parent / literal
            if _is_data_file(literal, data):
                found[data.relative_to(PROJECT).as_posix()] = sha256_file(data)
    return dict(sorted(found.items()))


def installed_code(stage: str) -> dict[str, object]:
    """What code/STAGE.json says when the registry names the code that is installed here."""
    locks = {
        path.stem: sha256_file(path)
        for path in sorted((PROJECT / "requirements").glob("*.txt"))
        if path.stem in ("cpu", "gpu")
    }
    return {
        "stage": stage,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "environments": locks,
        "modules": module_digests(ENTRY_MODULES[stage]),
    }


def write_code_file(registry: Path, stage: str) -> bool:
    """Make the registry name the installed code; False when it did already."""
    path = code_file(registry, stage)
    content = json.dumps(installed_code(stage), indent=1, sort_keys=True).encode() + b"\n"
    if path.is_file() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return True


def check_code(registry: Path, stage: str) -> str:
    """Return the digest of the stage's code; raises CodeDiffers when installed code is other.

    The environment counts too: it must have been built from a lock file that the registry names.
    """
    path = code_file(registry, stage)
    if not path.is_file():
        raise CodeDiffers(stage, path, "the file is absent")
    named = json.loads(path.read_bytes())
    installed = installed_code(stage)
    for module, digest in _modules(installed).items():
        if _modules(named).get(module) != digest:
            raise CodeDiffers(stage, path, f"{module} differs from the installed module")
    if extra := set(_modules(named)) - set(_modules(installed)):
        raise CodeDiffers(stage, path, f"{min(extra)} is not installed")
    stamp = environment_stamp()
    if stamp not in named["environments"].values():
        raise CodeDiffers(stage, path, f"the environment was built from lock {stamp or 'unknown'}")
    return sha256_bytes(canonical_json(named))


def environment_stamp() -> str:
    """sha256 of the lock file that this environment was built from, or ''."""
    stamp = Path(sys.prefix) / LOCK_STAMP
    return stamp.read_text(encoding="ascii").strip() if stamp.is_file() else ""


def _modules(content: dict[str, object]) -> dict[str, str]:
    modules = content["modules"]
    assert isinstance(modules, dict)
    return modules


def _module_path(module: str) -> Path | None:
    if module.split(".")[0] not in PACKAGES:
        return None
    base = PROJECT.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _mentioned(
    nodes: Iterable[ast.AST], literals: set[str], module: str, *, is_package: bool
) -> set[str]:
    """Modules of ours that the source imports anywhere, or names in a string (child processes)."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = len(parts) - node.level + (1 if is_package else 0)
                source = ".".join([*parts[:kept], *([source] if source else [])])
            names.add(source)
            names.update(f"{source}.{alias.name}" for alias in node.names)
    names.update(text for text in literals if _module_path(text) is not None)
    return names


def _string_constants(nodes: Iterable[ast.AST]) -> set[str]:
    return {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 80
    }


def _is_data_file(literal: str, path: Path) -> bool:
    suffix = Path(literal).suffix
    return "/" not in literal and suffix not in ("", ".py") and path.is_file()


def _strip_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body
            if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                node.body = body[1:]
