"""The small dataset of the tests of serving without Ray."""

from tests.unit.serving.conftest import dataset  # noqa: F401
