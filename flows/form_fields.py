"""What every field of a form has: a place, a title, a description, and where it helps, examples."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticUndefined


class Form(BaseModel):
    """Base of all parameter models: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def ask(
    position: int,
    title: str,
    description: str,
    *,
    default: Any = PydanticUndefined,
    examples: tuple[Any, ...] = (),
    **constraints: Any,
) -> Any:
    """A field of a form; `examples` go into the description too, where the UI shows them."""
    if examples:
        texts = (e if isinstance(e, str) else json.dumps(e) for e in examples)
        description = f"{description} Example: {' or '.join(f'`{text}`' for text in texts)}"
    return Field(
        default,
        title=title,
        description=description,
        examples=list(examples) or None,
        json_schema_extra={"position": position},
        **constraints,
    )
