"""What verification catches and what it wrongly refuses, on the corpus of tests/corpus.

Random one-bit, rename, add and drop mutations of an honest repository against its pinned manifest,
and again with the manifest made anew after the mutation, so that only content can tell; the whole
corpus of tampered repositories; the honest ones.

`python -m benchmarks.verify_detection` prints the table by family and every miss.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import Measure
from pipelines.models_file import DeclaredUse
from pipelines.verification.policy import VerificationPolicy
from pipelines.verify import verify_folder
from tests.corpus import bases, judging
from tests.corpus.honest import HONEST

MUTATIONS = 1_000


def measure() -> list[Measure]:
    """All figures."""
    with tempfile.TemporaryDirectory(prefix="weighbridge-bench-") as name:
        root = Path(name)
        pinned, unpinned = _mutations(root / "mutations")
        judged = list(judging.judge_all(judging.TAMPERINGS, root / "corpus"))
        refused = sum(not _passes(make, root / "honest" / n) for n, make in HONEST.items())
    named = sum(each.named for each in judged) / len(judged)
    for family, counts in judging.tally(judged).items():
        print(f"{family:14}{counts.tampered:6}{counts.refused:6}{counts.named:6}")
    for each in judged:
        if not each.named:
            print(f"missed: {each.tampering.title} ({each.tampering.file})")
    return [
        _share("verify.mutations_pinned", pinned / MUTATIONS, 1.0),
        _share("verify.mutations_unpinned", unpinned / MUTATIONS, 0.0),
        _share("verify.tampered_named", named, 0.98),
        Measure(
            name="verify.honest_refused",
            measured=refused / len(HONEST),
            unit="share",
            target=0.01,
            better="lower",
        ),
    ]


def _share(name: str, measured: float, target: float) -> Measure:
    return Measure(name=name, measured=measured, unit="share", target=target, better="higher")


def _passes(make: Callable[[Path], None], folder: Path) -> bool:
    make(folder)
    return verify_folder(folder, DeclaredUse(), VerificationPolicy()).passed


def _mutations(root: Path) -> tuple[int, int]:
    """How many random mutations are refused, with the pinned manifest and with a new one."""
    honest = root / "honest"
    bases.sharded(honest)
    pin = judging.write_manifest(honest, root / "pinned", "json")
    draw = random.Random(4471)
    folder = root / "model"
    pinned = unpinned = 0
    for number in range(MUTATIONS):
        shutil.copytree(honest, folder)
        _mutate(folder, draw, number % 4)
        for manifest in (pin, judging.write_manifest(folder, root / "anew", "json")):
            record = verify_folder(folder, DeclaredUse(), VerificationPolicy(), manifest)
            pinned += manifest == pin and not record.passed
            unpinned += manifest != pin and not record.passed
        shutil.rmtree(folder)
    return pinned, unpinned


def _mutate(folder: Path, draw: random.Random, kind: int) -> None:
    """One bit, a new name, one more file, one file less."""
    path = draw.choice(sorted(folder.iterdir()))
    if kind == 0:
        data = bytearray(path.read_bytes())
        bit = draw.randrange(len(data) * 8)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
    elif kind == 1:
        path.rename(path.with_name(f"{path.stem}-{draw.randrange(100)}{path.suffix}"))
    elif kind == 2:
        shutil.copy(path, path.with_name(f"copy-{draw.randrange(100)}{path.suffix}"))
    else:
        path.unlink()


if __name__ == "__main__":
    for each in measure():
        print(each.line(), flush=True)
