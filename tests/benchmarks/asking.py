"""What asking a node is worth, without a node: further answers to a question, and thinking that was written for an answer.

    python -m tests.benchmarks.asking

Further answers: of four models' solutions to a problem, one is the answer in the log and the other three are what a panel says,
in a random order. Written thinking: sound and faulty ones (tests/written_thinking.py) before the proofreader, who asks nobody.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ruminate.assessor.asking.opinions import Asked, Given, asked_of, counted, has_said_enough, wording_of
from ruminate.assessor.asking.proofreading import Standards, draft_of, faults_of
from ruminate.assessor.evidence.agreement import answer_key
from ruminate.assessor.finding.findings import Findings, find
from ruminate.assessor.judging.decide import untaught, weigh
from ruminate.assessor.judging.knowledge import Agreement, Knowledge
from ruminate.assessor.policy import Policy
from tests.planted_faults import Solution
from tests.solutions import Solved, area_under_curve, interaction, solutions
from tests.written_thinking import FAULTS, FURTHER, by_models, by_people, faulty, tacked_on

POLICY = Policy()
MODEL = "another"


@dataclass(frozen=True)
class Read:
    """A solution as the assessor reads it, and its score while nobody was asked."""

    solved: Solved
    asked: Asked | None
    given: Given
    found: Findings
    before: float

    def after(self, agreement: Agreement | None) -> float:
        """Its score in the light of other answers."""
        it = self.solved.interaction()
        value = weigh(it, self.found, Knowledge(agreement=agreement), POLICY, untaught(POLICY))[0].overall.value
        return 0.5 if value is None else value


def read(solved: Solved) -> Read:
    """Read a solution as an answer in the log, and as one that a panel gives."""
    it = solved.interaction()
    found = find(it, most_characters=POLICY.most_characters)
    value = weigh(it, found, Knowledge(), POLICY, untaught(POLICY))[0].overall.value
    given = Given(answer_key(found), wording_of(solved.answer, solved.thinking))
    return Read(solved, asked_of(it, found, model=MODEL), given, found, 0.5 if value is None else value)


def ask(one: Read, others: Sequence[Read], *, answers: int, ends_with: int) -> tuple[float, int]:
    """The score of a solution after a panel has said what the others say, and how many it was asked for.

    With `ends_with`, it ends as soon as one side has so many and can be outnumbered no more.
    """
    if one.asked is None:
        return one.before, 0
    given: list[Given] = []
    for other in others[:answers]:
        given.append(other.given)
        agreement = counted(one.asked, given, model=MODEL)
        if max(agreement) >= ends_with and abs(agreement.agreeing - agreement.disagreeing) > answers - len(given):
            break
    agreement = counted(one.asked, given, model=MODEL)
    return one.after(agreement if sum(agreement) else None), len(given)


def panels() -> Iterator[tuple[str, float, float, float]]:
    """Each way of asking: ROC AUC of all answers, and of those in doubt; answers asked for, an answer in the log."""
    ways = {
        "nobody is asked": (0, 9, False),
        "one other answer": (1, 9, False),
        "two": (2, 9, False),
        "three": (3, 9, False),
        "three, ending with two that cannot be outnumbered": (3, 2, False),
        "three, where the score is in doubt (0.2 to 0.8)": (3, 9, True),
    }
    everything = [read(solved) for solved in solutions()]
    for way, (answers, ends_with, only_in_doubt) in ways.items():
        rng, ranked, doubted, calls = random.Random(1), [], [], 0
        for at, one in enumerate(everything):
            first = at - at % 4
            others = [other for other in everything[first : first + 4] if other is not one]
            rng.shuffle(others)
            in_doubt = 0.2 <= one.before <= 0.8
            score, asked = one.before, 0
            if answers and (in_doubt or not only_in_doubt):
                score, asked = ask(one, others, answers=answers, ends_with=ends_with)
            calls += asked
            ranked.append((score, one.solved.right))
            if in_doubt:
                doubted.append((score, one.solved.right))
        yield way, area_under_curve(ranked), area_under_curve(doubted), calls / len(ranked)


def unanimous() -> float:
    """Share of the answers with which three others all agree, or all do not: where the fourth of four is not asked for."""
    everything, alike = [read(solved) for solved in solutions()], 0
    for at, one in enumerate(everything):
        first = at - at % 4
        others = [other.given for other in everything[first : first + 4] if other is not one]
        alike += one.asked is not None and has_said_enough(one.asked, others, model=MODEL, answers=4)
    return alike / len(everything)


def proofread(written: Iterable[Solution]) -> tuple[int, int, Counter[str]]:
    """How many there are, how many pass, and the faults of the others."""
    found, passed, faults = 0, 0, Counter[str]()
    for each in written:
        draft = draft_of(interaction(each.question, None, each.answer), each.thinking, POLICY)
        words = [fault.partition(":")[0] for fault in faults_of(draft, Standards())]
        found, passed = found + 1, passed + (not words)
        faults.update(words)
    return found, passed, faults


def main() -> None:
    """Print both tables."""
    print("| asked for | ROC AUC | of what is in doubt | calls an answer |\n|---|---|---|---|")
    for way, area, doubted, calls in panels():
        print(f"| {way} | {area:.3f} | {doubted:.3f} | {calls:.2f} |")
    print(f"\nof four answers, the last is not asked for at {unanimous():.0%}")
    print("\n| thinking | number | pass | most frequent faults |\n|---|---|---|---|")
    kinds = {"sound, by people": by_people(), "sound, by models": by_models()}
    kinds |= {kind: tuple(faulty(kind)) for kind in (*FAULTS, *FURTHER)} | {"tacked on to a wrong one": tacked_on()}
    began, total = time.process_time(), 0
    for kind, written in kinds.items():
        found, passed, faults = proofread(written)
        total += found
        often = ", ".join(f"{word} {times}" for word, times in faults.most_common(3))
        print(f"| {kind} | {found:,} | {passed / found:.1%} | {often} |")
    print(f"\n{(time.process_time() - began) / total * 1e3:.2f} ms of a core each")


if __name__ == "__main__":
    main()
