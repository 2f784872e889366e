"""Great Expectations, run on columns in memory: a list of expectations in, their results out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipelines.errors import ConfigError


class Expectation(NamedTuple):
    """One expectation: the name of its class, its settings, and where it was written."""

    kind: str  # e.g. ExpectColumnValuesToBeUnique
    settings: Mapping[str, Any]
    source: str


def run_expectations(
    expectations: Sequence[Expectation], columns: Mapping[str, Sequence[Any]], index: str
) -> list[Any]:
    """Results of Great Expectations, one per expectation, in their order.

    `columns` are of equal length, and `index` is the one whose values name the failing rows.
    Raises ConfigError for a name that Great Expectations does not know, or settings that it does
    not take.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when the package is imported

    import great_expectations as gx
    import pandas as pd
    from great_expectations.data_context.types.base import ProgressBarsConfig

    # In file mode everything that it writes lies below one folder, which goes away: it keeps
    # values and times, and neither belongs into a record.
    with tempfile.TemporaryDirectory(prefix="weighbridge-gx-") as folder:
        context = gx.get_context(mode="file", project_root_dir=folder)
        # Bars on a terminal, and lines in a log, that say nothing of the rows.
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        batch = (
            context.data_sources.add_pandas("rows")
            .add_dataframe_asset("rows")
            .add_batch_definition_whole_dataframe("rows")
        )
        suite = gx.ExpectationSuite(name="rows")
        for number, expectation in enumerate(expectations):
            suite.add_expectation(_made(gx.expectations, expectation, number))
        validation = gx.ValidationDefinition(
            name="rows", data=batch, suite=context.suites.add(suite)
        )
        checkpoint = gx.Checkpoint(
            name="rows",
            validation_definitions=[context.validation_definitions.add(validation)],
            result_format={
                "result_format": "COMPLETE",
                "unexpected_index_column_names": [index],
            },
        )
        frame = pd.DataFrame(dict(columns))
        run = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": frame})
    (found,) = run.run_results.values()
    by_number = {result.expectation_config.meta["number"]: result for result in found.results}
    return [by_number[number] for number in range(len(expectations))]


def _made(module: Any, expectation: Expectation, number: int) -> Any:
    from pydantic.v1 import ValidationError  # Great Expectations' own models are of version 1

    kind = getattr(module, expectation.kind, None)
    if kind is None:
        fact = f"Great Expectations has no {expectation.kind}"
        raise ConfigError(expectation.source, fact, "Use a name of its gallery.")
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in expectation.settings.items()}
    try:
        return kind(**settings, meta={"number": number})
    except ValidationError as error:
        facts = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(expectation.source, f"{expectation.kind}: {facts}", "Mend it.") from error
