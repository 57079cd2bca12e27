"""The reader of LIBERO's task files: what they say, and where they are wrong."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vla_cl.envs.libero.bddl import Condition, Problem, by_category, parse_problem, read_problem
from vla_cl.envs.libero.bddl_regions import Region
from vla_cl.envs.libero.bddl_tokens import BddlError

TEXT = """(define (problem LIBERO_Tabletop_Manipulation)
  (:domain robosuite)  ; the only one
  (:language Put the Bowl on it)
  (:regions
    (bowl_region (:target main_table) (:ranges ((-0.1 -0.2 0.1 0.2) (0 0 1 1))) (:yaw_rotation ((0 3.14))))
    (top_side (:target cabinet_1) (:rgba (1 0 0 0.5))))
  (:fixtures main_table - table cabinet_1 - cabinet)
  (:objects bowl_1 bowl_2 - bowl plate_1 - plate bowl_3 - bowl)
  (:obj_of_interest bowl_1 cabinet_1_top_side)
  (:init (On bowl_1 main_table_bowl_region) (Open cabinet_1_top_side))
  (:goal (And (On bowl_1 plate_1) (Up bowl_2))))
"""


def changed(old: str, new: str) -> str:
    assert TEXT.count(old) == 1
    return TEXT.replace(old, new)


def test_a_file_says_what_it_says():
    assert parse_problem(TEXT) == Problem(
        name="libero_tabletop_manipulation",
        domain="robosuite",
        language="put the bowl on it",
        regions={
            "main_table_bowl_region": Region(
                "bowl_region", "main_table", ((-0.1, -0.2, 0.1, 0.2), (0.0, 0.0, 1.0, 1.0)), (0.0, 3.14)
            ),
            "cabinet_1_top_side": Region("top_side", "cabinet_1", rgba=(1.0, 0.0, 0.0, 0.5)),
        },
        fixtures={"main_table": "table", "cabinet_1": "cabinet"},
        objects={"bowl_1": "bowl", "bowl_2": "bowl", "plate_1": "plate", "bowl_3": "bowl"},
        objects_of_interest=("bowl_1", "cabinet_1_top_side"),
        initial=(
            Condition("on", ("bowl_1", "main_table_bowl_region")),
            Condition("open", ("cabinet_1_top_side",)),
        ),
        goal=(Condition("on", ("bowl_1", "plate_1")), Condition("up", ("bowl_2",))),
    )


def test_regions_have_defaults():
    region = parse_problem(TEXT).regions["cabinet_1_top_side"]
    assert (region.ranges, region.yaw) == ((), (0.0, 0.0))
    assert parse_problem(TEXT).regions["main_table_bowl_region"].rgba == (0.0, 0.0, 1.0, 0.0)


def test_a_goal_may_be_a_single_condition():
    alone = changed("(And (On bowl_1 plate_1) (Up bowl_2))", "(Turnon cabinet_1)")
    assert parse_problem(alone).goal == (Condition("turnon", ("cabinet_1",)),)


def test_instances_of_a_category_come_together_in_the_order_of_categories():
    assert by_category(parse_problem(TEXT).objects) == ("bowl_1", "bowl_2", "bowl_3", "plate_1")


def place_of(text: str, sign: str) -> tuple[int, int]:
    """Line and column, from 1, of the only place in a text where a sign stands."""
    assert text.count(sign) == 1
    lines = text[: text.index(sign)].split("\n")
    return len(lines), len(lines[-1]) + 1


@pytest.mark.parametrize(
    ("old", "new", "at", "message"),
    [
        ("(:goal (And", "(:goal ((And", "(define", "'(' is never closed"),
        ("(Up bowl_2))))\n", "(Up bowl_2)))) more", "more", "'more' stands outside"),
        ("(define", "(defin", "defin", "expected 'define', got 'defin'"),
        (":fixtures", ":fixture", ":fixture", "section ':fixture' is unknown; did you mean ':fixtures'?"),
        ("(:language", "(:DOMAIN", ":DOMAIN", "section ':domain' is there twice"),
        ("(:language Put the Bowl on it)\n", "\n", "(define", "section ':language' is missing"),
        ("(:domain robosuite)", "(:domain blocksworld)", "blocksworld", "domain 'blocksworld' is unknown"),
        ("(:target main_table) ", "", "bowl_region (", "region 'bowl_region' has no (:target ...)"),
        ("(:target main_table)", "(:target main_tabel)", "main_tabel", "is no object or fixture; did you mean 'main_"),
        ("(:target main_table)", "(:tarket main_table)", ":tarket", "did you mean ':target'?"),
        ("(0 0 1 1)", "(0 0 1)", "(0 0 1)", "expected 4 numbers (x_min y_min x_max y_max), got 3"),
        ("(0 0 1 1)", "(0 0 1 wide)", "wide", "expected a number, got 'wide'"),
        ("(0 0 1 1)", "(0 0 1 nan)", "nan", "expected a finite number, got 'nan'"),
        ("(0 0 1 1)", "(0 0 1 __import__)", "__import__", "expected a number"),
        ("(0 0 1 1)", "(2 0 1 1)", "(2 0", "x_min 2 is greater than x_max 1"),
        ("(0 0 1 1)", "(0 2 1 1)", "(0 2", "y_min 2 is greater than y_max 1"),
        ("((0 3.14))", "((0 1 3.14))", "(0 1 3.14)", "expected 2 numbers (least greatest), got 3"),
        ("((0 3.14))", "((4 3.14))", "(4", "the least yaw 4 is greater than the greatest 3.14"),
        ("((0 3.14))", "(0 3.14)", "(:yaw", "expected (:yaw_rotation ((least greatest)))"),
        ("(1 0 0 0.5)", "(1 0 0)", "(1 0 0)", "expected 4 numbers"),
        ("plate_1 - plate", "BOWL_2 - plate", "BOWL_2", "object 'bowl_2' has the name of an object declared before"),
        ("plate_1 - plate", "Main_Table - plate", "Main_Table", "has the name of a fixture declared before"),
        ("plate_1 - plate bowl_3 - bowl", "plate_1", "plate_1)\n", "'plate_1' has no category"),
        ("bowl_3 - bowl)", "bowl_3 -)", "-)", "a category must follow '-'"),
        (
            "(On bowl_1 plate_1)",
            "(On bowl_1 plate_2)",
            "plate_2",
            "no object, fixture or region; did you mean 'plate_1'",
        ),
        ("(On bowl_1 plate_1)", "(Onn bowl_1 plate_1)", "Onn", "predicate 'onn' is unknown; did you mean 'on'?"),
        ("(On bowl_1 plate_1)", "(ON bowl_1)", "ON", "predicate 'on' takes 2 arguments, got 1"),
        ("(Up bowl_2)", "(Up bowl_2 plate_1)", "Up", "predicate 'up' takes 1 argument, got 2"),
        ("(Up bowl_2)", "(not (Up bowl_2))", "not", "predicate 'not' is unknown"),
        ("(And (On bowl_1 plate_1) (Up bowl_2))", "And", "(:goal", "(:goal ...) must hold one condition"),
        ("(And (On bowl_1 plate_1) (Up bowl_2))", "(And)", "And", "predicate 'and' is unknown"),
    ],
)
def test_what_is_wrong_is_told_with_line_and_column(old: str, new: str, at: str, message: str):
    text = changed(old, new)
    line, column = place_of(text, at)
    with pytest.raises(BddlError) as caught:
        parse_problem(text, "task.bddl")
    assert str(caught.value).startswith(f"task.bddl, line {line}, column {column}: ")
    assert message in str(caught.value)


def test_lines_and_columns_count_from_one():
    with pytest.raises(BddlError, match=r"BDDL, line 3, column 5: '\)' closes nothing"):
        parse_problem("(define) ; )))\n\n    )")


def test_a_site_of_a_thing_that_is_not_there_may_be_declared_and_not_named():
    """As the benchmark's libero_goal files do with a bowl drainer."""
    site = "(left (:target drainer_1)) (top_side"
    assert parse_problem(changed("(top_side", site)).regions["drainer_1_left"].target == "drainer_1"
    named = changed("(top_side", site).replace("(Up bowl_2)", "(Up drainer_1_left)")
    with pytest.raises(BddlError, match="'drainer_1_left' is no object, fixture or region"):
        parse_problem(named)


def test_depth_is_bounded():
    with pytest.raises(BddlError, match="nest deeper than 32"):
        parse_problem("(" * 1_000_000)


@pytest.mark.parametrize("content", [b"\xff\xfe", b""])
def test_files_that_are_no_text_or_empty_are_refused(tmp_path: Path, content: bytes):
    (tmp_path / "task.bddl").write_bytes(content)
    with pytest.raises(BddlError, match=r"task\.bddl"):
        read_problem(tmp_path / "task.bddl")
    with pytest.raises(BddlError, match="No such file"):
        read_problem(tmp_path / "none.bddl")


WORDS = [*sorted(set(re.findall(r"[()]|[^\s()]+", TEXT))), "\n", " ", ";", "-", "nan", "1e999", "İ", "\x00"]


@given(st.one_of(st.text(), st.lists(st.sampled_from(WORDS)).map(" ".join)))
@example("(define)")
@example("(define ())")
@example("()")
@example("(define (problem) (:domain) (:language) (:goal))")
def test_any_text_is_read_or_refused(text: str):
    try:
        parse_problem(text)
    except BddlError as error:
        assert "\n" not in str(error)


@given(st.data())
def test_a_file_with_a_part_replaced_is_read_or_refused(data: st.DataObject):
    start = data.draw(st.integers(0, len(TEXT)))
    length = data.draw(st.integers(0, 40))
    text = TEXT[:start] + data.draw(st.sampled_from(WORDS)) + TEXT[start + length :]
    try:
        problem = parse_problem(text)
    except BddlError:
        return
    assert problem.goal and problem.domain == "robosuite"


# --- the benchmark's own files ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problems(libero_root: Path) -> dict[Path, Problem]:
    return {path: read_problem(path) for path in sorted((libero_root / "bddl_files").glob("*/*.bddl"))}


def test_all_of_the_benchmarks_files_are_read(problems: dict[Path, Problem]):
    assert Counter(problem.name for problem in problems.values()) == {
        "libero_kitchen_tabletop_manipulation": 50,
        "libero_living_room_tabletop_manipulation": 32,
        "libero_tabletop_manipulation": 20,
        "libero_study_tabletop_manipulation": 18,
        "libero_floor_manipulation": 10,
    }


def test_counts_agree_with_a_plain_search_of_the_text(problems: dict[Path, Problem]):
    """Regular expressions over the raw text know nothing of the reader."""
    for path, problem in problems.items():
        text = re.sub(r"\s+", " ", path.read_text().lower())
        assert len(problem.regions) == text.count("(:target"), path
        assert sum(region.yaw != (0.0, 0.0) for region in problem.regions.values()) == len(
            re.findall(r":yaw_rotation \( \((?!0(?:\.0)? 0(?:\.0)?\))", text)
        ), path
        (goal,) = re.findall(r"\(:goal (.*)", text)
        spoken = re.findall(r"\((in|on|open|close|turnon|turnoff) ", goal)
        assert [condition.predicate for condition in problem.goal] == spoken, path
        (objects,) = re.findall(r"\(:objects (.*?)\)", text)
        assert len(problem.objects) == len(objects.split()) - 2 * objects.split().count("-"), path
        (language,) = re.findall(r"\(:language (.*?)\)", text)
        assert problem.language == language.strip(), path


def test_one_file_read_by_hand(problems: dict[Path, Problem]):
    (problem,) = [
        problem
        for path, problem in problems.items()
        if path.stem.startswith("KITCHEN_SCENE3_turn_on_the") and path.parent.name == "libero_10"
    ]
    assert problem.regions["kitchen_table_flat_stove_init_region"].ranges == (
        (-0.21000000000000002, 0.19, -0.19, 0.21000000000000002),
    )
    assert problem.objects == {"chefmate_8_frypan_1": "chefmate_8_frypan", "moka_pot_1": "moka_pot"}
    assert [str(condition) for condition in problem.goal] == [
        "(turnon flat_stove_1)",
        "(on moka_pot_1 flat_stove_1_cook_region)",
    ]
