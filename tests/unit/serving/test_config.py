"""What the section `serving` of a configuration may say."""

from dataclasses import replace

import pytest

from recsys.config import from_dict
from recsys.errors import UserError
from recsys.serving.assignment import ARMS
from recsys.serving.config import ServingConfig
from recsys.settings import Settings


@pytest.mark.parametrize(
    ("serving", "message"),
    [
        ({"split": {"teacher": 0.5}}, r"serving: the shares of the split must add up to 1 \(got teacher 0.5\)"),
        ({"split": {"teacher": 1.5, "student": -0.5}}, "the share of student must be 0 or more"),
        ({"split": {}}, "add up to 1"),
        ({"split": {"teacher": float("nan"), "student": 1}}, r"serving\.split\.teacher: should be a finite number"),
        ({"split": {"techer": 1}}, "techer"),
        ({"arms": ["student", "null"]}, "split gives users to teacher, which is not one of arms"),
        ({"arms": ["teacher"], "split": {"teacher": 1}}, "default_arm student is not one of arms"),
        ({"scoring": "int8", "student_replicas": {"gpus": 1}}, "int8, which is for CPUs; set student_replicas.gpus=0"),
        (
            {
                "further_arms": {"a": {"model": "x", "in_ingress": True, "scoring": "int8"}},
                "student_replicas": {"gpus": 1},
            },
            "further_arms.a.scoring is int8, which is for CPUs; set student_replicas.gpus=0",
        ),
        ({"split": {"student": 1, "techer": 0}}, r"users to techer, .* one of arms \(teacher, student, null\)"),
        ({"arms": ["student", "challenger"]}, r"serving\.arms\.1: should be 'teacher', 'student' or 'null'"),
        ({"further_arms": {"null": {"model": "a"}}}, "a further arm cannot be called 'null'; choose another name"),
        ({"further_arms": {"none": {"model": "a"}}}, "a further arm cannot be called 'none'"),
        ({"further_arms": {"a b": {"model": "a"}}}, "'a b' cannot be a name"),
        ({"further_arms": {"a": {}}}, r"serving\.further_arms\.a\.model"),
        (
            {"further_arms": {"a": {"model": "x", "scoring": "int8", "replicas": {"gpus": 1}}}},
            "int8, which is for CPUs",
        ),
        ({"further_arms": {"a": {"model": "models:/x"}}}, "write models:/NAME@ALIAS or models:/NAME/NUMBER"),
        ({"further_arms": {"a": {"modle": "x"}}}, "did you mean model"),
        (
            {"further_arms": {"a": {"model": "x", "in_ingress": True, "replicas": {"cpus": 2}}}},
            "further_arms.a is in the ingress, whose replicas student_replicas describes",
        ),
        ({"further_arms": {"a": {"model": "export:a/b"}}}, "'a/b' cannot be a name"),
        (
            {"further_arms": {"a": {"model": "export:x", "scoring": "int8"}}},
            "export:x is scored by its program, on a CPU; set replicas.gpus=0 and scoring=exact",
        ),
        (
            {"further_arms": {"a": {"model": "export:x", "in_ingress": True}}, "student_replicas": {"gpus": 1}},
            r"further_arms\.a: export:x is for CPUs, but the ingress has GPUs; set in_ingress=false",
        ),
        ({"teacher_replicas": {"count": 3, "max_count": 2}}, r"max_count is 2, less than count \(3\); raise it"),
        ({"fallback": "challenger"}, "fallback challenger cannot answer for another arm; known: student, none"),
        ({"shadow_arm": "student"}, r"shadow_arm is student, but .* name one that is served \(teacher\)"),
        ({"shadow_arm": "challenger"}, "shadow_arm is challenger, but an arm with a model"),
    ],
)
def test_what_cannot_be_served(serving: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        from_dict(Settings, {"serving": serving})
    assert "\n" not in str(caught.value)


def test_further_arms_are_served_beside_the_three() -> None:
    split = {"teacher": 0.3, "student": 0.3, "challenger": 0.2, "rules": 0.1, "null": 0.1}
    ours = {"rules": {"model": "sequential-rules", "in_ingress": True}, "challenger": {"model": "sasrec"}}
    config = from_dict(
        ServingConfig, {"split": split, "further_arms": ours, "default_arm": "rules", "fallback": "rules"}
    )
    assert config.served == config.experiment.arms == (*ARMS, "challenger", "rules")
    assert config.models.keys() == {"teacher", "student", "challenger", "rules"}
    assert config.models["rules"].replicas == replace(config.student_replicas, batch=8), "where it lives"
    assert from_dict(ServingConfig, {}).served == ARMS


def test_arms_can_be_left_out() -> None:
    config = from_dict(ServingConfig, {"arms": ["student", "null"], "split": {"student": 0.9, "null": 0.1}})
    assert config.arms == ("student", "null")
