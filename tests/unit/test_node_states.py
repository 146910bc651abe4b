"""The table of a node's states, against a model that thinks in conditions instead of transitions."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from spawn.nodes.node import TRANSITIONS, Node, NodeEvent, NodeRecord, NodeState, transition

S, E = NodeState, NodeEvent


class Model(RuleBasedStateMachine):
    """What must be true of a node follows from what was said last about three independent things."""

    def __init__(self) -> None:
        super().__init__()
        self.node = Node(id="n", record=NodeRecord(host="h", port=1))
        self.active = self.maintenance = self.up = self.caught_up = False

    def tell(self, event: NodeEvent) -> None:
        before = self.node.state
        changed = self.node.apply(event)
        assert changed is (self.node.state is not before)
        assert not self.node.apply(event), "the same event again means nothing"

    @rule()
    @precondition(lambda self: not self.active)
    def activate(self) -> None:
        self.tell(E.ACTIVATE)
        self.active, self.maintenance, self.up, self.caught_up = True, False, False, False

    @rule()
    def deactivate(self) -> None:
        self.tell(E.DEACTIVATE)
        self.active = False

    @rule()
    @precondition(lambda self: self.active)
    def enter_maintenance(self) -> None:
        self.tell(E.ENTER_MAINTENANCE)
        self.maintenance = True

    @rule()
    def leave_maintenance(self) -> None:
        self.tell(E.LEAVE_MAINTENANCE)
        if self.maintenance:
            self.maintenance = self.up = self.caught_up = False

    @rule()
    def pass_check(self) -> None:
        self.tell(E.UP)
        if self.active and not self.maintenance:
            self.up = True

    @rule()
    def fail_check(self) -> None:
        self.tell(E.FAIL)
        self.up = self.caught_up = False

    @rule()
    def catch_up(self) -> None:
        self.tell(E.CAUGHT_UP)
        if self.active and self.up and not self.maintenance:
            self.caught_up = True

    @rule()
    def fall_behind(self) -> None:
        self.tell(E.FELL_BEHIND)
        self.caught_up = False

    @invariant()
    def state_is_what_the_conditions_say(self) -> None:
        if not self.active:
            expected = S.INACTIVE
        elif self.maintenance:
            expected = S.MAINTENANCE
        elif not self.up:
            expected = S.DOWN
        else:
            expected = S.SERVING if self.caught_up else S.CATCHING_UP
        assert self.node.state is expected


Model.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestModel = Model.TestCase


@pytest.mark.parametrize("state", list(S))
@pytest.mark.parametrize("event", list(E))
def test_what_the_table_does_not_name_changes_nothing(state: NodeState, event: NodeEvent) -> None:
    assert transition(state, event) is TRANSITIONS.get((state, event), state)


def test_no_node_serves_without_a_good_check_and_catching_up_since_it_came() -> None:
    assert {origin for (origin, _), target in TRANSITIONS.items() if target is S.SERVING} == {S.CATCHING_UP}
    assert {origin for (origin, _), target in TRANSITIONS.items() if target is S.CATCHING_UP} == {S.DOWN, S.SERVING}


@pytest.mark.parametrize("state", [state for state in S if state is not S.INACTIVE])
def test_every_active_state_can_be_deactivated(state: NodeState) -> None:
    assert transition(state, E.DEACTIVATE) is S.INACTIVE
