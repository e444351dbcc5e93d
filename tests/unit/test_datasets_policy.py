"""A policy in a file: what it may say, and the name that it gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from ruminate.assessor.policy import Policy
from ruminate.command.datasets.policy import BATCH_VALUES, PolicyError, read_policy


def written(folder: Path, text: str, name: str = "policy.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    toml = read_policy(written(tmp_path, "[assessment.weights]\nanswer_quality = 4.0\n[batch]\nseal_at_rows = 200\n"))
    json = read_policy(
        written(tmp_path, '{"assessment": {"weights": {"answer_quality": 4}}, "batch": {"seal_at_rows": 200}}', "p.json")
    )
    assert toml.values == json.values
    assert toml.name == json.name
    assert (toml.assessment.weights.answer_quality, toml.batch.seal_at_rows) == (4.0, 200)


def test_what_the_file_does_not_name_is_the_default_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUMINATE_SEAL_AT_ROWS", "3")
    monkeypatch.setenv("RUMINATE_INDICATOR_WEIGHTS", '{"why": 9}')
    monkeypatch.setenv("RUMINATE_ASSESSMENT__KEEP_OVERALL_AT_LEAST", "0.1")
    policy = read_policy(written(tmp_path, ""))
    assert (policy.batch.seal_at_rows, policy.batch.indicator_weights["why"]) == (500, 1.0)
    assert policy.assessment == Policy()
    partly = read_policy(written(tmp_path, "[batch.indicator_weights]\nexplain = 2.0\n"))
    assert partly.batch.indicator_weights == {"explain": 2.0}


def test_every_value_has_a_part_in_the_name(tmp_path: Path) -> None:
    texts = (
        "",
        "[batch]\nshuffle_seed = 1\n",
        "[batch]\nseal_after_seconds = 1\n",
        "[assessment]\nreject_wasted_thinking = true\n",
    )
    assert len({read_policy(written(tmp_path, text)).name for text in texts}) == len(texts)
    assert read_policy(written(tmp_path, ""), name="night-run.2").name == "night-run.2"


def test_how_often_the_accumulator_looks_shapes_no_batch() -> None:
    assert set(BATCH_VALUES) == {
        *(
            "seal_at_rows",
            "seal_at_records",
            "min_reasoning_ratio",
            "seal_after_seconds",
            "seal_after_min_rows",
            "holdout_ratio",
            "shuffle_seed",
        ),
        *(
            "row_max_bytes",
            "indicator_weights",
            "thinking_called_for_at",
            "holdout_most_rows",
            "replay_ratio",
            "anchor_rows",
            "anchor_ratio",
            "generated_most_ratio",
            "answer_most_ratio",
            "context_tokens",
            "keep_images",
            "thinking_predicted_at",
            "cluster_most_rows",
            "protected_sets",
        ),
        *("seal_at_tokens", "seal_false_alarm_ratio", "seal_most_a_day", "seal_quiet_hours", "seal_time_zone", "seal_policies"),
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[batches]\n", "no section is named batches; there are assessment and batch"),
        ("[batch]\nkafka_bootstrap = 'x'\n", r"\[batch\] has no kafka_bootstrap; it has seal_at_rows"),
        ("[batch]\nmin_reasoning_ratio = 2\n", "min_reasoning_ratio: Input should be less than or equal to 1"),
        ("[assessment]\nunknown = 1\n", "unknown: Extra inputs are not permitted"),
        ("seal_at_rows = 3\n", "holds sections"),
        ("[batch\n", "neither TOML nor"),
    ],
)
def test_what_cannot_be_replayed_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        read_policy(written(tmp_path, text))


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "a/b", "a b", "x" * 61])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PolicyError, match="--policy-name"):
        read_policy(written(tmp_path, ""), name=name)
