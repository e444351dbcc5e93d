"""Assessor: was the thinking in this interaction good enough to learn from?

    interaction-recorded-v1  ->  assess           ->  reasoning-assessed-v1
    answer-noted-v1          ->  compare          ->  evidence-recorded-v1
    evidence-recorded-v1     ->  look up, assess  ->  reasoning-assessed-v1, a later revision
    lesson-noted-v1          ->  learn            ->  scorer-taught-v1

What `erasure-requested-v1` covers is judged no more.

Where a critic, a panel or a writer is named, it is offered what is in doubt or lacks thinking, and tells evidence of its own.

At least once. A redelivered interaction yields the same event id; readers keep the first.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial

from ruminate.assessor.asking.critic import Critic
from ruminate.assessor.asking.panel import Panel
from ruminate.assessor.asking.writer import Writer
from ruminate.assessor.evidence.casebook import Casebook
from ruminate.assessor.evidence.comparing import Comparing
from ruminate.assessor.handle import Scorer, assess_one
from ruminate.assessor.learning.classroom import Classroom
from ruminate.assessor.learning.scorers import Scorers
from ruminate.assessor.metrics import count_check
from ruminate.assessor.reassess import erase_evidence, reassess
from ruminate.assessor.settings import AssessorSettings
from ruminate.grading.checking.checker import Checker
from ruminate.grading.checking.mathematician import Mathematician
from ruminate.schemas.erasure import Erasures
from ruminate.schemas.flow import ANSWER_NOTED, ERASURE_REQUESTED, EVIDENCE_RECORDED, INTERACTION_RECORDED, LESSON_NOTED
from ruminate.shared.following import Following
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.operations import serve_operations
from ruminate.shared.service import Buses, run, stop_on_signals


async def main(settings: AssessorSettings) -> None:
    """Open what we need, in order; close it in reverse, whatever happens."""
    async with AsyncExitStack() as resources:
        enter = resources.enter_async_context
        bus = await enter(KafkaBus(settings, reader="assessor"))
        answers_bus = await enter(KafkaBus(settings, reader="assessor-answers"))
        evidence_bus = await enter(KafkaBus(settings, reader="assessor-evidence"))
        lessons_bus = await enter(KafkaBus(settings, reader="assessor-lessons"))
        buses = Buses(bus, answers_bus, evidence_bus, lessons_bus)
        host, port = settings.operations_host, settings.operations_port
        await enter(serve_operations(host=host, port=port, ready=buses.readiness, turned_at=buses.turned_at))
        stop_on_signals(buses.stop)
        policy = settings.assessment
        effective_after = timedelta(seconds=settings.scorer_effective_after_seconds)
        scorers = await enter(Scorers(lessons_bus, policy.weights, pins=settings.scorer_pins, effective_after=effective_after))
        equal = resources.enter_context(Mathematician())
        checks = resources.enter_context(Checker(policy.code_limits, on_checked=count_check))
        scorer = Scorer(policy, policy.version, scorers.combiner_of, equal, checks, compares=settings.compare_answers)
        critic = await enter(Critic(bus, settings.critic)) if settings.critic is not None else None
        panel = await enter(Panel(bus, settings.panel)) if settings.panel is not None else None
        plan, checked = settings.writer, scorer.checked
        writer = await enter(Writer(bus, plan, policy, checked=checked, equal=equal)) if plan is not None else None
        casebook = await enter(Casebook(evidence_bus, settings.evidence_window))
        comparing = Comparing(answers_bus, most_answers=settings.compared_answers)
        every = settings.scorer_snapshot_every
        classroom = Classroom(lessons_bus, policy.weights, snapshot_every=every, effective_after=effective_after)
        erasures = Erasures()
        following = await enter(Following(bus, ERASURE_REQUESTED, lambda told: erasures.take(told.envelope.id, told.payload)))
        offering = partial(assess_one, scorer=scorer, critic=critic, panel=panel, writer=writer)
        erase = partial(erase_evidence, bus=evidence_bus)
        weighing = partial(reassess, casebook=casebook, scorer=scorer, panel=panel, writer=writer, erase=erase)
        first, again = (following.before(partial(handle, erasures=erasures)) for handle in (offering, weighing))
        await buses.serve(
            bus.serve(INTERACTION_RECORDED, first, concurrency=64),
            answers_bus.serve(ANSWER_NOTED, comparing.compare, concurrency=8, on_revoked=comparing.forget),
            evidence_bus.serve(EVIDENCE_RECORDED, again, concurrency=16, on_assigned=casebook.open, on_revoked=casebook.forget),
            lessons_bus.serve(LESSON_NOTED, classroom.learn, concurrency=8, on_revoked=classroom.forget),
        )


if __name__ == "__main__":
    run("assessor", AssessorSettings, main)
