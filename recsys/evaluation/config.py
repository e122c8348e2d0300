"""What an evaluation measures."""

from recsys.config import Field, configuration


@configuration
class EvaluationConfig:
    """Full ranking on the test rows.

    Attributes:
        mask_seen: whether items of the user's past are removed from the candidates; reported both ways, this one
            is shown first.
        batch_size: rows scored at once; memory is batch_size · N scores.
        recent_days: window of the recent-popularity baseline, counted back from the last training interaction.
    """

    mask_seen: bool = True
    batch_size: int = Field(default=256, ge=1)
    recent_days: float = Field(default=30.0, gt=0)
