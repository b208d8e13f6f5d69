"""Copies of a model in one file, as weights and their average, stay copies when the same fault is cured in both."""

import pytest
import torch

import initaudit
from tests.build import he

FAULTY = ("2.weight", "4.weight")


def net() -> dict[str, torch.Tensor]:
    made = {f"{2 * k}.weight": torch.tensor(he(16, 16, k)) for k in range(4)}
    made |= {f"{2 * k}.bias": torch.zeros(16) for k in range(4)}
    made["2.weight"][3, 3] = torch.nan
    made["4.weight"].zero_()
    return made


def copy(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in tensors.items()}


def fixed(tmp_path, value, **settings):
    torch.save(value, tmp_path / "net.pt")
    repair = initaudit.fix(tmp_path / "net.pt", output=tmp_path / "out.pt", force=True, **settings)
    assert repair.output
    return torch.load(tmp_path / "out.pt"), repair


@pytest.mark.parametrize("names", [("state_dict", "state_dict_ema"), ("encoder_q", "encoder_k")])
@pytest.mark.parametrize("settings", [{}, {"scheme": "he", "all": True}])
def test_copies_are_drawn_alike_and_as_the_model_alone(tmp_path, names, settings):
    alone, _ = fixed(tmp_path, net(), **settings)
    both, repair = fixed(tmp_path, {name: copy(net()) for name in names}, **settings)
    assert {recipe.within for recipe in repair.plan.recipes} == {f"{name}." for name in names}
    drawn = {recipe.tensor.name.partition(".")[2] for recipe in repair.plan.recipes}  # zeros here may be meant there
    assert drawn >= set(FAULTY if settings else FAULTY[:1])
    for name in names:
        assert all(torch.equal(alone[key] if key in drawn else net()[key], value) for key, value in both[name].items())
        assert not any(torch.equal(net()[key], both[name][key]) for key in drawn)


@pytest.mark.parametrize("case", ["of another draw", "blocks", "constants", "a part of it"])
def test_what_only_looks_like_a_copy_is_drawn_by_itself(tmp_path, case):
    if case == "of another draw":
        other = net()
        other["0.weight"] = torch.tensor(he(16, 16, 9))
        value = {"one": net(), "other": other}
    elif case == "blocks":  # told apart by a number
        value = {f"layers.{k}.{name}": tensor for k in range(2) for name, tensor in net().items()}
    elif case == "constants":
        value = {f"{name}.weight": torch.zeros(16, 16) for name in ("one", "other")}
    else:
        rest = {f"rest.{k}.weight": torch.tensor(he(16, 16, 20 + k)) for k in range(8)}
        value = {f"{part}.{name}": tensor for part in ("q", "k") for name, tensor in net().items()} | rest
    _, repair = fixed(tmp_path, value, scheme="he", all=True)
    assert {recipe.within for recipe in repair.plan.recipes} == {""}
    drawn = [row.after.stats.rows.hash.tobytes() for row in repair.rows if row.after is not None]
    assert len(set(drawn)) == len(drawn)
