"""The embedded node's decisions: names, durations, options, capabilities, cuts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.embedded.decide import (
    Cut,
    Refused,
    check_go_template,
    cut_prompt,
    go_template_capabilities,
    human_number,
    jinja_capabilities,
    merge_options,
    parameter_lines,
    parse_name,
    resolve_thinking,
    sampling_of,
    schema_of,
    seconds_of,
)
from ruminate.shared.ollama import QWEN3_TEMPLATE


@pytest.mark.parametrize(
    ("text", "full", "short"),
    [
        ("qwen3", "registry.ollama.ai/library/qwen3:latest", "qwen3:latest"),
        ("qwen3:8b", "registry.ollama.ai/library/qwen3:8b", "qwen3:8b"),
        ("me/qwen3:8b", "registry.ollama.ai/me/qwen3:8b", "me/qwen3:8b"),
        ("host:5000/me/qwen3", "host:5000/me/qwen3:latest", "host:5000/me/qwen3:latest"),
    ],
)
def test_a_name_gets_the_parts_that_it_leaves_out(text: str, full: str, short: str) -> None:
    assert (parse_name(text).full, parse_name(text).short) == (full, short)


@pytest.mark.parametrize("text", ["a b", "../etc", ".hidden", "a:", ":b", "a//b", "a/b/c/d", "-x", "x" * 81])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="invalid model name"):
        parse_name(text)


@given(st.text(max_size=40))
def test_no_name_leaves_its_folder(text: str) -> None:
    try:
        name = parse_name(text)
    except Refused:
        return
    assert all(part not in ("", ".", "..") and "/" not in part and "\x00" not in part for part in name.parts)


@pytest.mark.parametrize(
    ("said", "seconds"), [("5m", 300), ("1h2m3.5s", 3723.5), ("0", 0), (0, 0), (-1, math.inf), ("-1m", math.inf)]
)
def test_keep_alive_reads_numbers_and_go_durations(said: float | str, seconds: float) -> None:
    assert seconds_of(said) == pytest.approx(seconds)


@pytest.mark.parametrize("said", ["", "5", "soon", "5 m", "m5", "1h-2m"])
def test_what_is_no_duration_is_named(said: str) -> None:
    with pytest.raises(ValueError, match="time: invalid duration"):
        seconds_of(said)


CHATML = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
THINKS = "{{ range .Messages }}{{ if .Thinking }}<think>\n{{ .Thinking }}\n</think>\n{{ end }}{{ end }}"


@pytest.mark.parametrize(
    ("template", "capabilities"),
    [
        (QWEN3_TEMPLATE, {"tools", "thinking"}),
        (CHATML, set()),
        (THINKS, {"thinking"}),
        (THINKS.replace("range .Messages", "range $i, $m := $.Messages"), {"thinking"}),
        (THINKS.replace("<think>", "").replace("</think>", ""), set()),
        (CHATML + "{{- if $.Tools }}{{ .Tools }}{{ end }}", {"tools"}),
        (CHATML + '{{ "a text about .Tools and .Suffix" }}', set()),
        (CHATML + "{{/* .Tools */}}", set()),
        ("{{ .Prompt }}{{ .Suffix }}", {"insert"}),
    ],
)
def test_capabilities_are_read_out_of_a_go_template(template: str, capabilities: set[str]) -> None:
    assert set(go_template_capabilities(template)) == capabilities


def test_capabilities_are_read_out_of_a_jinja_template() -> None:
    assert jinja_capabilities("{% if tools %}{% endif %}<think>") == ("tools", "thinking")
    assert jinja_capabilities("{{ messages }}") == ()


@pytest.mark.parametrize("template", ["{{ if", "{{ if .A }}x", "{{ end }}", "{{ range .M }}{{ if .A }}{{ end }}"])
def test_a_broken_go_template_is_refused(template: str) -> None:
    with pytest.raises(Refused, match="template error"):
        check_go_template(template)


def test_the_template_that_we_send_passes() -> None:
    check_go_template(QWEN3_TEMPLATE)


@pytest.mark.parametrize(
    ("asked", "capable", "thinks"),
    [(None, True, True), (True, True, True), ("low", True, True), (False, True, False), (None, False, None), (False, False, None)],
)
def test_unset_thinking_is_on_where_the_model_can(asked: bool | None, capable: bool, thinks: bool | None) -> None:
    assert resolve_thinking(asked, capable=capable, name="m") is thinks


@pytest.mark.parametrize("asked", [True, "high"])
def test_thinking_is_refused_where_the_model_cannot(asked: bool) -> None:
    with pytest.raises(Refused, match='"m" does not support thinking'):
        resolve_thinking(asked, capable=False, name="m")


def test_options_of_the_request_win_over_those_of_the_model() -> None:
    options = merge_options({"num_ctx": 512, "stop": "a", "top_k": 5}, {"top_k": 7.0, "temperature": 0, "seed": None})
    assert (options["num_ctx"], options["stop"], options["top_k"], options["temperature"], options["seed"]) == (
        512,
        ["a"],
        7,
        0,
        -1,
    )


@pytest.mark.parametrize("options", [{"top_k": "x"}, {"top_k": True}, {"top_p": "x"}, {"stop": [1]}, {"stop": 3}])
def test_an_option_of_a_wrong_type_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(Refused, match=f'option "{next(iter(options))}" must be of'):
        merge_options(options)


@pytest.mark.parametrize(
    ("options", "cached"), [({"temperature": 0}, False), ({"seed": 7}, False), ({"temperature": 0.7}, True), ({}, True)]
)
def test_only_an_answer_left_to_chance_may_use_the_prompt_cache(options: dict[str, float], cached: bool) -> None:
    assert sampling_of(merge_options(options), context_tokens=10)["cache_prompt"] is cached


@pytest.mark.parametrize(("wanted", "predicted"), [(-1, 100), (0, 100), (4, 4), (99, 99), (101, 100)])
def test_an_answer_that_nothing_else_ends_is_at_most_ten_windows_long(wanted: int, predicted: int) -> None:
    assert sampling_of(merge_options({"num_predict": wanted}), context_tokens=10)["n_predict"] == predicted


def test_a_format_is_a_word_or_a_schema() -> None:
    assert schema_of(None) is None and schema_of("") is None
    assert schema_of("json") == {"type": "object"}
    assert schema_of({"type": "array"}) == {"type": "array"}
    with pytest.raises(Refused, match="invalid format"):
        schema_of([1])


@given(tokens=st.integers(1, 5000), window=st.integers(64, 4096), keep=st.integers(-1, 300))
def test_a_cut_prompt_leaves_room_and_keeps_both_ends(tokens: int, window: int, keep: int) -> None:
    cut = cut_prompt(tokens, context_tokens=window, keep=keep)
    if tokens < window:
        assert cut is None
        return
    assert cut is not None
    kept = cut.keep + tokens - cut.resume
    assert 0 <= cut.keep < cut.resume <= tokens
    assert window // 2 <= kept < window


def test_a_cut_takes_the_middle() -> None:
    assert cut_prompt(1000, context_tokens=100, keep=4) == Cut(keep=4, resume=952)


def test_parameters_and_counts_read_as_ollama_writes_them() -> None:
    assert parameter_lines({"top_p": 0.95, "num_ctx": 4096.0, "stop": ["a"]}).splitlines() == [
        "num_ctx                        4096",
        'stop                           "a"',
        "top_p                          0.95",
    ]
    assert [human_number(count) for count in (12, 140_096, 1_000_000, 596_049_920, 8_190_735_360)] == [
        "12", "140K", "1M", "596.05M", "8.2B",
    ]  # fmt: skip
