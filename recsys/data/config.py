"""What data preparation is asked to do."""

from typing import Literal

from recsys.config import Field, NotInKey, configuration

NAMES_ITEMS = ("table", "amazon")
"""Sources whose catalogue is named by `items_path`."""


@configuration
class ColumnsConfig:
    """Names of the columns of a generic table, or of RecBole files.

    Attributes:
        timestamp: None where there is no such column: the order is then that of the file.
        rating: needed by `min_rating` alone.
        attributes: columns of the catalogue that are kept to filter recommendations by, such as category and brand; a
            value such as `Drama|Comedy` is two. Of MovieLens the genres are kept without being named.
    """

    user: str = "user_id"
    item: str = "item_id"
    timestamp: str | None = "timestamp"
    rating: str | None = None
    title: str = "title"
    attributes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.attributes)) < len(self.attributes):
            raise ValueError(f"attributes name a column twice: {', '.join(self.attributes)}")


@configuration
class DataConfig:
    """Where the interactions come from, and how they become sequences and rows.

    Attributes:
        source: format of the source; `ml-100k` can be fetched, the others need `path`. `amazon`: reviews and metadata
            of 2014, 2018 and 2023.
        path: folder or file (`table`, `amazon`: the interactions file), local or a URI.
        items_path: for `table` and `amazon`, the file with item ids and titles.
        encoding: of the text files; `auto` takes a file for UTF-8 unless most of its characters beyond ASCII are broken
            in it, then for Windows-1252 or latin-1. Telling takes a pass over a log, which naming one spares.
        time_unit: of times that are numbers; `auto` tells it by their size (`recsys.data.readers.times`) and refuses
            times near 1970 (0, −1) among dates. Naming one takes every number as it is.
        min_matched: share of the log's items that the catalogue must hold, where there is one: less is taken for ids
            that are written in two ways. 0 lets everything pass.
        download: for `ml-100k` without `path`, fetch it.
        cache: folder for fetched archives; default `$XDG_CACHE_HOME/recsys-distill`.
        min_user_interactions, min_item_interactions: k-core, iterated until nothing changes; 1 keeps everything.
        protocol, every_prefix: see `recsys.data.splits`; `global_time` also drops items without a title. The k-core
            filter above runs as well: the rule of the paper has none (`ray_jobs/configs/paper-toys.yaml`).
        train_rows: under `global_time`, what is learned from: the rows of the `rule`; or every interaction that has one
            before it, of what the rule's training rows and their histories hold (`seen`: another model of the same
            data) or of all that happened before the first validation target (`all`). Validation and test rows are the
            same in each.
        min_rating: drop interactions rated lower; None keeps all.
        max_history: longest history a model is shown (BIGRec and DLLM2Rec use 10).
        max_bad_rows: how many unreadable rows are tolerated (they are counted and reported).
    """

    source: Literal["ml-100k", "movielens-csv", "movielens-dat", "recbole", "table", "amazon"] = "ml-100k"
    path: NotInKey[str | None] = None
    items_path: NotInKey[str | None] = None
    columns: ColumnsConfig = ColumnsConfig()
    encoding: str = "auto"
    time_unit: Literal["auto", "s", "ms", "us", "ns"] = "auto"
    min_matched: float = Field(default=0.5, ge=0, le=1)
    download: NotInKey[bool] = True
    cache: NotInKey[str | None] = None
    protocol: Literal["leave_one_out", "global_time"] = "leave_one_out"
    every_prefix: bool = False
    train_rows: Literal["rule", "seen", "all"] = "rule"
    min_user_interactions: int = Field(default=5, ge=1)
    min_item_interactions: int = Field(default=5, ge=1)
    min_rating: float | None = None
    max_bad_rows: int = Field(default=0, ge=0)
    max_history: int = Field(default=50, ge=1)

    def __post_init__(self) -> None:
        # A setting that would be ignored is a mistake worth a sentence.
        if self.items_path is not None and self.source not in NAMES_ITEMS:
            raise ValueError(
                f"items_path belongs to source=table or amazon; {self.source} finds its items beside the log"
            )
        if self.every_prefix and self.protocol != "global_time":
            raise ValueError("every_prefix belongs to protocol=global_time; leave it out")
        if self.train_rows != "rule" and (self.protocol != "global_time" or self.every_prefix):
            raise ValueError(
                "train_rows belongs to protocol=global_time without every_prefix, which takes all; leave it out"
            )
        if self.encoding != "auto" and not _keeps_ascii(self.encoding):
            raise ValueError(
                f"encoding {self.encoding!r} cannot be read; give auto, utf-8, cp1252, latin-1 or the like"
            )
        if self.columns != ColumnsConfig() and self.source not in ("table", "recbole"):
            raise ValueError(f"columns belong to source=table or recbole; those of {self.source} are fixed")
        if self.columns.attributes and self.source == "table" and self.items_path is None:
            raise ValueError("columns.attributes are columns of the catalogue; name its file in items_path")
        if self.min_rating is not None and self.source == "table" and self.columns.rating is None:
            raise ValueError("min_rating needs columns.rating, the name of the column with ratings")


def _keeps_ascii(encoding: str) -> bool:
    """Whether line ends, quotes and delimiters are those of ASCII in it."""
    marks = '\t\n\r",:;|0'
    try:
        return marks.encode(encoding) == marks.encode()
    except (LookupError, UnicodeError):
        return False
