"""Records of made-up trials, as the tests of what sweeps write have them."""

from tests.unit.tuning.conftest import record  # noqa: F401
