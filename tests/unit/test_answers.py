"""The reference answer: every rule of what a client is told and what nodes are compared with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import gevent
import pytest

from spawn.delivery.answers import Accepted, Reference, ReferenceBoard, Removed, Result, Ticket
from spawn.http11.message import ResponseHead
from spawn.http11.spool import MemoryBudget, Spool
from spawn.journal.base import Entry, FileBody, NewUpdate, Published
from spawn.journal.memory import MemoryJournal
from tests.support.heads import response_head
from tests.support.inprocess import until


def head(status: int) -> ResponseHead:
    return response_head(status=status)


class Poll:
    """A board with three nodes ``a``, ``b`` and ``c``, of which ``speakers`` may speak."""

    def __init__(self, directory: str) -> None:
        self.speakers = {"a", "b", "c"}
        self.expected = {"a", "b", "c"}
        self.past: set[str] = set()  # speakers that are done with every update
        self.differing: list[tuple[str, int, int, int]] = []
        self.budget = MemoryBudget(1_000)
        self.directory = directory
        self.journal = MemoryJournal(1 << 20, directory)
        self.journal.start(self._publish, lambda reason: None)
        self.board = ReferenceBoard(
            self.journal,
            lambda: self.speakers,
            lambda: Spool(directory, 10, 10_000, self.budget),
            lambda *what: self.differing.append(what),
            speakers_before=lambda sequence: self.speakers - self.past,
            expected_before=lambda sequence: self.expected,
        )
        self.board.agree_s = 0.05
        self.entries: list[Entry] = []
        self.spools: list[Spool] = []

    def _publish(self, batch: Sequence[Published]) -> None:
        for entry, token in batch:
            self.entries.append(entry)
            if isinstance(token, Ticket):
                self.board.open(entry, token)

    def update(self) -> Ticket:
        ticket = Ticket()
        self.journal.append(NewUpdate(b"POST", b"/", b"", b""), ticket)
        return ticket

    def answer(self, node: str, status: int, *, repeat: bool = False) -> Spool | None:
        spool = self.board.offer(node, self.entries[-1], head(status), repeat)
        if spool is not None:
            self.spools.append(spool)
        return spool

    @property
    def reference(self) -> int | None:
        found = self.board.reference_of(self.entries[-1])
        assert found == self.journal.reference(len(self.entries))
        return found

    def told(self, ticket: Ticket) -> Result | None:
        """What the client knows by now."""
        return ticket.wait(-1e9, 0.0)

    def after_agree(self, ticket: Ticket) -> Result | None:
        return ticket.wait(5.0, 0.0)

    @property
    def is_clean(self) -> bool:
        return not self.board._votes


@pytest.fixture
def poll(tmp_path: Path) -> Iterator[Poll]:
    made = Poll(str(tmp_path / "spool"))
    yield made
    made.journal.stop(1.0)


def status_of(result: Result | None) -> int:
    assert isinstance(result, Reference), result
    return result.head.status


# --- a good answer


@pytest.mark.parametrize("status", [200, 201, 204, 301, 302, 303])
def test_the_first_good_answer_of_a_speaker_is_the_reference_at_once(poll: Poll, status: int) -> None:
    ticket = poll.update()
    poll.answer("b", status)
    assert status_of(poll.told(ticket)) == status
    assert poll.reference == status
    assert poll.is_clean


def test_only_the_first_one_counts_and_no_spool_is_made_for_others(poll: Poll) -> None:
    ticket = poll.update()
    assert poll.answer("b", 200) is not None
    assert poll.answer("a", 201) is None
    assert poll.answer("c", 404) is None
    assert status_of(poll.told(ticket)) == 200
    assert poll.reference == 200


def test_a_good_answer_of_a_node_that_may_not_speak_waits_for_one_that_may(poll: Poll) -> None:
    poll.speakers = {"a", "b"}
    ticket = poll.update()
    assert poll.answer("c", 200) is None
    assert poll.told(ticket) is None
    assert poll.reference is None
    poll.answer("a", 201)
    assert status_of(poll.told(ticket)) == 201
    assert not poll.differing


# --- a client error


def test_a_4xx_is_the_reference_when_every_speaker_has_answered(poll: Poll) -> None:
    poll.board.agree_s = 60.0
    ticket = poll.update()
    poll.answer("a", 409)
    poll.answer("b", 404)
    assert poll.told(ticket) is None
    poll.answer("c", 500)
    assert status_of(poll.told(ticket)) == 409
    assert poll.reference == 409


def test_a_4xx_is_the_reference_after_a_while_with_nothing_better(poll: Poll) -> None:
    ticket = poll.update()
    poll.answer("a", 409)
    assert poll.told(ticket) is None
    assert status_of(poll.after_agree(ticket)) == 409
    assert poll.is_clean


def test_one_nodes_lost_session_does_not_speak_for_all(poll: Poll) -> None:
    """401 at once from one, 200 a moment later from the others."""
    ticket = poll.update()
    spool = poll.answer("a", 401)
    poll.answer("b", 200)
    assert status_of(poll.told(ticket)) == 200
    gevent.sleep(0.1)  # beyond agree_s
    assert poll.reference == 200
    assert spool is not None
    assert spool.failed  # nobody will read it


def test_a_307_counts_as_a_4xx(poll: Poll) -> None:
    ticket = poll.update()
    poll.answer("a", 307)
    assert poll.told(ticket) is None
    poll.answer("b", 303)
    assert status_of(poll.told(ticket)) == 303


def test_the_first_4xx_of_a_repeat_tells_nothing_about_the_first_time(poll: Poll) -> None:
    poll.speakers = {"a"}
    ticket = poll.update()
    poll.answer("a", 409, repeat=True)
    assert status_of(poll.told(ticket)) == 409
    assert poll.reference is None


def test_a_node_that_applied_what_became_a_4xx_is_told(poll: Poll) -> None:
    poll.speakers = {"a"}
    poll.update()
    poll.answer("c", 200)
    poll.answer("a", 409)
    assert poll.differing == [("c", 1, 200, 409)]


def test_telling_of_a_difference_may_make_the_board_look_again(poll: Poll) -> None:
    """A flag of a node changes, so the fleet rechecks all votes while one is just being settled."""

    def tell(*what: tuple[str, int, int, int]) -> None:
        poll.differing.append(what)  # type: ignore[arg-type]
        poll.board.recheck()

    poll.board._on_disagreement = tell  # type: ignore[assignment]
    poll.speakers = {"a"}
    ticket = poll.update()
    poll.answer("b", 200)
    poll.answer("c", 200)
    poll.answer("a", 500)
    assert status_of(poll.told(ticket)) == 500
    assert poll.differing == [("b", 1, 200, 500), ("c", 1, 200, 500)]
    assert poll.is_clean


# --- a server error


def test_a_5xx_first_and_a_good_answer_then(poll: Poll) -> None:
    ticket = poll.update()
    poll.answer("a", 500)
    assert poll.told(ticket) is None
    poll.answer("b", 200)
    assert status_of(poll.told(ticket)) == 200
    assert poll.reference == 200


def test_a_5xx_of_every_speaker_is_a_rejection(poll: Poll) -> None:
    ticket = poll.update()
    poll.answer("a", 500)
    poll.answer("b", 501)
    assert poll.told(ticket) is None
    poll.answer("c", 500)
    result = poll.told(ticket)
    assert status_of(result) == 500
    assert isinstance(result, Reference)
    assert result.rejected
    assert poll.reference == 500


def test_no_time_makes_a_5xx_the_reference(poll: Poll) -> None:
    ticket = poll.update()
    poll.answer("a", 500)
    gevent.sleep(0.1)
    assert poll.told(ticket) is None
    assert isinstance(poll.board.give_up(ticket), Accepted)
    poll.answer("b", 500)
    poll.answer("c", 500)
    assert poll.reference is None  # somebody was told 202: never rejected
    poll.answer("c", 200)
    assert poll.reference == 200


def test_a_speaker_that_leaves_may_make_the_rest_unanimous(poll: Poll) -> None:
    ticket = poll.update()
    poll.answer("a", 500)
    poll.answer("b", 500)
    poll.speakers = {"a", "b"}
    poll.board.recheck()
    assert status_of(poll.told(ticket)) == 500


def test_a_speaker_that_took_no_part_makes_the_rest_not_unanimous(poll: Poll) -> None:
    """An operator has taken the update out of its queue: perhaps since it was applied there already."""
    poll.past = {"c"}
    ticket = poll.update()
    poll.answer("a", 500)
    assert poll.told(ticket) is None
    poll.answer("b", 500)
    assert isinstance(poll.told(ticket), Accepted)
    assert poll.reference is None


def test_nobody_left_to_speak_is_not_unanimous(poll: Poll) -> None:
    """``b`` may be applying it while it fails its health check."""
    ticket = poll.update()
    poll.answer("a", 500)
    poll.speakers = set()
    poll.board.recheck()
    assert isinstance(poll.told(ticket), Accepted)
    assert poll.reference is None


def test_a_5xx_of_a_node_that_may_not_speak_rejects_nothing(poll: Poll) -> None:
    poll.speakers = {"a"}
    ticket = poll.update()
    poll.answer("b", 500)
    assert poll.told(ticket) is None
    poll.answer("a", 200)
    assert status_of(poll.told(ticket)) == 200


# --- no answer


def test_with_no_speaker_it_is_accepted_at_once(poll: Poll) -> None:
    poll.speakers = set()
    ticket = poll.update()
    assert poll.told(ticket) == Accepted(1)
    assert poll.is_clean
    poll.answer("b", 201)  # the first node to apply it makes the reference
    assert poll.reference == 201


def test_nobody_is_left_to_apply_it(poll: Poll) -> None:
    """All nodes went while its body came, or an operator has taken it out of every queue."""
    poll.speakers = poll.expected = set()
    ticket = poll.update()
    assert poll.told(ticket) == Removed(1)


def test_a_rejection_whose_answers_are_gone_is_none(poll: Poll) -> None:
    """A worker waits less long than the client of a large body: its answer is withdrawn, and given anew."""
    ticket = poll.update()
    assert poll.answer("a", 500) is not None
    assert poll.answer("b", 500) is None
    poll.board.withdraw("a", 1)
    assert poll.answer("a", 500) is not None  # there has to be one that can be passed on
    poll.board.withdraw("b", 1)
    poll.answer("b", 500)
    poll.answer("c", 500)
    assert status_of(poll.told(ticket)) == 500
    assert poll.reference == 500


def test_who_was_told_202_was_not_rejected(poll: Poll, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of the answers' bodies."""
    ticket = poll.update()
    for node in ("a", "b"):
        poll.answer(node, 500)
    for ballot in poll.board._votes[1].ballots.values():
        ballot.spool = None
    monkeypatch.setattr(poll.board, "_make_spool", lambda: None)
    poll.answer("c", 500)
    assert poll.told(ticket) == Accepted(1)
    assert poll.reference is None


def test_a_vote_changes_at_one_go(poll: Poll) -> None:
    """Also when an answer that nobody will read is on the disk, where closing it takes time."""
    poll.board.agree_s = 30.0
    ticket = poll.update()
    for node, status in (("a", 404), ("b", 500)):
        spool = poll.answer(node, status)
        assert spool is not None
        spool.write(b"x" * 200)
    leaving = gevent.spawn(poll.board.withdraw, "b", 1)
    gevent.sleep(0)
    poll.answer("c", 200)
    assert status_of(poll.told(ticket)) == 200
    leaving.join()
    until(lambda: poll.is_clean, "everything is given back")


def test_accepted_when_the_last_speaker_goes(poll: Poll) -> None:
    ticket = poll.update()
    poll.speakers = set()
    poll.board.recheck()
    assert poll.told(ticket) == Accepted(1)


def test_removed_when_no_node_is_left(poll: Poll) -> None:
    ticket = poll.update()
    poll.speakers = poll.expected = set()
    poll.board.recheck()
    assert poll.told(ticket) == Removed(1)


def test_accepted_when_the_time_is_over(poll: Poll) -> None:
    ticket = poll.update()
    assert ticket.wait(0.02, 0.0) is None
    assert poll.board.give_up(ticket) == Accepted(1)
    assert poll.is_clean


def test_an_answer_at_the_very_last_moment_is_not_lost(poll: Poll) -> None:
    ticket = poll.update()
    assert ticket.wait(0.0, 0.0) is None
    poll.answer("a", 200)
    assert status_of(poll.board.give_up(ticket)) == 200


def test_after_the_202_a_4xx_settles_as_well(poll: Poll) -> None:
    ticket = poll.update()
    poll.answer("a", 409)
    poll.board.give_up(ticket)
    gevent.sleep(0.1)
    assert poll.reference == 409
    assert poll.is_clean


def test_a_large_body_is_given_time_to_reach_a_node(poll: Poll, tmp_path: Path) -> None:
    path = os.path.join(poll.directory, "body")
    Path(path).write_bytes(b"x")
    ticket = Ticket()
    poll.journal.append(NewUpdate(b"PUT", b"/", b"", FileBody(path, 1)), ticket)
    assert ticket.wait(-1.0, 1.1) is None  # 0.1 s in all
    waiting = gevent.spawn(ticket.wait, 0.3, 60.0)
    gevent.sleep(0.05)
    assert not waiting.ready()
    poll.board.sent(1)
    waiting.join(3.0)
    assert waiting.ready()


# --- the workers' wait


def test_a_worker_learns_the_reference_as_soon_as_it_is_known(poll: Poll) -> None:
    poll.update()
    poll.answer("a", 500)
    waiting = gevent.spawn(poll.board.await_reference, "a", poll.entries[-1], 60.0)
    gevent.sleep(0)
    poll.answer("b", 200)
    waiting.join(2.0)
    assert waiting.value == 200


def test_a_worker_waits_no_longer_than_it_says(poll: Poll) -> None:
    poll.update()
    poll.answer("a", 500)
    assert poll.board.await_reference("a", poll.entries[-1], 0.02) is None


def test_a_worker_does_not_wait_where_nobody_else_could_decide(poll: Poll) -> None:
    poll.speakers = {"a"}
    ticket = poll.update()
    poll.board.give_up(ticket)
    poll.answer("a", 500)
    with gevent.Timeout(2.0):
        assert poll.board.await_reference("a", poll.entries[-1], 60.0) is None


def test_the_reference_is_known_to_whoever_read_the_entry_before(poll: Poll) -> None:
    poll.update()
    old = poll.entries[-1]
    poll.answer("a", 200)
    assert old.reference is None
    assert poll.board.reference_of(old) == 200


# --- nothing stays behind


def test_a_withdrawn_answer_no_longer_counts(poll: Poll) -> None:
    ticket = poll.update()
    spool = poll.answer("a", 500)
    poll.board.withdraw("a", 1)
    assert spool is not None
    until(lambda: spool.failed, "it is discarded")
    poll.answer("b", 500)
    poll.answer("c", 500)
    assert poll.told(ticket) is None
    poll.answer("a", 200)
    assert status_of(poll.told(ticket)) == 200


def test_votes_without_client_and_answers_are_closed(poll: Poll) -> None:
    ticket = poll.update()
    poll.board.give_up(ticket)
    assert poll.is_clean
    poll.answer("a", 500)
    assert not poll.is_clean
    poll.board.withdraw("a", 1)
    assert poll.is_clean


@pytest.mark.parametrize("statuses", [(401, 500, 200), (500, 500, 500), (404, 404, 404), (500, 404, 500), (200,)])
def test_every_spool_but_the_clients_is_given_back(poll: Poll, statuses: tuple[int, ...]) -> None:
    ticket = poll.update()
    for node, status in zip("abc", statuses, strict=False):
        spool = poll.answer(node, status)
        if spool is not None and not spool.failed:
            spool.write(b"x" * 100)  # a file
    result = poll.after_agree(ticket)
    assert isinstance(result, Reference)
    result.spool.discard()
    assert poll.budget.used_bytes == 0
    assert os.listdir(poll.directory) == []
    assert poll.is_clean


def test_a_journal_that_has_ended_keeps_nobody_waiting(poll: Poll) -> None:
    ticket = poll.update()
    poll.journal.stop(1.0)
    poll.board.offer("a", poll.entries[-1], head(200), False)
    assert status_of(poll.told(ticket)) == 200
