"""The report, drawn from what was evaluated and measured: `<storage>/<name>/report/report.html` and PNG pictures.

It needs the ladder of the evaluation; the latencies of the A/B measurement are in it where they were measured.
"""

from typing import Any

from recsys import storage
from recsys.config import digest
from recsys.errors import UserError
from recsys.evaluation import results
from recsys.evaluation.ladder import LADDER
from recsys.evaluation.report import write_report
from recsys.settings import Settings
from recsys.stages.artefacts import alone, is_current, start_run

_VERSION = 1  # of the report's form: raise it when equal results would be drawn otherwise


def key(ladder: dict[str, Any], ab: dict[str, Any] | None) -> str:
    """Digest of what the report shows."""
    return digest({"version": _VERSION, "ladder": ladder, "ab": ab})


@alone(lambda settings, *_, **__: (settings.layout.report, "the report"))
def make(settings: Settings, *, force: bool = False) -> str:
    """Write the report unless it is there already; its URI.

    Raises:
        UserError: nothing was evaluated yet, or a result of the ladder is gone.
    """
    layout = settings.layout
    page = storage.join(layout.report, "report.html")
    ladder = storage.read_json_if_whole(storage.join(layout.results, f"{LADDER}.json"))
    if not isinstance(ladder, dict):
        raise UserError(f"there is no ladder in {layout.results}; run evaluate first")
    ab = storage.read_json_if_whole(storage.join(layout.results, "ab.json"))
    work = key(ladder, ab)
    if not force and is_current(layout.report, work):
        print(f"report: unchanged, kept ({page})", flush=True)
        return page
    found = {row["name"]: results.read_result(layout.results, row["name"]) for row in ladder["rows"]}
    gone = [name for name, result in found.items() if result is None]
    if gone:
        raise UserError(f"the results of {', '.join(gone)} are gone from {layout.results}; run evaluate again")
    whole = {name: result for name, result in found.items() if result is not None}
    with (
        start_run(settings, "report") as recorded,
        storage.new_artifact(layout.report, key=work) as directory,
    ):
        write_report(directory, ladder, whole, ab)
        recorded.log_artifact(directory)
    print(f"report: {page}", flush=True)
    return page
