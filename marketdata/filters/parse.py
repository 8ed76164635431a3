"""From SQL text to a type-checked expression tree, every error with its position.

sqlglot parses; this module maps what filters offer onto `marketdata.filters.tree` and refuses the
rest by name. Limits keep a filter from costing more than it should; they are checked before the
work they limit.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, DecimalException
from difflib import get_close_matches
from typing import Final, NoReturn

from sqlglot import exp
from sqlglot.errors import ParseError, TokenError
from sqlglot.parser import Parser
from sqlglot.tokenizer_core import Token, TokenType
from sqlglot.tokens import Tokenizer

from marketdata.filters import literals
from marketdata.filters.errors import FilterError, FilterSyntaxError, FilterTooComplex
from marketdata.filters.like import check_pattern
from marketdata.filters.sets import check_set
from marketdata.filters.tree import (
    And,
    Arithmetic,
    ArithmeticOp,
    Case,
    Column,
    Compare,
    CompareOp,
    Expression,
    Function,
    FunctionName,
    In,
    InSet,
    IsNull,
    Like,
    Literals,
    Local,
    LocalPart,
    Negative,
    Not,
    Null,
    Number,
    Or,
    Reference,
    References,
    Round,
    Text,
    Truth,
    When,
    to_sql,
)
from marketdata.filters.typecheck import Type, check, require_condition

MAX_CHARACTERS: Final = 262_144
MAX_TOKENS: Final = 40_000
MAX_DEPTH: Final = 32
"""Deepest nesting of parentheses, CASE, NOT and signs."""
MAX_CHAIN: Final = 128
"""Most operators of a chain such as a + b + c, which lean on one another without parentheses."""
MAX_IN_VALUES: Final = 10_000
MAX_ZONES: Final = 8
"""Most time zones of a filter: whoever reads it lists all changes of each."""
MAX_TERMS: Final = 1_000
"""Most operators of a filter; the values of IN lists do not count."""

_COMPARE: Final[dict[type[exp.Expr], CompareOp]] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
}
_ARITHMETIC: Final[dict[type[exp.Expr], ArithmeticOp]] = {
    exp.Add: "+",
    exp.Sub: "-",
    exp.Mul: "*",
    exp.Div: "/",
    exp.Mod: "%",
}
_FUNCTION: Final[dict[type[exp.Expr], FunctionName]] = {
    exp.Abs: "abs",
    exp.Lower: "lower",
    exp.Upper: "upper",
    exp.Coalesce: "coalesce",
}
_OFFERED: Final = (
    "there are = <> < <= > >=, IN, BETWEEN, LIKE, ILIKE, IS NULL, AND, OR, NOT, CASE,"
    " + - * / %, abs, round, lower, upper, coalesce, local_time, local_weekday, TIMESTAMP '…',"
    " TIME '…' and instrument IN SET '…'"
)
_LOCAL: Final[dict[str, LocalPart]] = {"local_time": "time", "local_weekday": "weekday"}
_READ: Final = frozenset(
    {"this", "expression", "expressions", "to", "low", "high", "symmetric", "query", "field"}
    | {"unnest", "table", "quoted", "is_string", "ifs", "default", "negate", "is_nvl", "is_null"}
    | {"decimals"}
)
"""Arguments of sqlglot's nodes that are understood here; a node with any other is refused, so that
a meaning which a version of sqlglot puts into a new argument cannot get lost."""

_OPENING: Final = frozenset({TokenType.L_PAREN, TokenType.CASE})
_CLOSING: Final = frozenset({TokenType.R_PAREN, TokenType.END})
_PREFIX: Final = frozenset({TokenType.NOT, TokenType.DASH})


class Parsed:
    """A checked tree and where its parts stand.

    Attributes:
        tree: the expression as written, not yet normal; None for an empty text.
        type: what it gives.
        start: where it begins, a 0-based character offset.
        positions: SQL of a part -> its 0-based character offset.
    """

    def __init__(
        self, tree: Expression | None, given: Type, start: int, positions: dict[str, int]
    ) -> None:
        self.tree = tree
        self.type = given
        self.start = start
        self.positions = positions


def parse(sql: str, references: References = ()) -> Parsed:
    """Parse and check a condition over columns of events and of reference tables.

    Raises:
        FilterError: always with `position`, `line` and `column`.
    """
    parsed = parse_value(sql, references)
    if parsed.tree is not None:
        try:
            require_condition(parsed.tree, parsed.type)
        except FilterError as error:
            error.locate(sql, parsed.start)
            raise
    return parsed


def parse_value(sql: str, references: References = ()) -> Parsed:
    """Parse and check an expression of any type over columns of events and of reference tables.

    Raises:
        FilterError: always with `position`, `line` and `column`.
    """
    try:
        return _parse(sql, references)
    except FilterError as error:
        error.locate(sql, 0)
        raise


def _parse(sql: str, references: References) -> Parsed:
    if len(sql) > MAX_CHARACTERS:
        raise FilterTooComplex(f"the text has more than {MAX_CHARACTERS} characters")
    try:
        tokens = Tokenizer().tokenize(sql)
    except TokenError as error:
        raise _unclosed(sql) from error
    if not tokens:
        return Parsed(None, Type.NULL, 0, {})
    _check_limits(tokens)
    tokens, sets = _with_lists_for_sets(tokens)
    try:
        parsed = Parser().parse_into(exp.Condition, tokens, sql)[0]
    except ParseError as error:
        raise _syntax_error(sql, error) from error
    except RecursionError as error:
        raise FilterTooComplex("the text is nested too deeply") from error
    if parsed is None:
        raise FilterSyntaxError("the text holds no condition", hint=_OFFERED)
    builder = _Builder(sql, sets, dict(references))
    tree, given = builder.build(parsed)
    return Parsed(tree, given, _position(parsed), builder.positions)


def check_limits(sql: str) -> None:
    """Refuse a text that has grown too large or too deep in becoming normal.

    Raises:
        FilterTooComplex: without a position.
    """
    try:
        _check_limits(Tokenizer().tokenize(sql))
    except FilterTooComplex as error:
        raise FilterTooComplex(error.message, hint=error.hint) from error


def _with_lists_for_sets(tokens: Sequence[Token]) -> tuple[list[Token], frozenset[int]]:
    """Write IN SET 'name', which sqlglot does not know, as IN ('name').

    Returns:
        The tokens, and the offsets of the names of sets among them.
    """
    written, sets = list(tokens), []
    for i in range(len(tokens) - 3, -1, -1):
        opening, keyword, name = tokens[i : i + 3]
        kinds = (opening.token_type, keyword.token_type, name.token_type)
        if kinds == (TokenType.IN, TokenType.SET, TokenType.STRING):
            sets.append(name.start)
            written[i + 1 : i + 3] = [
                Token(TokenType.L_PAREN, "(", *_place(keyword)),
                name,
                Token(TokenType.R_PAREN, ")", *_place(name)),
            ]
    return written, frozenset(sets)


def _place(token: Token) -> tuple[int, int, int, int]:
    return token.line, token.col, token.start, token.end


def _check_limits(tokens: Sequence[Token]) -> None:
    if len(tokens) > MAX_TOKENS:
        raise FilterTooComplex(f"the text has more than {MAX_TOKENS} words and signs")
    depth = prefixes = terms = 0
    for token in tokens:
        kind = token.token_type
        if kind is TokenType.SEMICOLON:
            raise FilterSyntaxError("unexpected ';'", hint="one condition", position=token.start)
        if kind in _OPENING:
            depth += 1
        elif kind in _CLOSING:
            depth -= 1
        prefixes = prefixes + 1 if kind in _PREFIX else 0
        if depth + prefixes > MAX_DEPTH:
            raise FilterTooComplex(
                f"the text is nested more than {MAX_DEPTH} deep", position=token.start
            )
        if kind not in (TokenType.COMMA, TokenType.STRING, TokenType.NUMBER):
            terms += 1
            if terms > 4 * MAX_TERMS:
                raise FilterTooComplex(
                    f"the text has more than about {MAX_TERMS} terms",
                    hint="write alternatives of one column as IN (…)",
                    position=token.start,
                )


class _Builder:
    """Maps sqlglot's tree bottom up, checking types on the way."""

    def __init__(self, sql: str, sets: frozenset[int], references: Mapping[str, str]) -> None:
        self._sql = sql
        self._sets = sets
        self._references = references
        self._level = 0
        self._zones: set[str] = set()
        self.positions: dict[str, int] = {}

    def build(self, source: exp.Expr) -> tuple[Expression, Type]:
        """The node of a sqlglot node, with its type."""
        self._level += 1
        try:
            if self._level > MAX_CHAIN:
                raise FilterTooComplex(f"more than {MAX_CHAIN} operators in a chain")
            tree, given = self._build(source)
        except FilterError as error:
            error.locate(self._sql, _position(source))
            raise
        finally:
            self._level -= 1
        if given is Type.TRUTH:
            self.positions.setdefault(to_sql(tree), _position(source))
        return tree, given

    def _checked(self, node: Expression, *types: Type) -> tuple[Expression, Type]:
        return node, check(node, types)

    def _build(self, source: exp.Expr) -> tuple[Expression, Type]:
        kind = type(source)
        unread = {name for name, value in source.args.items() if value} - _READ
        negated_elsewhere = source.args.get("negate") and kind not in (exp.Like, exp.ILike)
        if unread or negated_elsewhere:
            _refuse(source)
        if kind is exp.Paren:
            return self.build(source.this)
        if kind is exp.And or kind is exp.Or:
            return self._connect(source)
        if kind in _COMPARE:
            left, left_type = self.build(source.this)
            right, right_type = self.build(source.expression)
            return self._checked(Compare(_COMPARE[kind], left, right), left_type, right_type)
        if kind in _ARITHMETIC:
            left, left_type = self.build(source.this)
            right, right_type = self.build(source.expression)
            return self._checked(Arithmetic(_ARITHMETIC[kind], left, right), left_type, right_type)
        if kind in _FUNCTION:
            parts = [self.build(part) for part in (source.this, *source.expressions)]
            arguments = tuple(part for part, _ in parts)
            return self._checked(Function(_FUNCTION[kind], arguments), *(t for _, t in parts))
        method = _METHODS.get(kind)
        if method is None:
            _refuse(source)
        return method(self, source)

    def _connect(self, source: exp.Expr) -> tuple[Expression, Type]:
        kind, parts, chain = type(source), [], source
        # Long chains lean left; walking them keeps the depth of the recursion small.
        while isinstance(chain, kind):
            parts.append(chain.expression)
            chain = chain.this
        parts.append(chain)
        operands = []
        for part in reversed(parts):
            operand, given = self.build(part)
            try:
                require_condition(operand, given)
            except FilterError as error:
                error.locate(self._sql, _position(part))
                raise
            operands.append(operand)
        node = And(tuple(operands)) if kind is exp.And else Or(tuple(operands))
        return node, Type.TRUTH

    def _column(self, source: exp.Expr) -> tuple[Expression, Type]:
        if source.args.get("table"):
            raise FilterSyntaxError(
                f"{source.sql()!r} is no column", hint="write the column's name alone"
            )
        name = source.this.this
        quoted = bool(source.this.args.get("quoted"))
        if name in self._references:
            return self._checked(Reference(name, self._references[name]))
        try:
            return self._checked(Column(name if quoted else name.lower()))
        except FilterError as error:
            if quoted:
                error.hint = f"text stands in single quotes: '{name}'"
            elif near := get_close_matches(name, self._references, n=1):
                error.hint = f"did you mean {near[0]}?"
            raise

    def _literal(self, source: exp.Expr) -> tuple[Expression, Type]:
        if source.is_string:
            return Text(source.this), Type.TEXT
        return literals.number(_decimal(source.this)), Type.NUMBER

    def _truth(self, source: exp.Expr) -> tuple[Expression, Type]:
        return Truth(bool(source.this)), Type.TRUTH

    def _null(self, _: exp.Expr) -> tuple[Expression, Type]:
        return Null(), Type.NULL

    def _not(self, source: exp.Expr) -> tuple[Expression, Type]:
        operand, given = self.build(source.this)
        return self._checked(Not(operand), given)

    def _negative(self, source: exp.Expr) -> tuple[Expression, Type]:
        operand, given = self.build(source.this)
        if isinstance(operand, Number):
            return literals.number(-operand.decimal), Type.NUMBER
        return self._checked(Negative(operand), given)

    def _cast(self, source: exp.Expr) -> tuple[Expression, Type]:
        to = source.args["to"].this
        is_text = isinstance(source.this, exp.Literal) and source.this.is_string
        if is_text and to in (exp.DType.TIMESTAMP, exp.DType.TIMESTAMPTZ):
            return literals.time(source.this.this), Type.TIME
        if is_text and to is exp.DType.TIME:
            return literals.time_of_day(source.this.this), Type.TIME_OF_DAY
        raise FilterSyntaxError(
            "values cannot be cast", hint="only TIMESTAMP '…' and TIME '…' literals"
        )

    def _local(self, source: exp.Expr) -> tuple[Expression, Type]:
        part = _LOCAL.get(source.this.lower())
        if part is None:
            _refuse(source)
        zone = source.expressions[1] if len(source.expressions) == 2 else None
        if not (isinstance(zone, exp.Literal) and zone.is_string):
            raise FilterSyntaxError(
                f"local_{part} needs a time and the name of a zone",
                hint=f"write local_{part}(ts_event, 'America/New_York')",
            )
        self._zones.add(zone.this)
        if len(self._zones) > MAX_ZONES:
            raise FilterTooComplex(f"more than {MAX_ZONES} time zones")
        operand, given = self.build(source.expressions[0])
        return self._checked(Local(part, operand, zone.this), given)

    def _round(self, source: exp.Expr) -> tuple[Expression, Type]:
        decimals = source.args.get("decimals")
        digits = "0" if decimals is None else decimals.sql()
        if not re.fullmatch(r"-?\d{1,9}", digits):
            raise FilterSyntaxError(
                "round needs a whole number of digits",
                hint="write round(price, 2)",
                position=_position(decimals or source),
            )
        operand, given = self.build(source.this)
        return self._checked(Round(operand, int(digits)), given)

    def _is(self, source: exp.Expr) -> tuple[Expression, Type]:
        operand, given = self.build(source.this)
        if isinstance(source.expression, exp.Boolean):
            # x IS TRUE is never NULL: coalesce says the same with fewer kinds of node.
            require_condition(operand, given)
            if not source.expression.this:
                operand = Not(operand)
            return Function("coalesce", (operand, Truth(False))), Type.TRUTH
        if not isinstance(source.expression, exp.Null):
            _refuse(source)
        return self._checked(IsNull(operand), given)

    def _between(self, source: exp.Expr) -> tuple[Expression, Type]:
        operand, given = self.build(source.this)
        low, low_type = self.build(source.args["low"])
        high, high_type = self.build(source.args["high"])
        lower, _ = self._checked(Compare(">=", operand, low), given, low_type)
        upper, _ = self._checked(Compare("<=", operand, high), given, high_type)
        if source.args.get("symmetric"):
            _refuse(source)
        return And((lower, upper)), Type.TRUTH

    def _in(self, source: exp.Expr) -> tuple[Expression, Type]:
        operand, given = self.build(source.this)
        if source.args.get("query") or source.args.get("field") or source.args.get("unnest"):
            raise FilterSyntaxError("IN needs a list", hint="write IN ('a', 'b')")
        if not source.expressions:
            raise FilterSyntaxError("IN needs at least one value", hint="write IN ('a', 'b')")
        if _position(source.expressions[0]) in self._sets:
            return self._in_set(operand, source.expressions[0])
        if len(source.expressions) > MAX_IN_VALUES:
            raise FilterTooComplex(f"IN has more than {MAX_IN_VALUES} values")
        values: list[Literals] = []
        others: list[Expression] = []
        for part in source.expressions:
            member, member_type = self.build(part)
            try:
                check(Compare("=", operand, member), (given, member_type))
            except FilterError as error:
                error.locate(self._sql, _position(part))
                raise
            if isinstance(member, Literals):
                values.append(member)
            else:
                others.append(Compare("=", operand, member))
        node: Expression = In(operand, tuple(values))
        if others:
            node = Or((*((node,) if values else ()), *others))
        return node, Type.TRUTH

    def _in_set(self, operand: Expression, name: exp.Expr) -> tuple[Expression, Type]:
        try:
            check_set(operand, name.this)
        except FilterError as error:
            error.locate(self._sql, _position(name))
            raise
        return InSet(operand, name.this), Type.TRUTH

    def _escape(self, source: exp.Expr) -> tuple[Expression, Type]:
        escape = source.expression
        is_character = isinstance(escape, exp.Literal) and escape.is_string
        is_like = type(source.this) in (exp.Like, exp.ILike)
        if not (is_character and is_like and len(escape.this) == 1):
            raise FilterSyntaxError("ESCAPE needs one character", hint="write ESCAPE '!'")
        return self._like(source.this, escape.this)

    def _like(self, source: exp.Expr, escape: str = "") -> tuple[Expression, Type]:
        operand, given = self.build(source.this)
        pattern = source.expression
        if not (isinstance(pattern, exp.Literal) and pattern.is_string):
            raise FilterSyntaxError(
                "LIKE needs a pattern in quotes",
                hint="write LIKE 'A%'",
                position=_position(pattern),
            )
        try:
            check_pattern(pattern.this, escape)
        except FilterError as error:
            error.locate(self._sql, _position(pattern))
            raise
        if type(source) is exp.ILike:
            folded = Function("lower", (operand,))
            check(folded, (given,))
            operand, text, escape = folded, pattern.this.lower(), escape.lower()
        else:
            text = pattern.this
        node, result = self._checked(Like(operand, text, escape), given)
        # NOT LIKE is an argument of LIKE here, NOT IN and the others are a NOT around.
        return (Not(node) if source.args.get("negate") else node), result

    def _case(self, source: exp.Expr) -> tuple[Expression, Type]:
        subject = self.build(source.this) if source.this else None
        whens: list[When] = []
        types: list[Type] = []
        for branch in source.args["ifs"]:
            condition, given = self.build(branch.this)
            if subject is not None:
                condition = Compare("=", subject[0], condition)
                given = check(condition, (subject[1], given))
            result, result_type = self.build(branch.args["true"])
            whens.append(When(condition, result))
            types += (given, result_type)
        default = source.args.get("default")
        otherwise, other_type = self.build(default) if default else (Null(), Type.NULL)
        return self._checked(Case(tuple(whens), otherwise), *types, other_type)


_METHODS: Final[dict[type[exp.Expr], Callable[[_Builder, exp.Expr], tuple[Expression, Type]]]] = {
    exp.Column: _Builder._column,  # noqa: SLF001 - the table is the class's own dispatch
    exp.Literal: _Builder._literal,  # noqa: SLF001
    exp.Boolean: _Builder._truth,  # noqa: SLF001
    exp.Null: _Builder._null,  # noqa: SLF001
    exp.Not: _Builder._not,  # noqa: SLF001
    exp.Neg: _Builder._negative,  # noqa: SLF001
    exp.Cast: _Builder._cast,  # noqa: SLF001
    exp.Anonymous: _Builder._local,  # noqa: SLF001
    exp.Round: _Builder._round,  # noqa: SLF001
    exp.Is: _Builder._is,  # noqa: SLF001
    exp.Between: _Builder._between,  # noqa: SLF001
    exp.In: _Builder._in,  # noqa: SLF001
    exp.Escape: _Builder._escape,  # noqa: SLF001
    exp.Like: _Builder._like,  # noqa: SLF001
    exp.ILike: _Builder._like,  # noqa: SLF001
    exp.Case: _Builder._case,  # noqa: SLF001
}


def _refuse(source: exp.Expr) -> NoReturn:
    name = source.this if isinstance(source, exp.Anonymous) else source.key.upper()
    raise FilterSyntaxError(f"{name} is not offered", hint=_OFFERED)


def _decimal(text: str) -> Decimal:
    try:
        return literals.EXACT.create_decimal(text)
    except DecimalException as error:
        raise literals.too_long() from error


def _position(source: exp.Expr) -> int:
    starts = [node.meta["start"] for node in source.walk() if "start" in node.meta]
    return min(starts, default=0)


def _unclosed(sql: str) -> FilterSyntaxError:
    """Find the quote or comment that is never closed; the tokenizer only says that there is one."""
    rest = re.sub(
        r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/",
        lambda found: " " * len(found[0]),
        sql,
        flags=re.DOTALL,
    )
    start = re.search(r"['\"]|/\*", rest)
    if start is None:
        return FilterSyntaxError("the text cannot be read", hint=_OFFERED)
    return FilterSyntaxError(
        f"{start[0]} is never closed",
        hint="a quote within text is doubled: 'it''s'",
        position=start.start(),
    )


def _syntax_error(sql: str, error: ParseError) -> FilterSyntaxError:
    found = error.errors[0] if error.errors else {}
    highlight = found.get("highlight") or ""
    description = found.get("description") or "the text cannot be read"
    lines = sql.splitlines(keepends=True)
    before = sum(map(len, lines[: (found.get("line") or 1) - 1]))
    end = before + (found.get("col") or 0)
    position = max(0, min(end - len(highlight), len(sql)))
    if description.startswith("Required keyword"):
        message = f"something is missing beside {highlight!r}"
    elif description.startswith("Invalid expression"):
        message = f"unexpected {highlight!r}"
    elif description.startswith("The number of provided arguments"):
        message = "too many arguments"
    else:
        message = f"{description} near {highlight!r}"
    return FilterSyntaxError(message, hint=_OFFERED, position=position)
