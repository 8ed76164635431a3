"""Changes of the ordered rules: what they are after a request, checked as a whole.

Pure: no database, no broker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from control_plane.domains.rules.policy import Rule, shadow_of
from control_plane.domains.rules.schemas import RuleCreate, RuleUpdate
from control_plane.domains.subscriptions.view_check import sql_problem, unknown_sets
from control_plane.errors import (
    ConflictError,
    FieldProblem,
    InvalidRequestError,
    NotFoundError,
)
from marketdata.filters import FilterError, compile_filter
from marketdata.routing_rules import MAX_RULES, MAX_TURNS, turns


def made(rules: Sequence[Rule], data: RuleCreate, rule_id: str) -> list[Rule]:
    """The rules with a new one.

    Raises:
        InvalidRequestError: it is refused.
        ConflictError: its name is taken, or there are too many rules.
    """
    members = {
        name: getattr(data, name)
        for name in Rule.__struct_fields__
        if name not in ("id", "condition")
    }
    rule = _compiled(Rule(id=rule_id, condition=_NO_CONDITION, **members))
    _require_priority(rule)
    return _checked(_placed(rules, rule, data.position, at=len(rules)), rule)


def changed(rules: Sequence[Rule], key: str, data: RuleUpdate) -> list[Rule]:
    """The rules with one changed.

    Raises:
        NotFoundError: there is none with this id or name.
        InvalidRequestError, ConflictError: as of a new one.
    """
    before = find(rules, key)
    members = {name: getattr(data, name) for name in data.__struct_fields__ if name != "position"}
    named = {name: value for name, value in members.items() if value is not UNSET}
    if named.get("effect", "prioritize") != "prioritize":
        named.setdefault("priority", None)
    rule = msgspec.structs.replace(before, **named)
    _require_priority(rule)
    # What stands is not compiled again: to disable a rule must not fail.
    if named.keys() & {"when", "consumers", "origin_regions", "origin_regions_except"}:
        rule = _compiled(rule)
    others = [each for each in rules if each.id != rule.id]
    after = _placed(others, rule, data.position, at=rules.index(before))
    return after if after == list(rules) else _checked(after, rule)


def without(rules: Sequence[Rule], key: str) -> list[Rule]:
    """The rules without one; NotFoundError when it is not there."""
    gone = find(rules, key)
    return [rule for rule in rules if rule.id != gone.id]


def ordered(rules: Sequence[Rule], keys: Sequence[str]) -> list[Rule]:
    """The rules in another order.

    Raises:
        InvalidRequestError: not every rule is named, or one twice or of no such name.
    """
    by_key = {key: rule for rule in rules for key in (rule.name, rule.id)}
    problems = [
        FieldProblem(f"/rules/{place}", f"there is no rule {key!r}", hint="GET /v1/rules")
        for place, key in enumerate(keys)
        if key not in by_key
    ]
    found = [by_key[key] for key in keys if key in by_key]
    twice = [name for name, times in Counter(rule.name for rule in found).items() if times > 1]
    missing = [rule.name for rule in rules if rule not in found]
    problems += [FieldProblem("/rules", f"{name!r} is named twice") for name in twice]
    problems += [
        FieldProblem("/rules", f"{name!r} is not named", hint="name every rule, enabled or not")
        for name in missing
    ]
    if problems:
        raise InvalidRequestError("The order does not name every rule once.", problems)
    return _checked(found)


def names_known(rule: Rule, sets: Collection[str], origins: Collection[str]) -> None:
    """Refuse a rule that names an instrument set or a region of origin that is not there.

    Raises:
        InvalidRequestError: with the place of each.
    """
    problems = unknown_sets("/when", rule.when, rule.condition.sets, sets)
    for member in ("origin_regions", "origin_regions_except"):
        for region in getattr(rule, member) or ():
            if region not in origins:
                detail = f"no publisher is registered in the region {region!r}"
                hint = "POST /v1/publishers: its sources are those of its region"
                problems.append(FieldProblem(f"/{member}", detail, hint=hint))
    if problems:
        raise _refused(*problems)


def find(rules: Sequence[Rule], key: str) -> Rule:
    """The rule with this id or name; NotFoundError for none."""
    by_id = (rule for rule in rules if rule.id == key)
    found = next(by_id, None) or next((rule for rule in rules if rule.name == key), None)
    if found is None:
        raise NotFoundError("rule", key)
    return found


_NO_CONDITION = compile_filter("")


def _compiled(rule: Rule) -> Rule:
    """A rule with the condition of its text."""
    problems = []
    try:
        condition = compile_filter(rule.when)
        condition.check_cost()
        rule = msgspec.structs.replace(rule, condition=condition)
    except FilterError as error:
        error.locate(rule.when, 0)
        problems.append(sql_problem("/when", error))
    nobody = rule.consumers.contradiction
    if nobody is not None:
        detail = f"it can never match: {nobody} and {nobody}_except leave nobody"
        problems.append(FieldProblem(f"/consumers/{nobody}", detail, hint=f"drop {nobody}_except"))
    among, without_ = rule.origin_regions, rule.origin_regions_except
    if among is not None and without_ is not None and set(among) <= set(without_):
        detail = "it can never match: origin_regions_except leaves none of them"
        problems.append(FieldProblem("/origin_regions", detail, hint="drop one of the two"))
    if problems:
        raise _refused(*problems)
    return rule


def _require_priority(rule: Rule) -> None:
    """Refuse a rule that prioritizes without a priority, or has one and does not."""
    if rule.prioritizes and rule.priority is None:
        detail, hint = "a rule that prioritizes needs a priority", "0 to 3: 3 is the highest"
        raise _refused(FieldProblem("/priority", detail, hint=hint))
    if rule.priority is not None and not rule.prioritizes:
        detail = f"a rule with the effect {rule.effect} gives no priority"
        raise _refused(FieldProblem("/priority", detail, hint="drop it, or the effect prioritize"))


def _refused(*problems: FieldProblem) -> InvalidRequestError:
    return InvalidRequestError(f"Refused: {problems[0].detail}.", [*problems])


def _placed(
    others: Sequence[Rule], rule: Rule, position: int | UnsetType, *, at: int
) -> list[Rule]:
    place = at if position is UNSET else min(position - 1, len(others))
    return [*others[:place], rule, *others[place:]]


def _checked(rules: list[Rule], rule: Rule | None = None) -> list[Rule]:
    """Refuse rules that do not go together; `rule` is the one that changes."""
    if rule is not None and sum(each.name == rule.name for each in rules) > 1:
        raise ConflictError(f"There is a rule {rule.name!r} already; choose another name.")
    if len(rules) > MAX_RULES:
        raise ConflictError(f"There are {MAX_RULES} rules already: delete some, or join them.")
    deciding = (each.effect for each in rules if each.enabled and each.effect != "prioritize")
    if turns(deciding) > MAX_TURNS:
        detail = f"the rules would turn more than {MAX_TURNS} times between allow and deny"
        hint = "let those of one effect follow each other, or join them by OR"
        pointer = "/rules" if rule is None else "/position"
        raise _refused(FieldProblem(pointer, detail, hint=hint))
    shadow = shadow_of(rule, rules) if rule is not None and rule.enabled else None
    if shadow is not None:
        detail = f"it can never match: the rule {shadow.name!r} ahead of it decides every event"
        hint = f"give it the position {rules.index(shadow) + 1}, or disable {shadow.name!r}"
        raise _refused(FieldProblem("/position", detail, hint=hint))
    return rules
