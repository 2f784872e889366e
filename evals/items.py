"""Per-item results of an evaluation: one Parquet file, the same bytes for the same results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.canonical import atomic_path, sha256_file
from pipelines.errors import UnusableEvidence, WrongKindOfPath

if TYPE_CHECKING:
    import pyarrow as pa


class ItemResult(NamedTuple):
    """One item of one task; the hashes are lm-eval's, sha256 as hex.

    `doc_id` is the item's place in the data file, counted from 0; `score` is the item's value of
    the task's metric; `answer` is the model's choice or text, `gold` the right one. `item_id` is
    the data's own id, `prompt` the text that was sent, `slices` the value of each field to report
    by, `cluster` what the item depends on with others ('' when on nothing), `outputs` the log
    likelihoods that the answer rests on (empty for texts), `note` why a scorer of ours gave 0.
    """

    task: str
    doc_id: int
    doc_hash: str
    prompt_hash: str
    target_hash: str
    metric: str
    score: float
    answer: str
    gold: str
    item_id: str
    prompt: str
    slices: Mapping[str, str] = MappingProxyType({})
    cluster: str = ""
    outputs: tuple[float, ...] = ()
    note: str = ""


def write_items(path: Path, items: Iterable[ItemResult]) -> str:
    """Write items sorted by task and doc_id, and return the sha256 of the file.

    The bytes depend on the items and the version of pyarrow only.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    ordered = sorted(items, key=lambda item: (item.task, item.doc_id))
    rows = [item._asdict() | {"slices": sorted(item.slices.items())} for item in ordered]
    table = pa.Table.from_pylist(rows, schema=_schema())
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return sha256_file(path)


def read_items(path: Path) -> list[ItemResult]:
    """Read what `write_items` wrote, in the same order.

    Raises WrongKindOfPath when there is no file, UnusableEvidence when its columns are others.
    """
    import pyarrow as pa

    from pipelines.parquet import read_parquet

    if not path.is_file():
        raise WrongKindOfPath(path, "the per-item results of an evaluation")
    try:
        table = read_parquet(path)
    except pa.ArrowInvalid as error:
        raise UnusableEvidence(
            str(path), f"not Parquet ({error})", "Evaluate the model again."
        ) from error
    if not table.schema.equals(_schema()):
        raise UnusableEvidence(
            str(path),
            f"columns are {', '.join(table.column_names)}; wanted {', '.join(_schema().names)}",
            "Evaluate the model again.",
        )
    return [_item(row) for row in table.to_pylist()]


def _item(row: dict[str, Any]) -> ItemResult:
    return ItemResult(**row | {"slices": dict(row["slices"]), "outputs": tuple(row["outputs"])})


def _schema() -> pa.Schema:
    import pyarrow as pa

    kinds = {
        "doc_id": pa.int64(),
        "score": pa.float64(),
        "slices": pa.map_(pa.string(), pa.string()),
        "outputs": pa.list_(pa.float64()),
    }
    return pa.schema(
        [
            pa.field(name, kinds.get(name, pa.string()), nullable=False)
            for name in ItemResult._fields
        ]
    )
