"""Routing rules: an ordered list that says which events may go to which consumers.

For an event and a consumer the first rule decides that selects the consumer and whose condition is
TRUE for the event; where none does, the event is allowed. What the rules that select a consumer say
is one condition (`decision`), joined by AND with its filters as its entitlements are: a condition
that is NULL does not match, and what an earlier rule decides no later one changes.

    decision([("allow", venue_is_xnas), ("deny", everything)])  # venue = 'XNAS'

Rules that prioritize stand in the same list and allow or deny nothing. Events of one view come in
one order, so what they give a priority is a view, of which every event has to fulfil the condition.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from marketdata.entitlements import one_of
from marketdata.filters import Filter
from marketdata.filters.implication import implies, is_not_true
from marketdata.filters.normalize import normalize
from marketdata.filters.tree import And, Expression, Not, Or, Truth
from marketdata.names import Name

MAX_RULES: Final = 100
MAX_TURNS: Final = 16
"""How often the enabled rules may turn from one effect to the other: each turn is a level in the
condition that they make."""

Effect = Literal["allow", "deny", "prioritize"]
Decision = Literal["allow", "deny"]
Share = Literal["every", "some", "none"]

Region = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$(?!\n)",
        max_length=32,
        examples=["eu"],
    ),
]
Names = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=1000)]
Regions = Annotated[tuple[Region, ...], Meta(min_length=1, max_length=100)]
Label = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
Labels = Annotated[dict[Label, Label], Meta(min_length=1, max_length=32)]


class Party(NamedTuple):
    """What rules know of a consumer; "" where it has no region or workflow."""

    name: str
    region: str
    workflow: str
    labels: Mapping[str, str]


class Selector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which consumers a rule is about: those that fit all that is given; without any, all of them.

    Who has no region is in none, so `regions_except` selects it, and so with workflows. Lists are
    kept sorted and without doubles.
    """

    names: Annotated[Names | None, Meta(description="Consumers by name.")] = None
    names_except: Annotated[Names | None, Meta(description="All but these.")] = None
    regions: Annotated[
        Regions | None, Meta(description="Consumers that run in one of these regions.")
    ] = None
    regions_except: Annotated[
        Regions | None,
        Meta(description="Those in other regions, or in none.", examples=[["eu"]]),
    ] = None
    workflows: Annotated[
        Names | None,
        Meta(description="Consumers of these workflows.", examples=[["market-prediction"]]),
    ] = None
    workflows_except: Annotated[
        Names | None, Meta(description="Those of other workflows, or of none.")
    ] = None
    labels: Annotated[
        Labels | None, Meta(description="Consumers that have all of these labels.")
    ] = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            values = getattr(self, name)
            if isinstance(values, tuple):
                msgspec.structs.force_setattr(self, name, tuple(sorted(set(values))))

    def selects(self, party: Party) -> bool:
        """Whether a consumer fits."""
        asked = (
            (party.name, self.names, self.names_except),
            (party.region, self.regions, self.regions_except),
            (party.workflow, self.workflows, self.workflows_except),
        )
        within = all(
            (among is None or value in among) and (without is None or value not in without)
            for value, among, without in asked
        )
        labels = self.labels or {}
        return within and all(party.labels.get(key) == value for key, value in labels.items())

    @property
    def contradiction(self) -> str | None:
        """The member of which nothing is left, so that nobody can fit; None where there is none."""
        for name in ("names", "regions", "workflows"):
            among, without = getattr(self, name), getattr(self, f"{name}_except")
            if among is not None and without is not None and set(among) <= set(without):
                return name
        return None


def decision(rules: Sequence[tuple[Decision, Filter]]) -> Filter:
    """The condition that is TRUE for exactly the events that ordered rules allow.

    Args:
        rules: those that select a consumer, in their order: effect and condition.
    """
    left: Expression = Truth(True)
    for effect, condition in reversed(rules):
        tree = condition.tree
        left = Or((tree, left)) if effect == "allow" else And((is_not_true(tree), left))
    return Filter(normalize(left))


def priority_of(view: Filter, priorities: Sequence[tuple[Filter, int]]) -> int | None:
    """The priority of a view by rules; None where none of them applies.

    Args:
        view: what the view's events pass.
        priorities: condition and priority of the rules that prioritize and select a consumer, in
            their order. The first one decides whose condition every event of the view fulfils.
    """
    return next((given for condition, given in priorities if implies(view, condition)), None)


def share_of(view: Filter, condition: Filter) -> Share:
    """How many of a view's events fulfil a condition: `some`, where nothing else can be shown."""
    if implies(view, condition):
        return "every"
    return "some" if (view & condition).kinds else "none"


def turns(effects: Iterable[Decision]) -> int:
    """How many runs of one effect there are."""
    before, found = None, 0
    for effect in effects:
        found += effect != before
        before = effect
    return found


def of_sources(sources: Iterable[str], *, excepted: bool) -> Filter:
    """The condition on events of some sources, or of all others."""
    one = one_of("source", tuple(sorted(set(sources))))
    return Filter(normalize(Not(one) if excepted else one))
