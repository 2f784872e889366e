"""The suites that there are: those that ship with Weighbridge, and those of a registry."""

from __future__ import annotations

import shutil
from pathlib import Path

from evals.suites import (
    Suite,
    data_facts,
    load_suite,
    load_task_file,
    read_rows,
    scored_rows,
    suite_digest,
)
from pipelines.canonical import Frozen
from pipelines.errors import ConfigError, UnknownName, UnusableEvidence, WrongKindOfPath
from pipelines.training_rows import card_licence

SHIPPED = Path(__file__).with_name("suites")
_UNREADABLE = (ConfigError, UnusableEvidence, WrongKindOfPath)


class ListedTask(Frozen):
    """One task of a suite in a list; `problem` says why it cannot be used, '' when it can."""

    place: str
    suite: str
    task: str
    items: int
    metric: str
    engine: str
    licence: str
    problem: str = ""


def list_suites(registry: Path | None) -> list[ListedTask]:
    """The registry's suites and then the shipped ones that it lacks, task by task."""
    folders = [] if registry is None else [("registry", f) for f in _folders(registry / "suites")]
    there = {folder.name for _, folder in folders}
    folders += [("shipped", f) for f in _folders(SHIPPED) if f.name not in there]
    return [task for place, folder in folders for task in _listed(place, folder)]


def suite_facts(folder: Path) -> list[str]:
    """Everything that is wrong with a suite, as far as can be seen without a model."""
    try:
        suite = load_suite(folder)
    except _UNREADABLE as error:
        return [str(error)]
    facts = []
    for name, task in suite.tasks.items():
        try:
            load_task_file(folder, name, task)
        except _UNREADABLE as error:
            facts.append(str(error))
        try:
            found = data_facts(task, read_rows(folder / task.data))
        except _UNREADABLE as error:
            facts.append(str(error))
        else:
            facts += [f"{folder / task.data}: {fact}" for fact in found]
    return facts


def find_suite(name: str, registry: Path | None) -> Path:
    """The folder that a name or a path means: a path, the registry's suite, or a shipped one.

    Raises UnknownName.
    """
    if "/" in name or Path(name, "suite.yaml").is_file():
        return Path(name)
    places = [SHIPPED] if registry is None else [registry / "suites", SHIPPED]
    for place in places:
        if (place / name / "suite.yaml").is_file():
            return place / name
    known = {folder.name for place in places for folder in _folders(place)}
    raise UnknownName(places[0], "suite", name, sorted(known))


def add_shipped(name: str, registry: Path) -> bool:
    """Copy a shipped suite into the registry's work tree; False when the same is there already.

    Raises UnknownName when none of that name ships, ConfigError when the registry has another one.
    """
    source, target = SHIPPED / name, registry / "suites" / name
    if source not in _folders(SHIPPED):
        raise UnknownName("Weighbridge", "shipped suite", name, [f.name for f in _folders(SHIPPED)])
    if target.exists():
        if suite_digest(source) == suite_digest(target):
            return False
        fact = "the registry has a suite of this name, and it differs from the shipped one"
        raise ConfigError(target, fact, "Keep it, or remove its folder and add it again.")
    shutil.copytree(source, target)
    return True


def _folders(parent: Path) -> list[Path]:
    return sorted(path.parent for path in parent.glob("*/suite.yaml"))


def _listed(place: str, folder: Path) -> list[ListedTask]:
    facts = suite_facts(folder)
    licence = card_licence(folder) or "not stated"
    try:
        suite = load_suite(folder)
    except _UNREADABLE:
        return [_broken(place, folder, "", licence, facts)]
    if facts:
        return [_broken(place, folder, suite.engine, licence, facts)]
    return [_task(place, folder, suite, name, licence) for name in suite.tasks]


def _broken(place: str, folder: Path, engine: str, licence: str, facts: list[str]) -> ListedTask:
    return ListedTask(
        place=place,
        suite=folder.name,
        task="",
        items=0,
        metric="",
        engine=engine,
        licence=licence,
        problem=f"{len(facts)} facts against it: `weighbridge suites validate {folder.name}`",
    )


def _task(place: str, folder: Path, suite: Suite, name: str, licence: str) -> ListedTask:
    task = suite.tasks[name]
    return ListedTask(
        place=place,
        suite=folder.name,
        task=name,
        items=len(scored_rows(folder, task)),
        metric=task.metric if task.scorer is None else f"{task.metric} ({task.scorer})",
        engine=suite.engine,
        licence=licence,
    )
