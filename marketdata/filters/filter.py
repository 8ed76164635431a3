"""A compiled filter: made from SQL or from its JSON tree, applied to whole frames."""

from collections.abc import Collection, Mapping
from functools import cached_property, lru_cache
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from marketdata.filters.columns import FrameColumns, Mask
from marketdata.filters.cost import check_cost
from marketdata.filters.errors import FilterError, FilterNeverTrue, FilterTypeError
from marketdata.filters.evaluate import holds
from marketdata.filters.explain import Part, explain
from marketdata.filters.kinds import conflict, specialize
from marketdata.filters.normalize import conjunction, normalize
from marketdata.filters.sets import bind, sets_of
from marketdata.filters.tree import Expression, References, Truth, columns_of, to_sql
from marketdata.filters.typecheck import require_condition, type_of
from marketdata.frames import frame_kind
from marketdata.schemas import KINDS, SEQUENCED_SCHEMAS

_ALL: Final = Truth(True)
_KEPT: Final = 2048
_KEPT_CHARACTERS: Final = 4096
"""How many filters are kept compiled, and how long their texts are at most: many ask for few."""
_NAMES: Final = {kind: frozenset(schema.names) for kind, schema in SEQUENCED_SCHEMAS.items()}


class Filter:
    """Which events of a frame match a condition.

    Filters with the same canonical form are equal. Immutable.
    """

    def __init__(self, predicate: Expression) -> None:
        """Use `compile_filter` or one of the class methods.

        Args:
            predicate: a normal, type-checked condition.
        """
        self._predicate = predicate
        self._by_kind: dict[str, Expression] = {}

    @classmethod
    def everything(cls) -> "Filter":
        """The filter that every event passes; its canonical form is ""."""
        return cls(_ALL)

    @classmethod
    def nothing(cls) -> "Filter":
        """The filter that no event passes; its canonical form is "FALSE"."""
        return cls(Truth(False))

    @classmethod
    def from_json(cls, value: Any) -> "Filter":
        """The filter of a tree as `to_json` gives it.

        Whether it can ever be true is not asked again: plans hold filters that were compiled.

        Raises:
            FilterError: it is no such tree, or does not type-check.
        """
        if value is None:
            return cls.everything()
        try:
            tree: Expression = msgspec.convert(value, Expression)
        except (msgspec.ValidationError, RecursionError) as error:
            raise FilterTypeError(f"not a filter tree: {error}") from error
        require_condition(tree, type_of(tree))
        return cls(normalize(tree))

    def to_json(self) -> Any:
        """The normal tree as JSON values; None for the filter that everything passes."""
        return None if self._predicate == _ALL else msgspec.to_builtins(self._predicate)

    @cached_property
    def canonical(self) -> str:
        """The one SQL text of all filters that are written differently but equal; "" for all."""
        return "" if self._predicate == _ALL else to_sql(self._predicate)

    @property
    def tree(self) -> Expression:
        """The normal condition."""
        return self._predicate

    def check_cost(self) -> None:
        """Refuse what would hold up other views; those who take new filters ask.

        Compiling does not: views that were made before there was a bound go on.

        Raises:
            FilterTooComplex: without a position; see `marketdata.filters.cost`.
        """
        check_cost(self._predicate)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of which events can match."""
        return tuple(kind for kind in KINDS if self.on_kind(kind) != Truth(False))

    @cached_property
    def columns(self) -> frozenset[str]:
        """The columns that the filter reads, `kind` among them where it does."""
        return columns_of(self._predicate)

    @cached_property
    def sets(self) -> frozenset[str]:
        """The names of the instrument sets that the filter asks for."""
        return sets_of(self._predicate)

    def with_sets(self, sets: Mapping[str, Collection[str]]) -> "Filter":
        """The filter for sets as they stand; itself when it asks for none.

        Raises:
            UnknownSet: it asks for one that is not among them.
        """
        return Filter(normalize(bind(self._predicate, sets))) if self.sets else self

    def __and__(self, other: "Filter") -> "Filter":
        """The filter that an event passes where it passes both; never refused."""
        return Filter(conjunction((self._predicate, other._predicate)))

    def on_kind(self, kind: str) -> Expression:
        """What is left to evaluate on a kind: `Truth(True)` for all, `Truth(False)` for none."""
        found = self._by_kind.get(kind)
        if found is None:
            found = self._by_kind[kind] = self._specialize(kind)
        return found

    def _specialize(self, kind: str) -> Expression:
        # Without `kind`, what is left depends only on which of the columns the kind has.
        if "kind" not in self.columns:
            present = self.columns & _NAMES[kind]
            for other, known in self._by_kind.items():
                if self.columns & _NAMES[other] == present:
                    return known
        return specialize(self._predicate, kind)

    def mask(self, batch: pa.RecordBatch, kind: str | None = None) -> Mask:
        """The rows that match; where the condition is NULL a row does not.

        A filter that asks for sets needs them first (`with_sets`).

        Args:
            batch: events of one kind; a column that the batch lacks is NULL.
            kind: by default the one that the batch's schema metadata names.

        Returns:
            bool array of `batch.num_rows`.
        """
        columns = FrameColumns(batch, kind or frame_kind(batch))
        return np.array(holds(self.on_kind(columns.kind), columns))

    @cached_property
    def _hash(self) -> int:
        return hash(self._predicate)

    def explain(
        self,
        event: pa.RecordBatch,
        kind: str | None = None,
        *,
        sets: Mapping[str, Collection[str]] | None = None,
    ) -> Part:
        """Why an event matches or does not: the condition's parts with their values.

        Args:
            event: a batch of one row.
            kind: by default the one that the batch's schema metadata names.
            sets: at least the instrument sets that the filter names.

        Raises:
            UnknownSet: it names one that is not among them.
        """
        return explain(self._predicate, event, kind or frame_kind(event), sets or {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self._predicate == other._predicate

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Filter({self.canonical!r})"


def compile_filter(sql: str, references: References = ()) -> Filter:
    """Compile a SQL condition; an empty text lets everything pass.

    Args:
        sql: over the columns of events, and of `references`.
        references: columns that come from reference tables: name and type.

    Raises:
        FilterError: with `position`, `line`, `column` and `hint`.
    """
    if len(sql) > _KEPT_CHARACTERS:
        return _compiled(sql, references)
    return _kept(sql, references)


def _compiled(sql: str, references: References) -> Filter:
    # Functions load filters from plans as trees; only who takes SQL pays for the SQL parser.
    from marketdata.filters.parse import check_limits, parse  # noqa: PLC0415

    parsed = parse(sql, references)
    if parsed.tree is None:
        return Filter.everything()
    try:
        found = compile_tree(parsed.tree, parsed.positions)
        # The canonical form must itself be a filter, and its parentheses count.
        check_limits(found.canonical)
    except FilterError as error:
        error.locate(sql, 0)
        raise
    return found


_kept = lru_cache(_KEPT)(_compiled)


def compile_tree(tree: Expression, positions: dict[str, int] | None = None) -> Filter:
    """Check a tree and make its filter.

    Args:
        tree: any tree, normal or not.
        positions: SQL of a part -> its character offset, for errors.

    Raises:
        FilterError: it does not type-check or can never be true.
    """
    require_condition(tree, type_of(tree))
    normal = normalize(tree)
    type_of(normal)  # folded texts may have become names of kinds that there are not
    found = Filter(normal)
    if not found.kinds:
        raise _never_true(normal, positions or {})
    return found


def _never_true(normal: Expression, positions: dict[str, int]) -> FilterNeverTrue:
    pairs = (conflict(normal, None), *(conflict(normal, kind) for kind in KINDS))
    pair = next((found for found in pairs if found is not None), None)
    if pair is None:
        return FilterNeverTrue("no event can match", hint=_kinds_of_columns(normal))
    first, second = (to_sql(term) for term in pair)
    hint = (
        f"{first} and {second} exclude each other" if first != second else f"{first} is never true"
    )
    places = [positions[text] for text in (first, second) if text in positions]
    return FilterNeverTrue("no event can match", hint=hint, position=max(places, default=None))


def _kinds_of_columns(normal: Expression) -> str:
    """Which kinds have the columns that not all have."""
    parts = []
    for name in sorted(columns_of(normal) - {"kind"}):
        having = [kind for kind, names in _NAMES.items() if name in names]
        if len(having) < len(KINDS):
            parts.append(f"{name} is a column of {', '.join(having)}")
    return "; ".join(parts) or "it is false whatever the event"
