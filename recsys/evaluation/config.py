"""What an evaluation measures."""

from recsys.config import Field, NotInKey, configuration


@configuration
class CoOccurrenceConfig:
    """The item co-occurrence baseline. The defaults did well on the validation rows of both MovieLens 100K and Beauty.

    Attributes:
        window: pairs of items of one user count when they are at most this many interactions apart.
        history: how many of the latest items of a history are looked up.
        decay: weight of an item relative to the one after it.
        normalisation: exponent of the neighbour's count that a pair is divided by; 0 favours popular items.
    """

    window: int = Field(default=10, ge=1)
    history: int = Field(default=10, ge=1)
    decay: float = Field(default=0.8, gt=0, le=1)
    normalisation: float = Field(default=0.25, ge=0, le=1)


@configuration
class SampledConfig:
    """`sampled_999`: the target among sampled negatives, as SLMRec reports it.

    Attributes:
        negatives: items drawn for a row from those that are neither its target nor of the user's past.
        seed: the negatives of a row depend on it and on the row alone.
    """

    negatives: int = Field(default=999, ge=1)
    seed: int = 0


@configuration
class EvaluationConfig:
    """Full ranking on the test rows.

    Attributes:
        mask_seen: whether items of the user's past are removed from the candidates; reported both ways, this one
            is shown first.
        batch_size: rows scored at once; memory is batch_size · N scores.
        recent_days: window of the recent-popularity baseline, counted back from the last training interaction.
        cooccurrence: constants of the co-occurrence baseline.
        sampled: report HR@1, HR@5, NDCG@5 and MRR among sampled negatives as well.
        latency_requests: single requests timed per model.
        bootstrap_samples: resamples of users for the interval of a difference.
        cpus, gpus: what one evaluation asks of the cluster.
    """

    mask_seen: bool = True
    batch_size: NotInKey[int] = Field(default=256, ge=1)
    recent_days: float = Field(default=30.0, gt=0)
    cooccurrence: CoOccurrenceConfig = CoOccurrenceConfig()
    sampled: SampledConfig | None = None
    latency_requests: int = Field(default=200, ge=1)
    bootstrap_samples: int = Field(default=2000, ge=100)
    cpus: NotInKey[float] = Field(default=0.9, gt=0)
    gpus: NotInKey[float] = Field(default=0, ge=0)

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"


def name_rule(mask_seen: bool) -> str:
    """Under which name results hold the metrics of a rule for items of the user's past."""
    return "masked" if mask_seen else "unmasked"
