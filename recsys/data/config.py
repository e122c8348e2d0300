"""What data preparation is asked to do."""

from typing import Literal

from recsys.config import Field, configuration


@configuration
class ColumnsConfig:
    """Names of the columns of a generic table."""

    user: str = "user_id"
    item: str = "item_id"
    timestamp: str | None = "timestamp"
    rating: str | None = None
    title: str = "title"


@configuration
class DataConfig:
    """Where the interactions come from, and how they become sequences and rows.

    Attributes:
        source: format of the source; `ml-100k` can be fetched, the others need `path`.
        path: folder or file (`table`: the interactions file).
        items_path: for `table`, the file with item ids and titles.
        download: for `ml-100k` without `path`, fetch it.
        cache: folder for fetched archives; default `$XDG_CACHE_HOME/recsys-distill`.
        min_user_interactions, min_item_interactions: k-core, iterated until nothing changes; 1 keeps everything.
        min_rating: drop interactions rated lower; None keeps all.
        max_bad_rows: how many unparsable rows are tolerated (they are counted and reported).
    """

    source: Literal["ml-100k", "movielens-csv", "movielens-dat", "recbole", "table"] = "ml-100k"
    path: str | None = None
    items_path: str | None = None
    columns: ColumnsConfig = ColumnsConfig()
    download: bool = True
    cache: str | None = None
    protocol: Literal["leave_one_out", "global_time"] = "leave_one_out"
    every_prefix: bool = False
    min_user_interactions: int = Field(default=5, ge=1)
    min_item_interactions: int = Field(default=5, ge=1)
    min_rating: float | None = None
    max_bad_rows: int = Field(default=0, ge=0)
    max_history: int = Field(default=50, ge=1)
