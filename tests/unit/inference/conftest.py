"""The pass of every kind of teacher is tested here, BIGRec's with the tiny teachers of its own tests."""

from tests.unit.teachers.bigrec.conftest import cache, dataset, objective, teacher  # noqa: F401
