"""What the demo does where its language model cannot be had."""

from recsys.decoders.pretrained import SMOLLM2, local_folder
from recsys.errors import UserError
from recsys.settings import Settings
from recsys.teachers.config import E4SRecConfig

FROM_SCRATCH = (
    "teacher.model.llm=from-scratch",
    "teacher.model.base_layers=null",
    "teacher.model.lora=null",
    "teacher.training.epochs=12",
    "teacher.training.precision=fp32",
)


def replace_language_model(settings: Settings) -> list[str]:
    """Fetch the language model that the teacher is made of, so that no work comes before it.

    Returns:
        Nothing where it is there or not needed; otherwise, with a line that says why, the settings of a teacher from
        scratch.
    """
    model = settings.teacher.model
    if not isinstance(model, E4SRecConfig) or model.llm != SMOLLM2.name or _trained(settings):
        return []
    try:
        local_folder(SMOLLM2.name)
    except UserError as error:
        print(f"{error}. The demo goes on with a small language model from scratch as its teacher", flush=True)
        return list(FROM_SCRATCH)
    return []


def _trained(settings: Settings) -> bool:
    from recsys.stages import teacher
    from recsys.stages.artefacts import is_current

    try:
        return is_current(settings.layout.teacher, teacher.key(settings))
    except UserError:  # what it is made from is not there yet
        return False
