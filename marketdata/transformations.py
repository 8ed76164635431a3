"""Declarative transformations: which columns a view delivers, in which order, under which names.

A transformation is validated once, when a subscription is made, against the union of all kinds'
columns; applying it to a frame cannot fail then. A chosen column that a kind does not have is
simply absent from that kind's frames; a computed one is there in every kind, NULL where what it is
computed from is missing. Rows and the schema's metadata are untouched.

The columns of a custom transformation (`marketdata.custom`) are made elsewhere and handed to
`apply`.
"""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Final

import msgspec
import pyarrow as pa
from msgspec import UNSET, Meta, UnsetType

from marketdata.custom.spec import Custom, custom_fields
from marketdata.errors import DistributionError
from marketdata.filters.columns import FrameColumns
from marketdata.filters.computed import compile_computed, computed_column, computed_field
from marketdata.filters.tree import Expression, References, to_sql
from marketdata.mixed import KIND_FIELD
from marketdata.reference.join import Joined, enriched, missing_rules
from marketdata.reference.spec import (
    MAX_ENRICHMENTS,
    Enrichment,
    reference_fields,
    references_of,
)
from marketdata.reference.table import ReferenceTable
from marketdata.rules import (
    FAILED_RULES,
    MAX_RULES,
    UNCHECKED,
    Checked,
    Rule,
    RuleName,
    check_events,
    compile_rule,
)
from marketdata.schemas import COLUMNS

REQUIRED: Final = ("instrument", "sequence")
"""Columns that every view keeps under their own names: consumers prove continuity with them."""

PROVING: Final = (*REQUIRED, "epoch")
"""Columns that hold the sequencer's own values wherever they are delivered."""

MAX_COMPUTED: Final = 32
"""Most computed columns of a view."""

Computed = Mapping[str, Expression]
"""Name -> compiled expression of a computed column."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")


class TransformationError(DistributionError):
    """A transformation is refused; fix the request.

    Attributes:
        hint: what would be right.
    """

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message}; {hint}")
        self.message = message
        self.hint = hint


class Transformation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Choose, rename, mask and compute columns.

    Attributes:
        select: columns to deliver, in this order; None for all in the schema's order.
        rename: column -> name in the delivered frame; columns not named keep theirs.
        compute: name -> SQL expression over an event's columns, masked ones and those that `select`
            leaves out included; see `marketdata.filters.computed`. The computed columns stand
            behind the others, in the order of their names.
        mask: columns that are delivered without their values: null on every event.
        rules: name -> validation rule; they are asked first (`check`). With one of severity
            `mark` the last column is `failed_rules`.
        enrich: columns from reference tables, joined before all else, one after the other: all
            other members may name them like columns of events (`joined`).
        custom: a custom transformation, whose columns stand behind the computed ones.
    """

    select: tuple[str, ...] | None = None
    rename: dict[str, str] = msgspec.field(default_factory=dict)
    # Absent where not asked for: views that were made before these were known keep their names.
    compute: (
        Annotated[
            dict[str, str],
            Meta(
                max_length=MAX_COMPUTED,
                description="Name of a further column -> SQL expression over an event's columns.",
                examples=[{"mid": "(bid_price + ask_price) / 2"}],
            ),
        ]
        | UnsetType
    ) = UNSET
    mask: (
        Annotated[tuple[str, ...], Meta(description="Columns that are null on every event.")]
        | UnsetType
    ) = UNSET
    custom: (
        Annotated[Custom, Meta(description="A transformation of an installed package.")] | UnsetType
    ) = UNSET

    rules: (
        Annotated[
            dict[RuleName, Rule],
            Meta(
                max_length=MAX_RULES,
                description="Name -> what should hold of every event, and what becomes of others.",
                examples=[{"crossed": {"condition": "bid_price <= ask_price", "severity": "mark"}}],
            ),
        ]
        | UnsetType
    ) = UNSET

    enrich: (
        Annotated[
            tuple[Enrichment, ...],
            Meta(max_length=MAX_ENRICHMENTS, description="Columns from reference tables."),
        ]
        | UnsetType
    ) = UNSET

    @property
    def is_identity(self) -> bool:
        """Whether frames pass unchanged."""
        given = (self.compute, self.mask, self.enrich, self.custom)
        if self.select is not None or any(given) or self.marks:
            return False
        return not self.rename or all(old == new for old, new in self.rename.items())

    @property
    def references(self) -> References:
        """Names and types of the columns that come from reference tables."""
        return references_of(self.enrich or ())

    @property
    def all_rules(self) -> Mapping[str, Rule]:
        """The validation rules, and those that enrichments stand for."""
        return {**missing_rules(self.enrich or ()), **(self.rules or {})}

    @property
    def marks(self) -> bool:
        """Whether there is a column `failed_rules`."""
        if not self.rules:
            return False
        return any(rule.severity == "mark" for rule in self.rules.values())

    @property
    def added_fields(self) -> list[pa.Field]:
        """The columns behind the declared and computed ones, the same in every kind."""
        added = custom_fields(self.custom) if self.custom else []
        return [*added, pa.field(FAILED_RULES, pa.utf8())] if self.marks else added

    def canonical(self) -> "Transformation":
        """The one form of all transformations with the same columns and rules.

        Raises:
            FilterError: an expression or a condition is refused.
        """
        written = {name: to_sql(tree) for name, tree in sorted(self.compiled().items())}
        rules = {
            name: Rule(to_sql(tree), (self.rules or {})[name].severity)
            for name, tree in sorted(self.conditions().items())
        }
        return msgspec.structs.replace(
            self,
            compute=written or UNSET,
            mask=tuple(sorted(set(self.mask or ()))) or UNSET,
            rules=rules or UNSET,
            enrich=self.enrich or UNSET,
        )

    def conditions(self) -> Computed:
        """The compiled conditions of `rules`.

        Raises:
            FilterError: one is refused.
        """
        return {
            name: compile_rule(rule.condition, self.references)
            for name, rule in (self.rules or {}).items()
        }

    def joined(self, batch: pa.RecordBatch, tables: Mapping[str, ReferenceTable]) -> Joined:
        """Events with what reference tables say of them; what else is done works on these.

        Args:
            batch: sequenced events of one kind, or mixed.
            tables: by name, at least those that `enrich` names.
        """
        return enriched(self.enrich or (), batch, tables)

    def check(self, joined: Joined, conditions: Computed | None = None) -> Checked:
        """What the rules say of events: what comes behind gets the rows that they leave.

        Args:
            joined: what `joined` gives.
            conditions: what `conditions` gives, where it is at hand.
        """
        rules = self.all_rules
        if not rules:
            return UNCHECKED
        trees = self.conditions() if conditions is None else conditions
        return check_events(rules, trees, joined.events, joined.missing)

    def compiled(self) -> Computed:
        """The compiled expressions of `compute`.

        Raises:
            FilterError: one is refused.
        """
        return {
            name: compile_computed(sql, self.references)
            for name, sql in (self.compute or {}).items()
        }

    def validate(self) -> None:
        """Check all names against the columns of all kinds; `compiled` checks the expressions.

        A custom transformation and enrichments have to be resolved: their columns must be known.

        Raises:
            TransformationError: what is wrong and, in `hint`, what would be right.
        """
        self._validate_enrich()
        known = (*COLUMNS, *(name for name, _ in self.references))
        for name in (*(self.select or ()), *self.rename, *(self.mask or ())):
            if name not in known:
                raise TransformationError(f"unknown column {name!r}", hint=_near(name, known))
        if self.select is not None:
            self._validate_select(self.select)
        chosen = self.select if self.select is not None else known
        self._validate_rename(chosen)
        self._validate_mask(chosen)
        delivered = {self.rename.get(old, old): old for old in chosen}
        self._validate_compute(delivered)
        self._validate_added(delivered | {name: name for name in self.compute or ()})

    def _validate_enrich(self) -> None:
        """Check the names of columns from reference tables against all others."""
        taken = set(COLUMNS)
        for one in self.enrich or ():
            for name in one.columns.values():
                _check_name(name)
                if name in taken:
                    raise TransformationError(
                        f"table {one.table!r} gives a column {name!r}, and there is one already",
                        hint="give it another name: columns are the table's column -> name",
                    )
                taken.add(name)
        rules = [one.rule for one in self.enrich or ()]
        if len(set(rules)) < len(rules):
            raise TransformationError(
                "a reference table is joined twice on the same columns",
                hint="name all of its columns in one enrichment",
            )

    def _validate_select(self, select: tuple[str, ...]) -> None:
        doubled = sorted({name for name in select if select.count(name) > 1})
        if doubled:
            raise TransformationError(
                f"column {doubled[0]!r} is chosen twice", hint="name every column once in select"
            )
        for name in REQUIRED:
            if name not in select:
                raise TransformationError(
                    f"select drops {name!r}",
                    hint=f"add {name!r}: consumers prove with it that nothing was lost",
                )

    def _validate_rename(self, chosen: tuple[str, ...]) -> None:
        for old, new in self.rename.items():
            if old not in chosen:
                raise TransformationError(
                    f"rename of {old!r}, which select leaves out",
                    hint=f"add {old!r} to select or drop the rename",
                )
            if old in REQUIRED and new != old:
                raise TransformationError(
                    f"{old!r} may not be renamed",
                    hint="consumers prove with it that nothing was lost",
                )
            _check_name(new)
        taken: dict[str, str] = {}
        for old in chosen:
            new = self.rename.get(old, old)
            if new in taken:
                raise TransformationError(
                    f"{taken[new]!r} and {old!r} would both be called {new!r}",
                    hint="give one of them another name",
                )
            taken[new] = old

    def _validate_mask(self, chosen: tuple[str, ...]) -> None:
        for name in self.mask or ():
            if name not in chosen:
                raise TransformationError(
                    f"mask of {name!r}, which select leaves out",
                    hint=f"drop {name!r} from mask: it is not delivered at all",
                )
            if name in PROVING:
                raise TransformationError(
                    f"{name!r} may not be masked",
                    hint="consumers prove with it that nothing was lost",
                )

    def _validate_compute(self, delivered: Mapping[str, str]) -> None:
        """Check the names against those of the other columns that are delivered."""
        for name in self.compute or ():
            _check_name(name)
            if name in PROVING:
                raise TransformationError(
                    f"{name!r} may not be computed",
                    hint="consumers prove with it that nothing was lost",
                )
            if name in delivered:
                raise TransformationError(
                    f"computed column {name!r} and {delivered[name]!r} would both be called"
                    f" {name!r}",
                    hint=f"use another name, or a select without {delivered[name]!r}",
                )

    def _validate_added(self, delivered: Mapping[str, str]) -> None:
        """Check the names of further columns against all that are delivered beside them."""
        if self.marks and FAILED_RULES in (
            *delivered,
            *((self.custom.columns or ()) if self.custom else ()),
        ):
            raise TransformationError(
                f"rules of severity mark give a column {FAILED_RULES!r}, and the view has one",
                hint="give that one another name",
            )
        for field in custom_fields(self.custom) if self.custom else ():
            _check_name(field.name)
            if field.name in PROVING or field.name in delivered:
                raise TransformationError(
                    f"the custom transformation gives a column {field.name!r}, and the view has one"
                    " already",
                    hint="rename that column or leave it out of select"
                    if field.name not in PROVING
                    else "the package must name it otherwise",
                )

    def schema(self, schema: pa.Schema, computed: Computed | None = None) -> pa.Schema:
        """The schema of a transformed frame, given that of the frame.

        Args:
            schema: of a frame of any kind, joined with reference tables or not.
            computed: what `compiled` gives, where it is at hand.
        """
        trees = self.compiled() if computed is None else computed
        if self.enrich and schema.get_field_index(self.references[0][0]) < 0:
            added = reference_fields(self.enrich)
            schema = pa.schema([*schema, *added], metadata=schema.metadata)
        fields = []
        for name in self._kept(schema):
            field = schema.field(name)
            if name in (self.mask or ()):
                field = field.with_nullable(True)
            fields.append(field.with_name(self.rename.get(name, name)))
        fields += [computed_field(name, tree) for name, tree in sorted(trees.items())]
        fields += self.added_fields
        return pa.schema(fields, metadata=schema.metadata)

    def apply(
        self,
        batch: pa.RecordBatch,
        computed: Computed | None = None,
        added: Sequence[pa.Array] = (),
    ) -> pa.RecordBatch:
        """The transformed batch: the same rows, no column copied.

        Args:
            batch: a batch of any kind, `joined`; the transformation must have been validated.
            computed: what `compiled` gives, where it is at hand.
            added: the columns of `added_fields`, a value for each row of the batch.
        """
        if self.is_identity:
            return batch
        trees = self.compiled() if computed is None else computed
        columns = [
            pa.nulls(batch.num_rows, batch.schema.field(name).type)
            if name in (self.mask or ())
            else batch.column(name)
            for name in self._kept(batch.schema)
        ]
        if trees:
            events = FrameColumns(batch, batch.schema.metadata[b"kind"].decode())
            columns += [computed_column(tree, events) for _, tree in sorted(trees.items())]
        columns += added
        return pa.RecordBatch.from_arrays(columns, schema=self.schema(batch.schema, trees))

    def _kept(self, schema: pa.Schema) -> list[str]:
        if self.select is None:
            return list(schema.names)
        # A mixed frame without its kinds could not be read.
        names = (KIND_FIELD.name, *self.select)
        return [name for name in names if schema.get_field_index(name) >= 0]


def _check_name(name: str) -> None:
    if not _NAME.match(name) or name == "kind":
        raise TransformationError(
            f"{name!r} cannot be a column's name",
            hint="use up to 63 letters, digits and underscores, no digit first; 'kind' is taken",
        )


def _near(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name.lower(), known, n=1)
    if name.lower() == "kind":
        return "kind is no column: it is in the message's properties and in every JSON event"
    return f"did you mean {near[0]!r}?" if near else f"columns are: {', '.join(known)}"
