"""Unit tests compute on one thread: tiny tensors gain nothing from more, and busy machines lose much."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
