"""What an experiment is to show; written down before its first look."""

from recsys.config import Field, configuration
from recsys.serving.assignment import Arm


@configuration
class ExperimentConfig:
    """Whether `treatment` may take the place of `control`.

    Attributes:
        event: of `POST /feedback`, counted once an answer and on items that it showed.
        margin: how much lower the share of answers with an event may be, as a difference of shares.
        error_margin: how much higher the share of requests without an answer may be.
        fallback_margin: how much higher the share of answers without the arm's model may be.
        coverage_margin: how much lower the coverage may be: the share of different items among those that
            `coverage_users` users are shown first.
        confidence: of every interval, at all looks together.
        planned: answers of each arm at which the intervals are to be narrowest; they are valid at any number.
    """

    control: Arm = "teacher"
    treatment: Arm = "student"
    event: str = "click"
    margin: float = Field(default=0.01, ge=0, lt=1)
    error_margin: float = Field(default=0.01, ge=0, lt=1)
    fallback_margin: float = Field(default=0.02, ge=0, lt=1)
    coverage_margin: float = Field(default=0.1, ge=0, lt=1)
    coverage_users: int = Field(default=10, ge=2)
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    planned: int = Field(default=5000, ge=1)

    def __post_init__(self) -> None:
        if self.control == self.treatment:
            raise ValueError(f"control and treatment are both {self.control}; name two arms")
