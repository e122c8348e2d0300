"""What the diagnosis of a log looks at."""

from recsys.config import Field, configuration


@configuration
class WorthItConfig:
    """Whether a language model is worth its cost on a log.

    Attributes:
        rows: validation rows that counting is tried on: a seeded sample, or all where there are no more.
        pairs: pairs of consecutive items whose titles are compared, likewise.
        latest: how many of the latest items counting is shown, one try for each, besides all of them.
        core_hour, gpu_hour: what an hour of a core and of a GPU costs, in any currency.
    """

    rows: int = Field(default=10_000, ge=1)
    pairs: int = Field(default=100_000, ge=1)
    latest: tuple[int, ...] = (1, 2, 3, 5)
    core_hour: float = Field(default=0.05, ge=0)
    gpu_hour: float = Field(default=2.5, ge=0)

    def __post_init__(self) -> None:
        if not self.latest or min(self.latest) < 1 or sorted(set(self.latest)) != list(self.latest):
            raise ValueError("latest are numbers of items from 1 up, ascending, such as [1, 2, 3]")
