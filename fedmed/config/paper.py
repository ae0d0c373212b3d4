"""What a paper published, as ``conf/paper/NAME.yaml`` tells it beside the protocol that it runs.

An expected value is one that was seen in the paper, its repository or its released results. What
was looked for and not found is null, and what is only told as an ordering is one here.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Where = dict[str, str | int | float | bool]  # keys of fedmed table, and their values
Positive = Annotated[float, Field(gt=0)]


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Expected(_Told):
    """A published figure.

    Attributes:
        where: which runs ours is the mean of.
        value: the figure, a key of ``summary.json``.
        published: in the units of ``value``; None where it was not found.
        spread: its published standard deviation over runs.
        tolerance: how far ours may be from it; None where it is not to be judged.
        by: whose figure it is, where it is not the paper's own.
        provenance: verbatim, computed from released results, read in released code, or not found.
    """

    where: Where
    value: str
    published: float | None
    spread: Positive | None = None
    tolerance: Positive | None
    by: str = ""
    provenance: Literal["verbatim", "computed", "code", "not found"]

    @model_validator(mode="after")
    def _found(self) -> Self:
        if (self.published is None) != (self.provenance == "not found"):
            raise ValueError("a figure is null if, and only if, it was not found")
        if self.published is None and self.tolerance is not None:
            raise ValueError("what was not found has no tolerance")
        return self


class Ordering(_Told):
    """A published claim that one figure is larger than another.

    Attributes:
        claim: in words.
        value: the figure.
        larger, smaller: which runs.
        provenance: as of :class:`Expected`.
    """

    claim: str
    value: str
    larger: Where
    smaller: Where
    provenance: Literal["verbatim", "computed", "code"]


class Paper(_Told):
    """A publication and what came of it.

    Attributes:
        title, citation, source: what was read, with its commit.
        data: what it was published on.
        select: which round ours is taken at.
        differences: of our protocol from the published one.
        not_built: of the publication's, what we do not run.
        expected, orderings: what it claims.
    """

    title: str
    citation: str
    source: str
    data: str
    select: Literal["last", "best-validation"] = "last"
    differences: tuple[str, ...]
    not_built: tuple[str, ...] = ()
    expected: tuple[Expected, ...]
    orderings: tuple[Ordering, ...] = ()
