"""What data preparation is asked to do."""

from typing import Literal

from recsys.config import Field, configuration


@configuration
class ColumnsConfig:
    """Names of the columns of a generic table, or of RecBole files.

    Attributes:
        timestamp: None where there is no such column: the order is then that of the file.
        rating: needed by `min_rating` alone.
    """

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
        path: folder or file (`table`: the interactions file), local or a URI.
        items_path: for `table`, the file with item ids and titles.
        download: for `ml-100k` without `path`, fetch it.
        cache: folder for fetched archives; default `$XDG_CACHE_HOME/recsys-distill`.
        min_user_interactions, min_item_interactions: k-core, iterated until nothing changes; 1 keeps everything.
        protocol, every_prefix: see `recsys.data.splits`; `global_time` also drops items without a title.
        min_rating: drop interactions rated lower; None keeps all.
        max_history: longest history a model is shown (BIGRec and DLLM2Rec use 10).
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

    def __post_init__(self) -> None:
        # A setting that would be ignored is a mistake worth a sentence.
        if self.items_path is not None and self.source != "table":
            raise ValueError(f"items_path belongs to source=table; {self.source} finds its items beside the log")
        if self.every_prefix and self.protocol != "global_time":
            raise ValueError("every_prefix belongs to protocol=global_time; leave it out")
        if self.columns != ColumnsConfig() and self.source not in ("table", "recbole"):
            raise ValueError(f"columns belong to source=table or recbole; those of {self.source} are fixed")
        if self.min_rating is not None and self.source == "table" and self.columns.rating is None:
            raise ValueError("min_rating needs columns.rating, the name of the column with ratings")
