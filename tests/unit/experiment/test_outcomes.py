import numpy as np

from recsys.experiment.outcomes import measure_coverage, read_outcomes, sum_by_user
from tests.unit.experiment.conftest import exposure, feedback, to_table


def test_the_first_request_decides_whose_user_it_is() -> None:
    log = to_table(
        [
            exposure("b", "u1", "student", 2.0, model_ms=9.0),
            exposure("a", "u1", "teacher", 1.0),
            exposure("c", " u1 ", "student", 3.0),  # the same user, written otherwise
            exposure("d", "u2", "student", 1.5, fallback=True),
            exposure("e", "u3", "student", 1.0, assigned_by="request"),
            exposure("f", None, "student", 1.0, assigned_by="default"),
            exposure("a", "u1", "teacher", 9.0),  # sent twice
            {**exposure("g", "u2", "student", 4.0), "kind": "failure", "items": None, "fallback": None},
        ]
    )
    outcomes = read_outcomes(log)
    assert outcomes.users() == {"student": 1, "teacher": 1}
    assert (outcomes.left_out, outcomes.moved) == (2, 1)
    teacher = outcomes.of("teacher")
    assert teacher["request_id"].tolist() == ["a", "b", "c"] and teacher["milliseconds"].tolist() == [1.5, 9.5, 1.5]
    student = outcomes.of("student")
    assert student["answered"].tolist() == [True, False] and student["fallback"].tolist() == [True, False]


def test_a_student_in_place_of_the_teacher_is_a_fallback_of_the_teacher_s_arm() -> None:
    failed = {"answered_by": "student", "teacher_failed": "timeout"}
    log = to_table([exposure("a", "u1", "teacher", 1.0, **failed), exposure("b", "u2", "teacher", 2.0)])
    assert read_outcomes(log).of("teacher")["fallback"].tolist() == [True, False]
    log = to_table([exposure("a", "u1", "rules", 1.0, failed="busy"), exposure("b", "u2", "rules", 2.0)])
    assert read_outcomes(log).of("rules")["fallback"].tolist() == [True, False], "and so for every arm"


def test_only_what_came_since_the_last_change_counts() -> None:
    log = to_table([exposure("a", "u1", "teacher", 1.0), exposure("b", "u1", "student", 2.0, experiment=2)])
    outcomes = read_outcomes(log, version=2)
    assert (outcomes.users(), outcomes.left_out, outcomes.moved) == ({"student": 1}, 1, 0)


def test_a_click_counts_once_and_on_what_was_shown() -> None:
    log = to_table(
        [
            *(exposure(request, "u1", "teacher", n) for n, request in enumerate("abcd")),
            feedback("a", "i1"),
            feedback("a", "i2"),
            feedback("b", "i9"),
            feedback("c", "i1", event="buy"),
            feedback("?", "i1"),
        ]
    )
    assert read_outcomes(log).requests["clicked"].tolist() == [True, False, False, False]
    assert read_outcomes(log, "buy").requests["clicked"].tolist() == [False, False, True, False]


def test_sums_by_user() -> None:
    requests = read_outcomes(
        to_table(
            [
                exposure("a", "u1", "teacher", 1.0, fallback=True),
                exposure("b", "u2", "teacher", 2.0),
                exposure("c", "u1", "teacher", 3.0, fallback=True),
                {**exposure("d", "u1", "teacher", 4.0), "kind": "failure", "fallback": None},
            ]
        )
    ).requests
    assert [part.tolist() for part in sum_by_user(requests, "fallback")] == [[2, 0], [3, 1]]
    assert [part.tolist() for part in sum_by_user(requests, "fallback", "answered")] == [[2, 0], [2, 1]]


def test_coverage_is_of_blocks_of_users_by_what_they_saw_first() -> None:
    shown = {"u1": ["i1", "i2"], "u2": ["i1", "i3"], "u3": ["i5", "i6"], "u4": ["i7", "i8"], "u5": ["i1", "i2"]}
    log = to_table(
        [exposure(user, user, "teacher", n, items=items) for n, (user, items) in enumerate(shown.items())]
        + [exposure("again", "u1", "teacher", 0.5, items=["i9", "i10"])]
    )
    requests = read_outcomes(log).requests
    assert np.allclose(measure_coverage(requests, 2), [3 / 4, 1])
    assert measure_coverage(requests[:0], 2).size == 0


def test_an_empty_log() -> None:
    outcomes = read_outcomes(to_table([]))
    assert (outcomes.users(), outcomes.left_out, outcomes.moved) == ({}, 0, 0)
