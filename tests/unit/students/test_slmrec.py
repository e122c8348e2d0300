"""Depth as a dial: read-outs and cuts of tiny teachers with random weights, and students taught block by block."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModel

from recsys.checkpoint import load_checkpoint, save_checkpoint
from recsys.data.prepared import PreparedDataset
from recsys.decoders.item_encoder import TextEmbeddings
from recsys.errors import UserError
from recsys.histories import Histories
from recsys.losses.config import AlignmentConfig, RecommendationLossConfig
from recsys.students.config import SASRecConfig, SLMRecConfig
from recsys.students.sasrec import SASRec
from recsys.students.slmrec import SLMRecObjective, build_slmrec
from recsys.teachers.config import E4SRecConfig, HLLMConfig
from recsys.teachers.e4srec import E4SRec
from recsys.teachers.hllm import HLLM
from recsys.teachers.layered import LayeredTeacher
from recsys.training.batches import histories_of
from recsys.training.config import TrainingConfig
from recsys.training.loop import Epoch, TrainingResult, train, train_local
from recsys.training.windows import Windows

LOSS = RecommendationLossConfig()
ITEMS = Histories.of(torch.randint(1, 61, (4, 8), generator=torch.Generator().manual_seed(1)))


def e4srec(**options: Any) -> E4SRec:
    torch.manual_seed(3)
    config: dict[str, Any] = {"kind": "e4srec", "width": 16, "heads": 2, "layers": 4, "dropout": 0.0, **options}
    return E4SRec.build(E4SRecConfig(**config), torch.randn(61, 12)).eval()


def hllm(dataset: PreparedDataset) -> HLLM:
    torch.manual_seed(3)
    text = TextEmbeddings(torch.randn(61, 10), torch.zeros(61, dtype=torch.bool))
    return HLLM.build(HLLMConfig(width=16, heads=2, hidden=0, layers=4, dropout=0.0), dataset, text).eval()


@pytest.fixture
def dataset(random_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    return random_dataset()


@pytest.fixture(params=["dot", "linear", "response", "hllm"])
def teacher(request: pytest.FixtureRequest, dataset: PreparedDataset) -> LayeredTeacher:
    made = {
        "dot": e4srec,
        "linear": lambda: e4srec(head="linear"),
        "response": lambda: e4srec(response_vectors=2),
        "hllm": lambda: hllm(dataset),
    }
    return made[request.param]()


def test_read_outs_are_the_cut_models(teacher: LayeredTeacher) -> None:
    with torch.no_grad():
        found = teacher.readouts(ITEMS, [1, 3, 4])
        assert torch.equal(found[4], teacher.hidden(ITEMS)), "at the last layer it is the whole model"
        for number in (1, 3):
            assert torch.equal(found[number], teacher.cut(number).hidden(ITEMS))
            assert not torch.allclose(found[number], found[4])
        states = teacher.states(ITEMS, [2, 4])
        assert all(state.shape == (4, 8, 16) for state in states.values())


def test_states_keep_their_gradients_under_checkpointing() -> None:
    model = e4srec().train()

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        sum(state.square().sum() for state in model.states(ITEMS, [2, 4]).values()).backward()
        return [parameter.grad.clone() for parameter in model.llm.parameters()]

    whole = gradients()
    model.llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for ours, theirs in zip(gradients(), whole, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("layers", [2, [2, 4], [1, 2, 3, 4]])
def test_cut_and_save_is_cut_in_memory(
    teacher: LayeredTeacher, dataset: PreparedDataset, tmp_path: Path, layers: int | list[int]
) -> None:
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    cut = teacher.cut(layers)
    save_checkpoint(str(tmp_path / "cut"), cut, dataset)
    loaded = load_checkpoint(tmp_path / "cut").model
    with torch.no_grad():
        assert torch.equal(loaded.hidden(ITEMS), cut.hidden(ITEMS))
        assert torch.equal(loaded.item_vectors(), teacher.item_vectors())
        if layers == [1, 2, 3, 4]:
            assert torch.equal(cut.hidden(ITEMS), teacher.hidden(ITEMS))
    assert isinstance(loaded, type(teacher)) and loaded.depth == (layers if isinstance(layers, int) else len(layers))
    assert teacher.depth == 4 and teacher.config.layers == 4
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_a_cut_keeps_the_layers_it_names() -> None:
    whole, cut = e4srec(), e4srec().cut([2, 4])
    for place, number in enumerate((2, 4)):
        for ours, theirs in zip(
            cut.llm.layers[place].parameters(), whole.llm.layers[number - 1].parameters(), strict=True
        ):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("start", ["teacher", "fresh"])
def test_every_nth_layer_is_kept(dataset: PreparedDataset, tmp_path: Path, start: str) -> None:
    deep = checkpoint(e4srec(), dataset, tmp_path / "teacher")
    model = build_slmrec(slm(every=2, start=start), dataset, deep, loss=LOSS).model
    assert model.depth == 2
    if start == "teacher":
        expected = deep.model.cut([2, 4]).state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("layers", "message"), [(5, "5 layers cannot"), ([2, 1], "ascending"), ([0, 1], "1 to 4")])
def test_layers_that_are_not_there(layers: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        e4srec().cut(layers)


def checkpoint(model: Any, dataset: PreparedDataset, folder: Path) -> Any:
    save_checkpoint(str(folder), model, dataset)
    return load_checkpoint(folder)


def slm(**values: Any) -> SLMRecConfig:
    return SLMRecConfig(kind="slmrec", **values)


def test_the_objective_is_the_sum_of_its_parts(dataset: PreparedDataset, tmp_path: Path) -> None:
    deep = checkpoint(e4srec(), dataset, tmp_path / "teacher")
    alignment = AlignmentConfig(blocks=2, cosine=1.5, norm=0.2, supervision=0.7, logits=0.4)
    config = slm(layers=2, start="fresh", width=8, heads=2)
    objective = build_slmrec(config, dataset, deep, loss=LOSS, alignment=alignment).eval()
    assert objective.model.width == 8 and len(objective.projections) == 2 and len(objective.adapters) == 1
    batch, _ = next(iter(Windows(dataset, max_history=8, batch_size=4, seed=0).epoch(0)))
    loss, parts = objective(batch)

    chosen, targets = batch["targets"] > 0, batch["targets"][batch["targets"] > 0]
    vectors = objective.model.item_vectors()
    ours = objective.model.states(histories_of(batch), [1, 2])
    theirs = deep.model.states(histories_of(batch), [2, 4])
    cosine = norm = torch.zeros(())
    for block in (0, 1):
        projected = objective.projections[block](ours[block + 1])[chosen]
        wanted = theirs[2 * block + 2][chosen]
        cosine = cosine + (1 - functional.cosine_similarity(projected, wanted, dim=1)).sum() / 2
        norm = norm + ((projected - wanted) ** 2).sum() / 2
    early = objective.model.cut(1).hidden(histories_of(batch))[chosen] @ vectors[1:].T  # adapters begin as the identity
    last = objective.model.hidden(histories_of(batch))[chosen] @ vectors[1:].T
    deepest = deep.model.hidden(histories_of(batch))[chosen] @ vectors[1:].T
    expected = {
        "recommendation_loss": functional.cross_entropy(last, targets - 1, reduction="sum"),
        "cosine_alignment_loss": cosine,
        "norm_alignment_loss": norm,
        "supervision_loss": functional.cross_entropy(early, targets - 1, reduction="sum"),
        "logit_alignment_loss": functional.kl_div(last.log_softmax(1), deepest.softmax(1), reduction="sum"),
    }
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value, atol=1e-3, rtol=1e-4, msg=name)
    weights = dict(zip(expected, (1, 1.5, 0.2, 0.7, 0.4), strict=True))
    total = sum(weight * expected[name] for name, weight in weights.items())
    torch.testing.assert_close(loss, total, atol=1e-2, rtol=1e-4)
    loss.backward()
    assert all(parameter.grad is not None for parameter in objective.parameters()), "data parallelism needs every one"
    assert all(not parameter.requires_grad for parameter in deep.model.parameters())
    assert not any("frozen" in name for name in objective.state_dict()), "the teacher is no part of the resume state"


def test_a_student_from_its_teacher_learns(dataset: PreparedDataset, tmp_path: Path) -> None:
    deep = checkpoint(e4srec(), dataset, tmp_path / "teacher")
    alignment = AlignmentConfig(blocks=2)
    objective = build_slmrec(slm(layers=2, start="fresh"), dataset, deep, loss=LOSS, alignment=alignment)
    assert objective.model.depth == 2
    config = TrainingConfig(epochs=4, batch_size=4, learning_rate=3e-3, patience=0)
    result = train(objective, dataset, config, report=lambda epoch: None)
    curve = [record["cosine_alignment_loss"] for record in result.progress.curve]
    assert curve[-1] < curve[0]
    save_checkpoint(str(tmp_path / "student"), objective.model, dataset, state=result.state)
    assert load_checkpoint(tmp_path / "student").model.depth == 2


def test_online_the_teacher_learns_the_next_item_and_nothing_else(dataset: PreparedDataset, tmp_path: Path) -> None:
    deep = checkpoint(e4srec(), dataset, tmp_path / "teacher")
    alignment = AlignmentConfig(blocks=2, logits=1.0, online=True)
    objective = build_slmrec(slm(layers=2), dataset, deep, loss=LOSS, alignment=alignment)
    batch, _ = next(iter(Windows(dataset, max_history=8, batch_size=4, seed=0).epoch(0)))
    loss, parts = objective(batch)
    loss.backward()
    chosen, targets = batch["targets"] > 0, batch["targets"][batch["targets"] > 0]
    alone = e4srec().train()
    logits = alone.hidden(histories_of(batch))[chosen] @ alone.item_vectors()[1:].T
    expected = functional.cross_entropy(logits, targets - 1, reduction="sum")
    expected.backward()
    torch.testing.assert_close(parts["teacher_loss"], expected.detach())
    for ours, theirs in zip(objective.deep.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)
    assert all(parameter.grad is not None for parameter in objective.parameters())
    with pytest.raises(ValueError, match="nothing is taken from it"):
        AlignmentConfig(cosine=0, norm=0, online=True)
    for nothing in ({"blocks": 1}, {"supervision": 0}):
        with pytest.raises(ValueError, match="nothing is learned but the next item"):
            AlignmentConfig(**{"cosine": 0, "norm": 0, **nothing})
    assert AlignmentConfig(cosine=0, norm=0, blocks=2).supervision, "multi-supervision needs no teacher"


@pytest.mark.parametrize("start", ["teacher", "fresh"])
def test_online_the_teacher_starts_as_the_student_does(dataset: PreparedDataset, tmp_path: Path, start: str) -> None:
    deep = checkpoint(e4srec(), dataset, tmp_path / "teacher")
    trained = {name: tensor.clone() for name, tensor in deep.model.llm.named_parameters()}
    alignment = AlignmentConfig(blocks=2, online=True)
    objective = build_slmrec(slm(layers=2, start=start), dataset, deep, loss=LOSS, alignment=alignment)
    same = [torch.equal(tensor, trained[name]) for name, tensor in objective.deep.llm.named_parameters()]
    assert all(same) == (start == "teacher")


def test_a_fresh_student_follows_its_seed(dataset: PreparedDataset, tmp_path: Path) -> None:
    def student(seed: int) -> torch.Tensor:
        deep = checkpoint(e4srec(), dataset, tmp_path / "teacher")
        model = build_slmrec(slm(layers=2, start="fresh"), dataset, deep, loss=LOSS, seed=seed).model
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(student(1), student(1))
    assert not torch.equal(student(1), student(2))


def test_an_interrupted_training_continues_as_if_it_was_not(dataset: PreparedDataset, tmp_path: Path) -> None:
    deep = checkpoint(e4srec(dropout=0.1), dataset, tmp_path / "teacher")

    def fit(folder: str, report: Callable[[Epoch], None] | None = None) -> TrainingResult:
        config = TrainingConfig(epochs=4, batch_size=4, learning_rate=3e-3, patience=0)
        objective = build_slmrec(
            slm(layers=2, start="fresh", width=8, heads=2),
            dataset,
            load_checkpoint(tmp_path / "teacher"),
            loss=LOSS,
            alignment=AlignmentConfig(blocks=2),
        )
        return train_local(objective, dataset, config, tmp_path / folder, report=report)

    class Killed(Exception):
        pass

    def stop(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise Killed

    with pytest.raises(Killed):
        fit("parts", stop)
    resumed, whole = fit("parts"), fit("whole")
    assert deep.model.depth == 4
    assert all(torch.equal(tensor, resumed.state[name]) for name, tensor in whole.state.items())


def test_adapters_on_a_cut(dataset: PreparedDataset, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    deep = checkpoint(e4srec(), dataset, tmp_path / "teacher")
    with pytest.raises(UserError, match=r"lora\.targets c_attn: .*not found in the base model"):
        build_slmrec(slm(layers=2, lora={"targets": ["c_attn"]}), dataset, deep, loss=LOSS)
    config = slm(layers=2, lora={"rank": 2})
    objective = build_slmrec(config, dataset, deep, loss=LOSS, alignment=AlignmentConfig(blocks=2))
    trained = {name for name, parameter in objective.model.named_parameters() if parameter.requires_grad}
    adapted = {name.split(".")[4] for name in trained if "lora_A" in name}
    assert adapted == {"gate_proj", "up_proj", "down_proj"} and not any("q_proj" in name for name in trained)
    result = train(objective, dataset, TrainingConfig(epochs=1, batch_size=4), report=lambda epoch: None)
    save_checkpoint(str(tmp_path / "student"), objective.model, dataset, state=result.state)
    loaded = load_checkpoint(tmp_path / "student").model
    with torch.no_grad():
        assert torch.allclose(loaded.hidden(ITEMS), objective.model.eval().hidden(ITEMS), atol=1e-4)
    assert not torch.allclose(loaded.hidden(ITEMS), deep.model.cut(2).hidden(ITEMS), atol=1e-3)
    trained_on = objective.model.eval().cut(1)
    trained_on.save_transformers(tmp_path / "plain")
    plain = AutoModel.from_pretrained(tmp_path / "plain").eval()
    inputs = torch.randn(2, 5, 16)
    with torch.no_grad():
        expected = trained_on.decoder(inputs_embeds=inputs).last_hidden_state
        torch.testing.assert_close(plain(inputs_embeds=inputs).last_hidden_state, expected, atol=1e-4, rtol=1e-4)


def test_one_row_a_user(dataset: PreparedDataset, tmp_path: Path) -> None:
    deep = checkpoint(e4srec(), dataset, tmp_path / "teacher")
    objective = build_slmrec(slm(layers=1, rows="one-a-user"), dataset, deep, loss=LOSS)
    assert isinstance(objective, SLMRecObjective) and objective.adapters is not None
    batches = list(objective.batches(dataset, TrainingConfig(batch_size=5), rank=0, world=1).epoch(0))
    rows = np.concatenate([batch["rows"][batch["targets"] > 0].numpy() for batch, _ in batches])
    train_rows = dataset.rows("train")
    users = dataset.users_of(train_rows)
    expected = [train_rows[users == user].max() for user in np.unique(users)]
    assert sorted(rows) == expected and sum(total for _, total in batches) == len(expected)
    for batch, _ in batches:
        for items, row in zip(batch["items"], batch["rows"].max(1).values.tolist(), strict=True):
            history, length = dataset.histories(np.array([row]))
            assert items[items > 0].tolist() == history[0, : length[0]].tolist()


def test_what_does_not_fit_is_one_line(
    dataset: PreparedDataset, random_dataset: Callable[..., PreparedDataset], tmp_path: Path
) -> None:
    deep = checkpoint(e4srec(), dataset, tmp_path / "teacher")
    with pytest.raises(UserError, match=r"blocks is 4, .* student's 2 and the teacher's 4 layers; possible: 1, 2"):
        build_slmrec(slm(layers=2), dataset, deep, loss=LOSS, alignment=AlignmentConfig())
    with pytest.raises(UserError, match="every is 3, which does not divide the teacher's 4 layers"):
        build_slmrec(slm(every=3), dataset, deep, loss=LOSS)
    for start in ("teacher", "fresh"):
        for depth, message in (
            ({"layers": 10}, "10 layers cannot be kept of a model of 4"),
            ({"keep": (3, 9)}, r"layers \[3, 9\] cannot be kept of a model of 4"),
            ({"keep": (2, 1)}, "in ascending order"),
        ):
            with pytest.raises(UserError, match=message):
                build_slmrec(slm(start=start, **depth), dataset, deep, loss=LOSS)
    for model in (deep, checkpoint(hllm(dataset), dataset, tmp_path / "hllm")):
        with pytest.raises(UserError, match=r"width 18 must be a multiple of twice the heads \(2\)"):
            build_slmrec(slm(layers=2, start="fresh", width=18), dataset, model, loss=LOSS)
    with pytest.raises(UserError, match=r"trained on dataset .* train the teacher on this dataset"):
        build_slmrec(slm(layers=2), random_dataset(seed=9), deep, loss=LOSS)
    plain = checkpoint(SASRec(SASRecConfig(width=8, heads=1), num_items=60), dataset, tmp_path / "plain")
    with pytest.raises(UserError, match="its teacher is of kind sasrec"):
        build_slmrec(slm(layers=2), dataset, plain, loss=LOSS)
    with pytest.raises(ValueError, match="exactly one of layers, every and keep"):
        slm()
    with pytest.raises(ValueError, match="set start=fresh"):
        slm(layers=2, width=16)
