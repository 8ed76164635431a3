"""Every failure is told in a letter, however inputs are applied again: none hides another."""

from typing import Any

import pulsar
import pytest
from distributing import KEEPING, Broker, Told, distributor, inputs, ruled

from functions.distributor import DistributorStage
from functions.operators.render import render
from functions.operators.route import Router
from functions.runtime.inputs import Input
from functions.runtime.outputs import Output
from marketdata.plans import View, ViewSpec, compile_plan, view_of


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("functions.runtime.outputs.TRIMMED_TIMEOUT_S", 0.0)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Instruments that no frame may hold that is to be rendered."""
    failing: set[str] = set()

    def fails(view: View, rows: Any, *more: Any) -> Any:
        if failing & set(rows["instrument"].to_pylist()):
            raise ArithmeticError("beyond me")
        return render(view, rows, *more)

    monkeypatch.setattr("functions.distributor.render", fails)
    return failing


def dead(stage: DistributorStage) -> Output:
    return stage._failures._output


def letters(sent: Told) -> list[tuple[int, str]]:
    return [(place, what) for topic, place, what in sent if "dead" in topic]


def store_letters(stage: DistributorStage, items: list[Input]) -> None:
    """The broker confirms the letters that are under way, and nothing else."""
    for item in items:
        number = item.waiting.pop(dead(stage), None)
        if number is not None:
            stage.confirmed(dead(stage), None, number)


def test_what_fails_later_is_told_behind_the_letter_of_a_newer_input(failing: set[str]) -> None:
    """Its message is lost, and made again it fails: by its time, by a transformation cut off."""
    plan = compile_plan(1, [ViewSpec()], created_at_ns=1)
    view = view_of(ViewSpec())
    stage, sent = distributor(plan)
    items = inputs((["A"], ["Y"]))
    failing.add("Y")
    for item in items:
        stage.apply([item])
    store_letters(stage, items)
    stage._views.output(view).broken = True
    failing.add("A")
    stage.apply(items)
    says = f"view {view.id}: ArithmeticError: beyond me"
    assert letters(sent) == [(items[1].position, says), (items[0].position, says)]
    assert dead(stage) in items[0].waiting
    assert dead(stage) not in items[1].waiting


def test_a_new_view_has_letters_of_its_own_for_what_was_told_of_others(failing: set[str]) -> None:
    stage, sent = distributor(compile_plan(1, [ViewSpec()], created_at_ns=1))
    items = inputs((["Y"], ["A"], ["Y"]))
    failing.add("Y")
    stage.apply(items)
    store_letters(stage, items)
    del sent[:]
    rules = ruled(**KEEPING)
    stage._function.router = Router(compile_plan(2, [ViewSpec(), rules], created_at_ns=2))
    stage.apply(items)
    found = letters(sent)
    assert [place for place, _ in found] == [items[0].position, items[2].position]
    for _, says in found:
        assert view_of(rules).id in says
        assert view_of(ViewSpec()).id not in says


def test_a_new_owner_tells_under_a_new_name(
    monkeypatch: pytest.MonkeyPatch, failing: set[str]
) -> None:
    """So the broker, which knows the letters of the last one, does not drop an older input's."""
    names = []
    create = Broker.create_producer

    def named(self: Broker, topic: str, **given: Any) -> Any:
        if "dead" in topic:
            names.append(given["producer_name"])
        return create(self, topic, **given)

    monkeypatch.setattr(Broker, "create_producer", named)
    failing.add("Y")
    for _ in range(2):
        stage, sent = distributor(compile_plan(1, [ViewSpec()], created_at_ns=1))
        stage.apply(inputs((["Y"],)))
        assert len(letters(sent)) == 1
    assert len(set(names)) == 2


def test_letters_that_were_lost_are_sent_again_under_their_numbers(failing: set[str]) -> None:
    """So the broker drops those that it has, and no other."""
    stage, sent = distributor(compile_plan(1, [ViewSpec()], created_at_ns=1))
    items = inputs((["Y"], ["Y"]))
    failing.add("Y")
    stage.apply(items)
    numbers = [item.waiting.pop(dead(stage)) for item in items]
    told = letters(sent)
    dead(stage).broken = True
    failing.clear()  # what went wrong is remembered though it went well now
    stage.apply([])
    assert letters(sent) == [*told, *told]
    assert [item.waiting[dead(stage)] for item in items] == numbers
    store_letters(stage, items)
    dead(stage).broken = True
    stage.apply([])
    assert letters(sent) == [*told, *told]


def test_nothing_follows_a_failure_whose_letter_cannot_be_sent(
    monkeypatch: pytest.MonkeyPatch, failing: set[str]
) -> None:
    stage, sent = distributor(compile_plan(1, [ViewSpec()], created_at_ns=1))
    items = inputs((["Y"], ["A"]))
    failing.add("Y")
    is_away = [True]
    create = Broker.create_producer

    def away(self: Broker, topic: str, **given: Any) -> Any:
        if "dead" in topic and is_away:
            raise pulsar.ConnectError
        return create(self, topic, **given)

    monkeypatch.setattr(Broker, "create_producer", away)
    with pytest.raises(pulsar.ConnectError):
        stage.apply(items[:1])
    for _ in range(3):
        with pytest.raises(pulsar.ConnectError):
            stage.apply(items)
    assert sent == []
    is_away.clear()
    stage.apply(items)
    assert [what for _, _, what in sent] == [
        f"view {view_of(ViewSpec()).id}: ArithmeticError: beyond me",
        "['A']",
    ]
    assert stage._counters["render_failures"] == stage._counters["dead_letters"] == 1


def test_what_fails_again_after_its_letter_was_stored_holds_nothing_up() -> None:
    stage, sent = distributor(compile_plan(1, [ViewSpec()], created_at_ns=1))
    broken = Input(pulsar.MessageId(0, 1, 0), b"no frame", {"kind": "trade"})
    stage.apply([broken])
    stage.apply([broken])
    assert len(letters(sent)) == 1
    assert stage._failures.views() == {None}  # its letter is under way
    store_letters(stage, [broken])
    stage.apply([broken])  # as with a new plan, before it is acknowledged
    assert not stage._failures.views()
    assert len(sent) == 1


def test_lanes_do_not_take_the_topic_of_letters_from_each_other(failing: set[str]) -> None:
    """A bad view of one lane must not have the other lanes take their partitions over again."""
    modes = {}

    class Recording(Broker):
        def create_producer(self, topic: str, **options: Any) -> Any:
            modes["dead" if "dead" in topic else "view"] = options["access_mode"]
            return super().create_producer(topic, **options)

    stage, sent = distributor(compile_plan(1, [ViewSpec()], created_at_ns=1))
    stage._function.client = Recording()
    stage._views._openings._client = Recording()
    failing.add("Y")
    stage.apply(inputs((["A"],)))
    stage.apply(inputs((["A"], ["Y"]))[1:])
    assert letters(sent)
    mode = pulsar.ProducerAccessMode
    assert modes == {"dead": mode.Shared, "view": mode.ExclusiveWithFencing}
