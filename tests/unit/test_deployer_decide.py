"""What the deployer decides, on nodes that are dictionaries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.deployer.decide import (
    Act,
    Action,
    AskProbe,
    CreateModel,
    DeleteModel,
    Fail,
    Failure,
    Held,
    InvalidName,
    Mode,
    Outcome,
    Plan,
    PointAlias,
    Recipe,
    Register,
    RollBack,
    SitExam,
    UploadBlob,
    View,
    Wait,
    alias_name,
    choose_weights,
    clear,
    decide,
    judge,
    judge_answer,
    listed_name,
    restore,
    serving,
    to_retire,
    version_name,
)
from ruminate.schemas.model import ModelRegistered, ModelRolledBack, Probe, ServedExam
from ruminate.schemas.payload import ArtifactReference
from ruminate.schemas.training import AdapterTrained, GgufFile

NOW = datetime(2026, 1, 31, tzinfo=UTC)
GGUF = "a" * 64
BASE, PARENT, MODEL, ALIAS = "qwen3:8b", "qwen3:8b-ruminate-v2", "qwen3:8b-ruminate-v3", "qwen3:8b-ruminate"
RECIPE = Recipe(gguf_sha256=GGUF, template="{{ .Think }}", system="", parameters={"temperature": 0.6})
ALL = frozenset({"completion", "tools", "thinking"})


def held(
    weights: str, template: str = RECIPE.template, *, capabilities: frozenset[str] = ALL, salt: str = "", folder: str = ""
) -> Held:
    contents = hashlib.sha256(f"{weights} {template} {salt}".encode()).hexdigest()
    return Held(
        digest=f"{folder} {contents}", contents=contents, weights_sha256=weights, template=template, capabilities=capabilities
    )


def plan(*nodes: str, serving_model: str | None = PARENT, minimum_nodes_ratio: float = 1.0, examined: bool = False) -> Plan:
    return Plan(
        model=MODEL,
        alias=ALIAS,
        base=BASE,
        serving_model=serving_model,
        recipe=RECIPE,
        required_capabilities=ALL,
        nodes=nodes or ("a", "b"),
        minimum_nodes_ratio=minimum_nodes_ratio,
        examined=examined,
    )


def served(node: str, engine_version: str, *, kept: bool) -> ServedExam:
    return ServedExam(
        node=node,
        engine_version=engine_version,
        encoding="f16",
        questions=1,
        kept=kept,
        because="" if kept else "all of it",
        findings=(),
        seconds=1.0,
    )


@dataclass
class Node:
    """A node in memory. `refuses` are kinds of action that it answers with an error, `ignores` those that it only says it
    did, `disobeys` are the modes in which its models answer wrongly, and one that `forgets` does not serve what was proven."""

    models: dict[str, Held] = field(
        default_factory=lambda: {BASE: held("b" * 64, "base"), PARENT: held("c" * 64), ALIAS: held("c" * 64)}
    )
    blobs: set[str] = field(default_factory=set)
    refuses: frozenset[type] = frozenset()
    ignores: frozenset[type] = frozenset()
    disobeys: frozenset[Mode] = frozenset()
    forgets: bool = False
    capabilities: frozenset[str] = ALL
    salt: str = ""
    folder: str = ""
    engine_version: str = "0.34.0"

    def view(self) -> View:
        return View(engine_version=self.engine_version, held=dict(self.models), has_blob=GGUF in self.blobs)

    def apply(self, name: str, action: Action) -> Outcome:
        if type(action) in self.refuses:
            return Outcome(node=name, action=action, refusal="no")
        if type(action) in self.ignores:
            return Outcome(node=name, action=action)
        match action:
            case UploadBlob(sha256):
                self.blobs.add(sha256)
            case CreateModel(model, recipe):
                assert recipe.gguf_sha256 in self.blobs
                self.models[model] = held(
                    recipe.gguf_sha256, recipe.template, capabilities=self.capabilities, salt=self.salt, folder=self.folder
                )
            case PointAlias(source, alias):
                self.models[alias] = self.models[source]
            case DeleteModel(model):
                self.models.pop(model, None)
            case AskProbe(model, mode, after):
                assert model in self.models
                assert after is None or after in self.models
                passed = mode not in self.disobeys
                return Outcome(
                    node=name,
                    action=action,
                    probe=Probe(node=name, mode=mode, parent_loaded=after is not None, passed=passed, detail=""),
                )
            case SitExam(model):
                assert model in self.models
                return Outcome(node=name, action=action, served=served(name, self.engine_version, kept=not self.forgets))
        return Outcome(node=name, action=action)


class Killed(Exception):
    """The deployer ended in the middle."""


def run(wanted: Plan, nodes: Mapping[str, Node], *, actions: int = 10_000) -> tuple[Register | RollBack | Wait, list[Outcome]]:
    """A whole run, killed after so many actions. A kill loses what the run remembered, not what nodes hold."""
    outcomes: list[Outcome] = []
    failure: Failure | None = None
    for _ in range(40):
        step = decide(wanted, {name: node.view() for name, node in nodes.items()}, outcomes, failure)
        if isinstance(step, Fail):
            failure = step.failure
        elif isinstance(step, Act):
            for name, todo in step.actions.items():
                for action in todo:
                    if actions == 0:
                        raise Killed
                    actions -= 1
                    outcomes.append(nodes[name].apply(name, action))
                    if outcomes[-1].refusal is not None:
                        break
        else:
            return step, outcomes
    raise AssertionError("the run did not end")


def actions_of(outcomes: Sequence[Outcome], node: str) -> list[type]:
    return [type(outcome.action) for outcome in outcomes if outcome.node == node]


def test_a_fresh_node_is_given_the_blob_the_model_four_probes_and_the_alias_in_this_order() -> None:
    nodes = {"a": Node(), "b": Node()}
    end, outcomes = run(plan(), nodes)
    assert isinstance(end, Register)
    assert actions_of(outcomes, "a") == [UploadBlob, CreateModel, *[AskProbe] * 4, PointAlias]
    assert [(o.action.mode, o.action.after) for o in outcomes if o.node == "a" and isinstance(o.action, AskProbe)] == [
        ("thinking", None),
        ("direct", None),
        ("thinking", PARENT),
        ("direct", PARENT),
    ]
    assert len(end.probes) == 8
    assert end.digests["a"] == end.digests["b"] == nodes["a"].models[ALIAS].digest


def test_one_node_of_each_engine_version_sits_the_exam_before_any_alias_moves() -> None:
    nodes = {"a": Node(), "b": Node(), "c": Node(engine_version="0.24.0")}
    end, outcomes = run(plan(*nodes, examined=True), nodes)
    assert isinstance(end, Register)
    assert [exam.node for exam in end.served] == ["a", "c"]
    kinds = [type(outcome.action) for outcome in outcomes]
    assert max(at for at, kind in enumerate(kinds) if kind is AskProbe) < kinds.index(SitExam)
    assert max(at for at, kind in enumerate(kinds) if kind is SitExam) < kinds.index(PointAlias)


def test_what_one_node_does_not_serve_as_it_was_proven_serves_nowhere() -> None:
    nodes = {"a": Node(), "c": Node(engine_version="0.24.0", forgets=True)}
    end, _ = run(plan(*nodes, examined=True), nodes)
    assert isinstance(end, RollBack)
    assert (end.failure.stage, end.failure.reason) == ("probe", "c does not serve what was trained: all of it")
    assert all(MODEL not in node.models for node in nodes.values())


def test_no_alias_moves_before_every_node_has_passed_its_probes() -> None:
    nodes = {"a": Node(), "b": Node()}
    _, outcomes = run(plan(), nodes)
    kinds = [type(outcome.action) for outcome in outcomes]
    assert kinds.index(PointAlias) > max(index for index, kind in enumerate(kinds) if kind is AskProbe)


def test_a_blob_that_lies_on_a_node_is_not_sent_again() -> None:
    nodes = {"a": Node(blobs={GGUF}), "b": Node()}
    _, outcomes = run(plan(), nodes)
    assert UploadBlob not in actions_of(outcomes, "a")
    assert UploadBlob in actions_of(outcomes, "b")


def test_without_a_version_that_serves_the_base_is_the_parent_and_without_a_base_nothing_is_loaded_first() -> None:
    _, outcomes = run(plan("a", serving_model=None), {"a": Node()})
    assert {o.action.after for o in outcomes if isinstance(o.action, AskProbe)} == {None, BASE}
    _, outcomes = run(plan("a"), {"a": Node(models={})})
    assert {o.action.after for o in outcomes if isinstance(o.action, AskProbe)} == {None}


def test_a_node_that_is_away_is_waited_for_unless_the_ratio_lets_it_be() -> None:
    assert run(plan("a", "b"), {"a": Node()})[0] == Wait(("b",))
    end, _ = run(plan("a", "b", minimum_nodes_ratio=0.5), {"a": Node()})
    assert isinstance(end, Register)
    assert set(end.digests) == {"a"}
    assert run(plan("a", "b", minimum_nodes_ratio=0.7), {"a": Node()})[0] == Wait(("b",))
    assert run(plan("a", minimum_nodes_ratio=0.01), {})[0] == Wait(("a",))


@pytest.mark.parametrize(
    ("kind", "stage"),
    [(UploadBlob, "upload"), (CreateModel, "create"), (AskProbe, "probe"), (SitExam, "probe"), (PointAlias, "alias")],
)
def test_a_refusal_rolls_back_at_its_stage_and_leaves_nothing(kind: type, stage: str) -> None:
    nodes = {"a": Node(), "b": Node(refuses=frozenset({kind}), engine_version="0.24.0")}
    before = {name: dict(node.models) for name, node in nodes.items()}
    end, _ = run(plan(examined=True), nodes)
    assert isinstance(end, RollBack)
    assert end.failure.stage == stage
    assert end.failure.evidence["refusal"] == "no"
    assert {name: node.models for name, node in nodes.items()} == before


def test_what_was_removed_and_what_a_node_would_not_remove_is_told() -> None:
    nodes = {"a": Node(), "b": Node(disobeys=frozenset({"direct"}), refuses=frozenset({DeleteModel}))}
    end, _ = run(plan(), nodes)
    assert isinstance(end, RollBack)
    assert end.removed == (f"a {MODEL}",)
    assert end.failure.evidence["left"] == {f"b {MODEL}": "no"}


def test_the_first_version_leaves_no_alias_behind_when_it_is_rolled_back() -> None:
    nodes = {"a": Node(models={BASE: held("b" * 64)}), "b": Node(models={}, refuses=frozenset({PointAlias}))}
    end, _ = run(plan(serving_model=None), nodes)
    assert isinstance(end, RollBack)
    assert nodes["a"].models == {BASE: held("b" * 64)}
    assert set(end.removed) == {f"a {ALIAS}", f"a {MODEL}", f"b {MODEL}"}


def test_a_node_without_the_serving_version_loses_the_alias_rather_than_keep_a_bad_one() -> None:
    nodes = {"a": Node(models={BASE: held("b" * 64)}), "b": Node(refuses=frozenset({PointAlias}))}
    end, _ = run(plan(), nodes)
    assert isinstance(end, RollBack)
    assert nodes["a"].models == {BASE: held("b" * 64)}


@pytest.mark.parametrize(("kind", "stage"), [(CreateModel, "create"), (PointAlias, "alias")])
def test_a_node_that_only_says_it_did_something_is_found_out(kind: type, stage: str) -> None:
    end, _ = run(plan("a"), {"a": Node(ignores=frozenset({kind}))})
    assert isinstance(end, RollBack)
    assert end.failure.stage == stage


def test_capabilities_that_are_missing_are_named() -> None:
    end, _ = run(plan("a"), {"a": Node(capabilities=frozenset({"completion"}))})
    assert isinstance(end, RollBack)
    assert end.failure.evidence == {"node": "a", "lacks": ["thinking", "tools"], "has": ["completion"]}


def test_another_name_over_the_same_weights_is_refused_only_with_another_template() -> None:
    other = Node(models={"mine:latest": held(GGUF, "another template")})
    end, outcomes = run(plan("a"), {"a": other})
    assert isinstance(end, RollBack)
    assert end.failure.evidence["names"] == ["mine:latest"]
    assert outcomes == []
    same = Node(models={"mine:latest": held(GGUF, RECIPE.template)})
    assert isinstance(run(plan("a"), {"a": same})[0], Register)


def test_what_nodes_made_is_compared_by_its_contents_within_an_engine_version() -> None:
    end, _ = run(plan(), {"a": Node(), "b": Node(salt="other")})
    assert isinstance(end, RollBack)
    assert end.failure.evidence == {"contents": {"a": held(GGUF).contents, "b": held(GGUF, salt="other").contents}}
    assert isinstance(run(plan(), {"a": Node(), "b": Node(salt="other", engine_version="0.24.0")})[0], Register)
    assert isinstance(run(plan(), {"a": Node(folder="/a"), "b": Node(folder="/b")})[0], Register)


@pytest.mark.parametrize("left_by_a_killed_run", [held("d" * 64, "old"), held(GGUF, "old")])
def test_a_stale_model_under_our_names_is_made_anew_and_never_judged(left_by_a_killed_run: Held) -> None:
    nodes = {
        "a": Node(models={MODEL: left_by_a_killed_run, ALIAS: left_by_a_killed_run}),
        "b": Node(models={MODEL: held("e" * 64)}),
    }
    assert isinstance(run(plan(), nodes)[0], Register)
    assert nodes["a"].models == nodes["b"].models == {MODEL: held(GGUF), ALIAS: held(GGUF)}


kinds_of_action = st.sampled_from([UploadBlob, CreateModel, AskProbe, PointAlias])


@given(
    kills=st.lists(st.integers(0, 16), max_size=4),
    nodes=st.lists(
        st.builds(
            Node,
            blobs=st.sampled_from([set(), {GGUF}]).map(set),
            refuses=st.one_of(st.just(frozenset()), kinds_of_action.map(lambda kind: frozenset({kind}))),
            forgets=st.booleans(),
            disobeys=st.sampled_from([frozenset(), frozenset(), frozenset({"direct"}), frozenset({"thinking"})]),
            models=st.sampled_from(
                [
                    {},
                    {BASE: held("b" * 64, "base")},
                    {
                        BASE: held("b" * 64, "base"),
                        PARENT: held("c" * 64),
                        ALIAS: held("c" * 64),
                        "mine:latest": held("e" * 64, "x"),
                    },
                    {PARENT: held("c" * 64), MODEL: held("d" * 64, "stale"), ALIAS: held("d" * 64, "stale")},
                ]
            ).map(dict),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_a_deployer_killed_anywhere_any_number_of_times_ends_where_an_undisturbed_one_ends(
    kills: list[int], nodes: list[Node]
) -> None:
    wanted = plan(*(str(index) for index in range(len(nodes))), examined=True)
    disturbed = {str(i): replace(node, models=dict(node.models), blobs=set(node.blobs)) for i, node in enumerate(nodes)}
    undisturbed = {str(i): replace(node, models=dict(node.models), blobs=set(node.blobs)) for i, node in enumerate(nodes)}
    for kill in kills:
        try:
            run(wanted, disturbed, actions=kill)
        except Killed:
            continue
        break
    end, _ = run(wanted, disturbed)
    expected, _ = run(wanted, undisturbed)
    assert type(end) is type(expected)
    for name, node in disturbed.items():
        assert MODEL not in node.models or isinstance(end, Register)
        others = {BASE, PARENT, "mine:latest"}
        assert {k: v for k, v in node.models.items() if k in others} == {
            k: v for k, v in nodes[int(name)].models.items() if k in others
        }
        if isinstance(end, Register):
            assert node.models[ALIAS] == node.models[MODEL] == held(GGUF)
        else:
            assert node.models.get(ALIAS) != held(GGUF)


def test_a_registered_version_only_gets_its_alias_back() -> None:
    nodes = {"a": Node(), "b": Node(), "c": Node()}
    run(plan("a", "b", "c"), nodes)
    nodes["b"].models[ALIAS] = nodes["b"].models[PARENT]
    del nodes["c"].models[MODEL]
    assert restore(MODEL, ALIAS, {name: node.view() for name, node in nodes.items()}) == {"b": (PointAlias(MODEL, ALIAS),)}


def test_only_names_that_are_there_are_cleared() -> None:
    assert clear([PARENT, "gone:v1"], {"a": Node().view(), "b": Node(models={}).view()}) == {"a": (DeleteModel(PARENT),)}


def artifact(sha256: str = GGUF) -> ArtifactReference:
    return ArtifactReference(uri="file:///store/x", sha256=sha256, size_bytes=1)


def trained(number: int) -> AdapterTrained:
    return AdapterTrained(
        job_id=f"b{number}",
        batch_id=f"b{number}",
        target_model=BASE,
        version=f"v{number}",
        number=number,
        base_model="Qwen/Qwen3-8B",
        adapter=artifact(),
        gguf=(),
        dataset=artifact(),
        stages=("cold_start",),
        settings={},
        metrics={},
        duration_seconds=1.0,
        trained_at=NOW,
    )


def registered(number: int) -> ModelRegistered:
    return ModelRegistered(
        target_model=BASE,
        version=f"v{number}",
        number=number,
        model_name=version_name(BASE, f"v{number}"),
        alias=ALIAS,
        base_model="Qwen/Qwen3-8B",
        batch_id=f"b{number}",
        dataset=artifact(),
        adapter=artifact(),
        weights=artifact(),
        stages=(),
        settings={},
        metrics={},
        nodes=(),
        probes=(),
        capabilities=(),
        registered_at=NOW,
    )


def rolled_back(number: int) -> ModelRolledBack:
    return ModelRolledBack(
        target_model=BASE, version=f"v{number}", serving_version=None, stage="probe", reason="x", rolled_back_at=NOW
    )


@pytest.mark.parametrize(
    ("number", "accepted", "good", "bad", "verdict"),
    [
        (1, True, [], [], "deploy"),
        (2, True, [1], [], "deploy"),
        (2, False, [1], [], "not_accepted"),
        (2, True, [1, 2], [], "registered"),
        (2, True, [1], [2], "rolled_back"),
        (2, True, [1, 2], [2], "rolled_back"),
        (2, True, [1, 3], [], "superseded"),
        (2, True, [1, 3], [3], "deploy"),
    ],
)
def test_the_log_says_what_becomes_of_a_version(number: int, accepted: bool, good: list[int], bad: list[int], verdict: str) -> None:
    found = judge(
        trained(number), accepted=accepted, registered=[registered(n) for n in good], rolled_back=[rolled_back(n) for n in bad]
    )
    assert found == verdict


def test_the_highest_version_that_was_not_rolled_back_serves_and_the_first_record_of_it_counts() -> None:
    again = registered(2).model_copy(update={"model_name": "other"})
    serves = serving([registered(1), registered(2), again, registered(3)], [rolled_back(3)])
    assert serves == registered(2)
    assert serving([registered(1)], [rolled_back(1)]) is None


def test_versions_before_the_kept_ones_and_those_rolled_back_are_retired() -> None:
    log = [registered(number) for number in (1, 2, 3, 4)]
    assert to_retire(log, [], newest="v5", keep_previous=2) == (version_name(BASE, "v1"), version_name(BASE, "v2"))
    assert to_retire(log, [rolled_back(4)], newest="v5", keep_previous=2) == (version_name(BASE, "v1"), version_name(BASE, "v4"))
    assert to_retire(log[:1], [], newest="v1", keep_previous=1) == ()


def test_the_merged_model_in_the_most_wanted_encoding_is_chosen_never_the_adapter() -> None:
    files = [
        GgufFile(encoding="f16", holds="adapter", file=artifact()),
        GgufFile(encoding="q8_0", holds="model", file=artifact("1" * 64)),
        GgufFile(encoding="bf16", holds="model", file=artifact("2" * 64)),
    ]
    chosen = choose_weights(files, ("f16", "bf16", "f32", "q8_0"))
    assert chosen is not None
    assert chosen.encoding == "bf16"
    assert choose_weights(files, ("f16",)) is None


@pytest.mark.parametrize(
    ("target", "tenant", "name"),
    [
        ("qwen3:8b", "default", "qwen3:8b-ruminate-v3"),
        ("tiny", "default", "tiny:ruminate-v3"),
        ("tiny:latest", "default", "tiny:latest-ruminate-v3"),
        ("hf.co/unsloth/Qwen3-8B-GGUF:Q4_K_M", "default", "hf.co/unsloth/Qwen3-8B-GGUF:Q4_K_M-ruminate-v3"),
        ("qwen3:8b", "acme", "acme/qwen3:8b-ruminate-v3"),
        ("qwen3:8b", "library", f"library-{hashlib.sha256(b'library').hexdigest()[:12]}/qwen3:8b-ruminate-v3"),
    ],
)
def test_names_are_those_of_ollama(target: str, tenant: str, name: str) -> None:
    assert version_name(target, "v3", tenant=tenant) == name
    assert alias_name(target, tenant=tenant) == name.removesuffix("-v3")


part = st.from_regex(r"[a-z0-9_][a-z0-9_.-]{0,12}", fullmatch=True)
targets = st.builds(
    lambda folders, model, tag: "/".join([*folders, model]) + (f":{tag}" if tag else ""),
    st.lists(part, max_size=2),
    part,
    st.none() | part,
)


@given(
    st.tuples(targets, st.text(min_size=1, max_size=12), st.sampled_from(["v1", "v2"])),
    st.tuples(targets, st.text(min_size=1, max_size=12), st.sampled_from(["v1", "v2"])),
)
def test_different_versions_never_share_a_name_and_none_takes_the_targets_own(
    a: tuple[str, str, str], b: tuple[str, str, str]
) -> None:
    names = [version_name(target, version, tenant=tenant) for target, tenant, version in (a, b)]
    assert (a == b) == (names[0] == names[1])
    assert listed_name(a[0]) not in (*names, alias_name(a[0], tenant=a[1]))


@pytest.mark.parametrize(
    ("target", "version"),
    [("a b", "v1"), ("qwen3:8b", "v/1"), ("a/b/c/d", "v1"), ("x:" + "t" * 75, "v1"), ("n" * 70 + "/" + "m" * 70, "v1"), ("", "v1")],
)
def test_what_gives_no_name_is_refused_with_the_rule(target: str, version: str) -> None:
    with pytest.raises(InvalidName, match="each part 1 to 80"):
        version_name(target, version)


@pytest.mark.parametrize(
    ("mode", "thinking", "content", "ended_by", "passed"),
    [
        ("thinking", "so", "yes", "stop", True),
        ("thinking", "so so so", "", "length", True),
        ("thinking", "", "yes", "stop", False),
        ("thinking", " \n", "yes", "stop", False),
        ("thinking", "so", "<think>yes", "stop", False),
        ("direct", "", "yes", "stop", True),
        ("direct", "", "yes", "length", True),
        ("direct", "so", "yes", "stop", False),
        ("direct", "", "so</think>yes", "stop", False),
        ("direct", "", "  ", "stop", False),
    ],
)
def test_an_answer_obeys_its_mode_or_not(mode: Mode, thinking: str, content: str, ended_by: str, passed: bool) -> None:
    found, detail = judge_answer(mode, thinking=thinking, content=content, ended_by=ended_by)
    assert found is passed
    assert ended_by in detail
