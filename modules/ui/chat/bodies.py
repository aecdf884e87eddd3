"""What the bodies of the page's requests have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_TEXT = 2_000_000

Id = Annotated[str, Field(max_length=300)]
Rev = Annotated[int | None, Field(ge=0)]


class Body(BaseModel):
    """The JSON body of a request, without keys that are not known."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Nothing(Body):
    """The body of a request that says all by its address."""
