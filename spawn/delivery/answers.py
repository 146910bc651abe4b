"""The reference answer of every update: what its client is told, and what other nodes are compared with.

Each update in the open has a *vote*. Workers offer the heads of the final answers they get; the vote settles

* at once on a good answer (2xx, 301–303) of a node that may speak: one that serves, is not held and not diverged;
* on a 4xx when every such node has answered, or ``agree_s`` after it came with nothing better;
* on a 5xx only when every such node has answered so, and no client was told 202: the update is then *rejected*;
* on nothing when those who are there turn away who sent it (401, 403, 407), it was accepted, and others are away: it is
  *left open*, for it may be an expired credential, and the first node that applies it makes the reference.

A client that nobody answers in time, or whom nobody can answer now, gets a 202 and the vote goes on without it: then
the first clean node that applies the update makes the reference. Nodes that may not speak (they catch up, are held or
diverged) turn it down for all, and held or diverged ones speak at all, only when no speaker has still to answer.

The board also remembers when a node last answered anything as a working application does. Everything runs on the hub
and nothing here blocks, except ``Ticket.wait`` and ``await_reference``, which are waits with a deadline.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import gevent
from gevent.event import Event

from spawn.delivery.policy import NOT_DONE_BEFORE, AnswerClass, classify, is_good
from spawn.errors import JournalError
from spawn.http11.message import ResponseHead
from spawn.http11.spool import Spool
from spawn.journal.base import Entry, FileBody, Journal
from spawn.latch import Latch

NOT_LET_IN = frozenset({401, 403, 407})  # may be an expired credential of one node, which says nothing of the update
RECENT_REFERENCES = 65_536  # so that only a worker that held an entry for long has to ask the journal


@dataclass(frozen=True, slots=True)
class Reference:
    """A node's answer that is the client's too; the receiver discards the spool."""

    sequence: int
    head: ResponseHead
    spool: Spool

    @property
    def rejected(self) -> bool:
        return self.head.status >= 500


@dataclass(frozen=True, slots=True)
class Accepted:
    """No node has given an answer that counts yet; the update will be applied."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Removed:
    """No node is left that could answer."""

    sequence: int


Result = Reference | Accepted | Removed


class Ticket:
    """A client's place: made before the update is appended, so that no answer can come before somebody waits."""

    def __init__(self) -> None:
        self.sequence = 0
        self.gone = False  # nobody waits any more: set while the update was still on its way into the journal
        self._resolved = Latch()
        self._result: Result | None = None
        self._published_at = 0.0
        self._first_sent_at: float | None = None
        self._large = False

    def opened(self, entry: Entry) -> None:
        self.sequence = entry.sequence
        self._published_at = time.monotonic()
        self._large = isinstance(entry.body, FileBody)

    def sent(self) -> None:
        """A node has the whole request."""
        if self._first_sent_at is None:
            self._first_sent_at = time.monotonic()

    def resolve(self, result: Result) -> None:
        self._result = result
        self._resolved.open()

    def wait(self, answer_s: float, transfer_s: float) -> Result | None:
        """The result, or None when time ran out.

        Time is ``answer_s`` after the append. A large body is given ``transfer_s`` more to reach a first node.
        """
        while self._result is None:
            remaining_s = self._deadline(answer_s, transfer_s) - time.monotonic()
            if remaining_s <= 0:
                break
            self._resolved.wait(min(remaining_s, 1.0) if self._large else remaining_s)
        return self._result

    def _deadline(self, answer_s: float, transfer_s: float) -> float:
        if not self._large:
            return self._published_at + answer_s
        if self._first_sent_at is None:
            return self._published_at + transfer_s + answer_s
        return self._first_sent_at + answer_s


@dataclass(slots=True)
class _Ballot:
    """One node's answer."""

    status: int
    speaks: bool  # came from a node that may speak, or nobody could
    clean: bool  # came from a node that is neither held nor diverged
    weak: bool  # a 4xx to a repeat tells nothing about the first time
    head: ResponseHead
    spool: Spool | None

    @property
    def went_on(self) -> bool:
        """Whether its worker goes on whatever the others say, and so will not withdraw it."""
        return self.weak or is_good(self.status)


class _Vote:
    __slots__ = ("accepted", "agree_timer", "ballots", "reference", "sequence", "settled", "ticket")

    def __init__(self, sequence: int, ticket: Ticket | None) -> None:
        self.sequence = sequence
        self.ticket = ticket
        self.accepted = ticket is None  # somebody was told 202, or nobody was told anything: never rejected
        self.ballots: dict[str, _Ballot] = {}
        self.reference: int | None = None
        self.settled = Event()
        self.agree_timer: gevent.Greenlet[..., None] | None = None

    def spoken(self, kind: AnswerClass) -> _Ballot | None:
        """The first ballot of a class from a node that may speak; one whose body can be passed on, if there is one."""
        ballots = [each for each in self.ballots.values() if each.speaks and classify(each.status) is kind]
        return next((each for each in ballots if each.spool is not None), ballots[0] if ballots else None)

    def first(self, kind: AnswerClass, awaited: bool) -> _Ballot | None:
        """The first ballot of a class that counts; ``awaited``: a node that may speak has still to answer."""
        spoken = self.spoken(kind)
        if spoken is not None or not self.accepted:
            return spoken
        for ballot in self.ballots.values():
            if classify(ballot.status) is kind and (not awaited or (kind is AnswerClass.GOOD and ballot.clean)):
                return ballot
        return None


class ReferenceBoard:
    """All votes in the open. Bounded: a vote lives while a client waits or a worker has an answer to it in hand."""

    def __init__(
        self,
        journal: Journal,
        speakers: Callable[[], Collection[str]],
        make_spool: Callable[[], Spool],
        on_disagreement: Callable[[str, int, int, int], None],
        on_settled: Callable[[int, int], None] = lambda sequence, status: None,
        suspects: Callable[[], Collection[str]] = tuple,
        speakers_before: Callable[[int], Collection[str]] | None = None,
        present_before: Callable[[int], Collection[str]] = lambda sequence: (),
        expected_before: Callable[[int], Collection[str]] | None = None,
    ) -> None:
        """``suspects`` are held or diverged. Those that have still to get an update, by its sequence: the speakers
        among them, those that are there, and all that are to apply it.
        """
        self.agree_s = 1.0
        self._journal = journal
        self._speakers = speakers
        self._make_spool = make_spool
        self._on_disagreement = on_disagreement
        self._on_settled = on_settled
        self._suspects = suspects
        self._present_before = present_before
        self._speakers_before = speakers_before or (lambda sequence: self._speakers())
        self._expected_before = expected_before or self._speakers_before
        self.heard_s = -math.inf  # monotonic time at which a node last answered anything with success or a 4xx
        self._votes: dict[int, _Vote] = {}
        self._recent: dict[int, int] = {}
        self._left_open: dict[int, None] = {}
        self.forgotten = 0  # references up to this sequence may have to be looked up in the journal

    # -- the client's side

    def open(self, entry: Entry, ticket: Ticket) -> None:
        """Publication of an update that a client waits for."""
        if ticket.gone:
            return
        ticket.opened(entry)
        vote = self._votes[entry.sequence] = _Vote(entry.sequence, ticket)
        if not self._speakers():
            self._nobody_answers(vote)

    def give_up(self, ticket: Ticket) -> Result:
        """The client's time is over: it gets its 202, unless an answer has come this very moment."""
        vote = self._votes.get(ticket.sequence)
        if vote is not None and vote.ticket is ticket:
            self._accept(vote)
        return ticket.wait(0.0, 0.0) or Accepted(ticket.sequence)

    def recheck(self) -> None:
        """The set of nodes or a state has changed: some votes may be decided by that."""
        speakers = self._speakers()
        for vote in list(self._votes.values()):
            self._evaluate(vote)
            if vote.ticket is not None and not speakers:
                self._nobody_answers(vote)

    def look_again(self, sequence: int) -> None:
        """A node that could have answered will not: the vote may be decided by that."""
        vote = self._votes.get(sequence)
        if vote is not None:
            self._evaluate(vote)

    # -- the workers' side

    def reference_of(self, entry: Entry) -> int | None:
        return self._recent.get(entry.sequence, entry.reference)

    def sent(self, sequence: int) -> None:
        vote = self._votes.get(sequence)
        if vote is not None and vote.ticket is not None:
            vote.ticket.sent()

    def heard(self, status: int) -> None:
        """A node has answered an update or a read."""
        if status < 400 or classify(status) in (AnswerClass.GOOD, AnswerClass.CLIENT):
            self.heard_s = time.monotonic()

    def offer(self, node_id: str, entry: Entry, head: ResponseHead, repeat: bool) -> Spool | None:
        """A final answer's head. Returns the spool for its body when a client may want it."""
        self.heard(head.status)
        sequence = entry.sequence
        if self.reference_of(entry) is not None:
            return None
        vote = self._votes.get(sequence)
        if vote is None:
            vote = self._votes[sequence] = _Vote(sequence, None)
        kind = classify(head.status)
        speakers = self._speakers()
        speaks = not speakers or node_id in speakers
        first = vote.spoken(kind)
        wanted = vote.ticket is not None and speaks and (first is None or first.spool is None)
        spool = self._make_spool() if wanted else None
        weak = repeat and kind is AnswerClass.CLIENT and head.status not in NOT_DONE_BEFORE
        vote.ballots[node_id] = _Ballot(head.status, speaks, node_id not in self._suspects(), weak, head, spool)
        self._evaluate(vote)
        return spool

    def await_reference(self, node_id: str, entry: Entry, timeout_s: float) -> int | None:
        """The reference's status; None when there is none within ``timeout_s``, or nobody else could make one."""
        vote = self._votes.get(entry.sequence)
        if vote is not None and (
            vote.ticket is not None or vote.agree_timer is not None or self._others_speak(vote, node_id)
        ):
            vote.settled.wait(timeout_s)
        return self.reference_of(entry)

    def is_left_open(self, sequence: int) -> bool:
        """Whether those who turn it away are to go on without the update, which others may yet apply."""
        return sequence in self._left_open

    def withdraw(self, node_id: str, sequence: int) -> None:
        """The worker turns away from its answer (it will try again): the ballot no longer counts."""
        vote = self._votes.get(sequence)
        if vote is None:
            return
        ballot = vote.ballots.pop(node_id, None)
        if ballot is not None:
            _discard(ballot)
        self._let_go(vote)

    # -- deciding

    def _awaited(self, vote: _Vote) -> bool:
        """Whether a node that may speak has still to answer."""
        return any(node_id not in vote.ballots for node_id in self._speakers_before(vote.sequence))

    def _let_go(self, vote: _Vote) -> None:
        """Forget answers that decide nothing and whose workers have gone on, and the vote when none is left."""
        if vote.ticket is not None or vote.agree_timer is not None:
            return
        for node_id in [node_id for node_id, ballot in vote.ballots.items() if ballot.went_on]:
            _discard(vote.ballots.pop(node_id))
        if not vote.ballots:
            self._close(vote)

    def _others_speak(self, vote: _Vote, node_id: str) -> bool:
        return any(other != node_id for other in self._speakers_before(vote.sequence))

    def _evaluate(self, vote: _Vote) -> None:
        if self._votes.get(vote.sequence) is not vote:
            return  # closed meanwhile
        good = vote.spoken(AnswerClass.GOOD)  # which settles nearly every vote, so nothing else is asked before
        awaited = good is None and self._awaited(vote)
        good = good or vote.first(AnswerClass.GOOD, awaited)
        if good is not None:
            self._settle(vote, good)
            return
        client = self._turned_down(vote, awaited)
        speakers = self._speakers()
        # While nobody may speak, all are waited for: one lost session must not speak for everybody.
        if not (awaited if speakers else self._expected(vote)):
            server = vote.first(AnswerClass.SERVER, awaited)
            if client is not None:
                self._turn_down(vote, client)
                return
            # Without speakers it is accepted, not rejected; so it is where one of them did not take part, or where
            # there is no answer left that its client could be given.
            if server is not None and speakers and not vote.accepted and vote.ballots.keys() >= set(speakers):
                if vote.ticket is None or server.spool is not None:
                    self._settle(vote, server)
                else:
                    self._accept(vote)
                return
            if vote.ticket is not None and speakers:
                self._nobody_answers(vote)
                return
        elif client is not None and vote.agree_timer is None:
            vote.agree_timer = gevent.spawn_later(self.agree_s, self._agree, vote)
        self._let_go(vote)

    def _turned_down(self, vote: _Vote, awaited: bool) -> _Ballot | None:
        """The 4xx that counts. Where nobody may speak, one that says who may come in waits for all who are there."""
        client = vote.first(AnswerClass.CLIENT, awaited)
        if client is None or client.status not in NOT_LET_IN or self._speakers():
            return client
        return client if vote.ballots.keys() >= set(self._present_before(vote.sequence)) else None

    def _agree(self, vote: _Vote) -> None:
        """Nothing better than a 4xx has come in time."""
        vote.agree_timer = None
        client = self._turned_down(vote, self._awaited(vote))
        if client is not None and vote.reference is None:
            self._turn_down(vote, client)
        else:
            self._let_go(vote)

    def _expected(self, vote: _Vote) -> bool:
        """Whether any node at all has still to answer."""
        return any(node_id not in vote.ballots for node_id in self._expected_before(vote.sequence))

    def _turn_down(self, vote: _Vote, client: _Ballot) -> None:
        """By a 4xx. What was accepted is not turned down by strangers' answers alone while somebody is away."""
        others_away = vote.accepted and not self._speakers() and self._expected(vote)
        if client.status in NOT_LET_IN and (others_away or vote.sequence in self._left_open):
            self._leave_open(vote)
        else:
            self._settle(vote, client)

    def _leave_open(self, vote: _Vote) -> None:
        """No reference yet: the workers that wait go on without the update, and their nodes stay flagged."""
        self._left_open[vote.sequence] = None
        if len(self._left_open) > RECENT_REFERENCES:
            del self._left_open[next(iter(self._left_open))]
        vote.settled.set()

    def _nobody_answers(self, vote: _Vote) -> None:
        """No speaker is left that would; somebody else may apply it later, or nobody will."""
        if vote.ballots or self._expected_before(vote.sequence):
            self._accept(vote)
        else:
            self._resolve(vote, Removed(vote.sequence))
            self._let_go(vote)

    def _settle(self, vote: _Vote, chosen: _Ballot) -> None:
        if not chosen.weak:
            vote.reference = chosen.status
            self._remember(vote.sequence, chosen.status)
            with contextlib.suppress(JournalError):  # it has ended or failed; whoever waits is told all the same
                self._journal.settle(vote.sequence, chosen.status)
        if vote.ticket is not None and chosen.spool is not None:
            spool, chosen.spool = chosen.spool, None
            self._resolve(vote, Reference(vote.sequence, chosen.head, spool))
        else:
            self._resolve(vote, Accepted(vote.sequence))
        self._close(vote)
        if not chosen.weak:
            self._compare_earlier(vote, chosen)  # last: it makes others look at all votes again
            self._on_settled(vote.sequence, chosen.status)

    def _compare_earlier(self, vote: _Vote, chosen: _Ballot) -> None:
        """Nodes that may not speak went on after a good answer; now it is known whether it was the right one."""
        if is_good(chosen.status):
            return
        for node_id, ballot in vote.ballots.items():
            if is_good(ballot.status):
                self._on_disagreement(node_id, vote.sequence, ballot.status, chosen.status)

    def _remember(self, sequence: int, status: int) -> None:
        self._recent[sequence] = status
        if len(self._recent) > RECENT_REFERENCES:
            oldest = next(iter(self._recent))
            del self._recent[oldest]
            self.forgotten = max(self.forgotten, oldest)

    def _accept(self, vote: _Vote) -> None:
        vote.accepted = True
        self._resolve(vote, Accepted(vote.sequence))
        if vote.ballots:
            self._evaluate(vote)
        else:
            self._close(vote)

    def _resolve(self, vote: _Vote, result: Result) -> None:
        ticket, vote.ticket = vote.ticket, None
        if ticket is not None:
            ticket.resolve(result)

    def _close(self, vote: _Vote) -> None:
        if self._votes.get(vote.sequence) is vote:
            del self._votes[vote.sequence]
        if vote.agree_timer is not None:
            vote.agree_timer.kill(block=False)
            vote.agree_timer = None
        for ballot in vote.ballots.values():
            _discard(ballot)
        vote.settled.set()


def _discard(ballot: _Ballot) -> None:
    """Nobody will read this answer's body. Closing its file may take time, and a vote is changed at one go."""
    if ballot.spool is not None:
        gevent.spawn(ballot.spool.discard)
        ballot.spool = None
