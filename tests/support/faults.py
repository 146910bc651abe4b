"""The kill loop's plan: which faults follow each other, all drawn from one seed. Pure.

A plan is a list of steps, and each step ends one process of Spawn, nearly always by SIGKILL, at a moment that matters:

* ``RANDOM``: at some moment under load;
* ``APPEND``: right after the journal has committed something;
* ``RECOVERY``: during the start that follows the kill before, likely before it is ready;
* ``CATCH_UP``: while a node that has just come back works off its backlog;
* ``STOP``: during a clean stop, some milliseconds after SIGTERM;
* ``CLEAN``: not a kill: a clean stop to its end, after which nothing may be repeated.

Around it the nodes are killed, paused (SIGSTOP) and put in maintenance, and brought back, now while Spawn works and now
while it is dead. The same seed gives the same plan; how the processes interleave is the kernel's business.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass

LEAST_KILLS = 8  # fewer would leave out a moment


class Moment(enum.Enum):
    RANDOM = "at random"
    APPEND = "after an append"
    RECOVERY = "during recovery"
    CATCH_UP = "during catch-up"
    STOP = "during a clean stop"
    CLEAN = "clean stop"


class Verb(enum.Enum):
    KILL = "killed"
    START = "started"
    PAUSE = "paused"
    RESUME = "resumed"
    REST = "in maintenance"
    RETURN = "out of maintenance"


FAULTS = {Verb.KILL: Verb.START, Verb.PAUSE: Verb.RESUME, Verb.REST: Verb.RETURN}  # and what ends each
NEEDS_SPAWN = frozenset({Verb.REST, Verb.RETURN})  # done by API
_SHARES = {Moment.RANDOM: 5, Moment.APPEND: 5, Moment.RECOVERY: 4, Moment.CATCH_UP: 3, Moment.STOP: 3}


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that happens to one node, after a wait."""

    node: int
    verb: Verb
    after_s: float


@dataclass(frozen=True, slots=True)
class Step:
    moment: Moment
    deeds: tuple[Deed, ...]  # while Spawn serves
    linger_s: float  # then
    aim: float  # where in the moment, 0 to 1
    gap_deeds: tuple[Deed, ...]  # while Spawn is dead
    look: bool  # check meanwhile that the nodes' histories are prefixes of one order

    def __str__(self) -> str:
        deeds = [f"node{deed.node + 1} {deed.verb.value}" for deed in (*self.deeds, *self.gap_deeds)]
        return f"{self.moment.value}{'; ' if deeds else ''}{', '.join(deeds)}"


@dataclass(frozen=True, slots=True)
class Plan:
    """``deliver_s`` is for Spawn's settings: mostly so short that pauses outlast it."""

    seed: int
    kills: int
    deliver_s: float
    steps: tuple[Step, ...]
    last_deeds: tuple[Deed, ...]  # bring everybody back


def make_plan(seed: int, kills: int = 20, nodes: int = 3) -> Plan:
    """``kills`` steps that kill Spawn, and a clean stop for every ten of them."""
    assert kills >= LEAST_KILLS, f"a plan has at least {LEAST_KILLS} kills"
    return _Planner(seed, nodes).plan(kills)


class _Planner:
    def __init__(self, seed: int, nodes: int) -> None:
        self._seed = seed
        self._random = random.Random(seed)
        self._trouble: dict[int, Verb | None] = dict.fromkeys(range(nodes))  # the fault that each node has

    def plan(self, kills: int) -> Plan:
        deliver_s = self._random.choice((2.0, 2.0, 2.0, 30.0))
        steps = tuple(self._step(moment) for moment in self._moments(kills))
        last = [Deed(node, FAULTS[fault], 0.0) for node, fault in self._trouble.items() if fault]
        return Plan(self._seed, kills, deliver_s, steps, tuple(last))

    def _moments(self, kills: int) -> list[Moment]:
        moments = list(_SHARES)
        moments += self._random.choices(list(_SHARES), list(_SHARES.values()), k=kills - len(moments))
        moments += [Moment.CLEAN] * max(kills // 10, 1)
        self._random.shuffle(moments)
        first = next(n for n, moment in enumerate(moments) if moment is not Moment.RECOVERY)
        moments[0], moments[first] = moments[first], moments[0]  # at first there is nothing to recover from
        return moments

    def _step(self, moment: Moment) -> Step:
        draw = self._random
        deeds: list[Deed] = []
        if moment is not Moment.RECOVERY:
            deeds = [deed for node in self._shuffled() if (deed := self._deed(node, draw.uniform(0.0, 0.25)))]
        if moment is Moment.CATCH_UP:
            deeds += self._comeback(deeds)
        linger_s = draw.uniform(0.05, 0.6)
        aim = draw.random()
        gap = [deed for node in self._shuffled() if (deed := self._deed(node, 0.0, without_spawn=True))]
        return Step(moment, tuple(deeds), linger_s, aim, tuple(gap), look=draw.random() < 0.3)

    def _shuffled(self) -> list[int]:
        return self._random.sample(list(self._trouble), len(self._trouble))

    def _deed(self, node: int, after_s: float, *, without_spawn: bool = False) -> Deed | None:
        """A fault begins or ends, or nothing happens. While Spawn is dead half as much does."""
        draw, fault = self._random, self._trouble[node]
        odds = (0.3 if fault is None else 0.5) * (0.5 if without_spawn else 1.0)
        verb = draw.choices(list(FAULTS), (4, 4, 3))[0] if fault is None else FAULTS[fault]
        if draw.random() >= odds or (without_spawn and verb in NEEDS_SPAWN):
            return None
        return self._do(node, verb, after_s)

    def _do(self, node: int, verb: Verb, after_s: float) -> Deed:
        self._trouble[node] = verb if verb in FAULTS else None
        return Deed(node, verb, after_s)

    def _comeback(self, before: list[Deed]) -> list[Deed]:
        """The last deed of a step that is to meet a node catching up: one comes back."""
        troubled = [node for node, fault in self._trouble.items() if fault]
        if troubled:
            node = self._random.choice(troubled)
            fault = self._trouble[node]
            assert fault is not None
            return [self._do(node, FAULTS[fault], 0.4)]
        node = self._random.randrange(len(self._trouble))
        return [self._do(node, Verb.KILL, 0.0), self._do(node, Verb.START, 0.8)]
