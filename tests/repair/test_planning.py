"""Which tensors are drawn again: those at fault, and nothing else."""

import numpy as np
import pytest
import torch
from torch import nn

import initaudit
from initaudit.edits import Plan
from initaudit.errors import UsageError
from initaudit.repair.planning import plan
from initaudit.types import Report, Role, State
from tests.build import layer, report


def stack(depth: int = 6, width: int = 48, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for k in range(depth - 1):
        layers += [nn.Linear(32 if k == 0 else width, width), act()]
    net = nn.Sequential(*layers, nn.Linear(width, 10))
    for name, p in net.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(p)
        else:
            nn.init.zeros_(p)
    return net


class Residual(nn.Module):
    def __init__(self, depth: int = 12, width: int = 48) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(32, width)
        self.grow = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.shrink = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 10)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for grow, shrink in zip(self.grow, self.shrink, strict=True):
            x = x + shrink(torch.relu(grow(x)))
        return self.head(x)


def checked(net: nn.Module) -> Report:
    return initaudit.check(net, torch.randn(16, 32, generator=torch.Generator().manual_seed(0)), probe=False)


def names(told: Plan) -> list[str]:
    return [recipe.tensor.name for recipe in told.recipes]


def schemes(told: Plan) -> dict[str, str]:
    return {recipe.tensor.name: recipe.scheme for recipe in told.recipes}


# ---- what is at fault


def test_nothing_is_planned_for_a_healthy_net():
    assert plan(checked(stack())) == Plan((), (), ())


@torch.no_grad()
@pytest.mark.parametrize("fault", ["zero", "constant", "nan", "rank one", "raw memory"])
def test_a_broken_weight_is_drawn_again_and_no_other(fault):
    net = stack()
    w = net[4].weight
    if fault == "zero":
        w.zero_()
    elif fault == "constant":
        w.fill_(0.1)
    elif fault == "nan":
        w[3, 5] = float("nan")
    elif fault == "rank one":
        w.copy_(torch.outer(torch.randn(48), torch.randn(48)))
    else:
        w[7] = 1e30
    told = plan(checked(net))
    assert schemes(told) == {"4.weight": "he"}
    assert told.recipes[0].why.startswith("INI")
    assert "brothers" in told.recipes[0].about or "place" in told.recipes[0].about


@torch.no_grad()
def test_only_the_copies_among_the_units_are_drawn():
    net = stack()
    net[4].weight[40:] = net[4].weight[:8]
    assert plan(checked(net)).recipes == ()  # what reads them differs: training parts them
    net[6].weight[:, 40:] = net[6].weight[:, :8]
    (recipe,) = plan(checked(net)).recipes
    assert recipe.units == tuple(range(40, 48))
    net[4].weight.copy_(net[4].weight[:1].expand(48, 48).clone())
    (recipe,) = plan(checked(net)).recipes
    assert recipe.units == tuple(range(1, 48))  # the first one is a fair draw
    net[4].weight.fill_(0.1)
    (recipe,) = plan(checked(net)).recipes
    assert recipe.units is None


@torch.no_grad()
def test_of_clones_the_first_stays():
    net = stack()
    net[6].weight.copy_(net[4].weight)
    net[8].weight.copy_(net[4].weight)
    assert names(plan(checked(net))) == ["6.weight", "8.weight"]


@torch.no_grad()
def test_a_broken_bias_starts_as_its_brothers_do():
    net = stack()
    net[4].bias[0] = float("nan")
    assert schemes(plan(checked(net))) == {"4.bias": "zeros"}
    torch.manual_seed(0)
    fresh = nn.Sequential(*(nn.Linear(32, 32) for _ in range(4)))
    fresh[1].bias[0] = float("inf")
    assert schemes(plan(checked(fresh))) == {"1.bias": "torch-default"}


@torch.no_grad()
def test_the_scale_and_the_statistics_of_a_norm_start_as_a_norm_makes_them():
    net = nn.Sequential(nn.Linear(32, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 10)).eval()
    net[1].weight[0] = float("nan")
    net[1].running_var[2] = -1.0
    assert schemes(plan(checked(net))) == {"1.weight": "ones", "1.running_var": "ones"}


@torch.no_grad()
def test_whole_models_that_are_copies_of_each_other_are_meant_so():
    class Twins(nn.Module):
        def __init__(self, one: str, other: str) -> None:
            super().__init__()
            self.add_module(one, stack())
            self.add_module(other, stack())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([child(x) for child in self.children()], 1)

    meant = plan(checked(Twins("policy", "mirror")))
    assert names(meant) == []
    assert "copies of each other" in meant.notes[0]
    assert set(names(plan(checked(Twins("q1", "q2"))))) == {f"q2.{2 * k}.weight" for k in range(6)}


@torch.no_grad()
def test_of_an_adapter_whose_factors_are_both_zero_the_last_stays_so():
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.base = nn.Linear(32, 48)
            self.lora_A, self.lora_B = nn.Linear(32, 4, bias=False), nn.Linear(4, 48, bias=False)
            self.head = nn.Linear(48, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.base(x) + self.lora_B(self.lora_A(x))))

    net = Adapted()
    net.lora_A.weight.zero_()
    net.lora_B.weight.zero_()
    assert names(plan(checked(net))) == ["lora_A.weight"]


# ---- the whole graph


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.0, 1e-3])
def test_norms_that_are_shut_open_and_the_weights_stay(scale):
    torch.manual_seed(0)
    net = nn.Sequential()
    for k in range(8):
        net.extend([nn.Linear(32 if k == 0 else 48, 48), nn.LayerNorm(48), nn.ReLU()])
    net.append(nn.Linear(48, 10))
    for module in net:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.LayerNorm):
            module.weight.fill_(scale)
    assert schemes(plan(checked(net))) == {f"{3 * k + 1}.weight": "ones" for k in range(8)}


def test_a_dying_signal_is_a_matter_of_the_whole_chain():
    torch.manual_seed(0)
    layers = [module for k in range(29) for module in (nn.Linear(32 if k == 0 else 48, 48), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(48, 10))
    told = plan(checked(net))
    assert {f"{2 * k}.weight" for k in range(1, 29)} <= set(names(told))
    assert not any(name.endswith("bias") for name in names(told))
    assert {recipe.why for recipe in told.recipes} == {"INI501"}


@torch.no_grad()
def test_one_layer_that_is_off_is_not_the_chain():
    net = stack(10)
    net[8].weight.mul_(1e4)
    assert names(plan(checked(net))) == ["8.weight"]


@torch.no_grad()
def test_biases_that_kill_units_go_to_zero_and_weights_stay():
    net = stack(8)
    for module in net[:-1]:
        if isinstance(module, nn.Linear):
            module.bias.fill_(-3.0)
    told = plan(checked(net))
    assert set(schemes(told)) == {f"{2 * k}.bias" for k in range(7)}
    assert set(schemes(told).values()) == {"zeros"}


def test_a_growing_residual_stream_gets_smaller_branch_ends():
    told = plan(checked(Residual(24)))
    ends = {f"shrink.{k}.weight" for k in range(24)}
    assert ends <= set(names(told))
    assert not any(name.startswith("grow") for name in names(told))
    assert {recipe.scheme for recipe in told.recipes if recipe.tensor.name in ends} == {"lecun:branches=24"}


@torch.no_grad()
def test_an_embedding_of_zeros_that_starves_a_net_is_drawn_and_the_rest_stays():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.EmbeddingBag(20, 32), nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 5)
    )
    for k in (1, 3, 5):
        nn.init.kaiming_normal_(net[k].weight)
        nn.init.zeros_(net[k].bias)
    net[0].weight.zero_()
    report = initaudit.check(net, torch.randint(20, (8, 6)), probe=False)
    assert names(plan(report)) == ["0.weight"]


class Highway(nn.Module):
    def __init__(self, depth: int = 24, width: int = 40) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into = nn.Linear(32, width)
        self.plain = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.gate = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.into(x)
        for plain, gate in zip(self.plain, self.gate, strict=True):
            t = torch.sigmoid(gate(x))
            x = t * torch.relu(plain(x)) + (1 - t) * x
        return self.head(x)


def test_gates_of_a_highway_start_nearly_shut():
    told = plan(checked(Highway()))
    gates = {name: scheme for name, scheme in schemes(told).items() if name.startswith("gate") and "bias" in name}
    assert gates == {f"gate.{k}.bias": "constant:value=-2" for k in range(24)}


@torch.no_grad()
def test_what_a_broken_weight_hides_is_cured_too():
    net = stack(12)
    for module in net:
        if isinstance(module, nn.Linear):
            module.weight.mul_(0.1)
    net[4].weight[0, 0] = float("nan")
    report = checked(net)
    assert report.risk is None
    assert len(plan(report).recipes) > 6


@torch.no_grad()
def test_of_two_zeros_in_a_row_the_end_of_the_branch_stays_shut():
    net = Residual(4)
    for grow, shrink in zip(net.grow, net.shrink, strict=True):
        grow.weight.zero_()
        shrink.weight.zero_()
    assert set(names(plan(checked(net)))) == {f"grow.{k}.weight" for k in range(4)}


# ---- what the user names


@torch.no_grad()
def test_all_takes_weights_and_what_is_at_fault_beside_them():
    net = nn.Sequential(nn.Linear(32, 48), nn.LayerNorm(48), nn.ReLU(), nn.Linear(48, 10))
    net[3].bias.fill_(-4.6)  # a prior
    assert schemes(plan(checked(net), every=True)) == {"0.weight": "he", "3.weight": "xavier"}
    net[1].weight[2] = float("nan")
    net[0].bias[2] = float("nan")
    told = schemes(plan(checked(net), every=True))
    assert set(told) == {"0.weight", "3.weight", "1.weight", "0.bias"}
    assert told["1.weight"] == "ones"


@torch.no_grad()
def test_a_net_that_all_draws_again_gets_the_textbook_whatever_it_is():
    net = stack(14, act=nn.SiLU)
    told = plan(checked(net), every=True)
    assert set(schemes(told).values()) == {"he:activation=silu", "xavier"}


def test_layers_are_chosen_by_pattern_healthy_or_not():
    told = plan(checked(stack()), only=["4", "1*"])
    assert set(names(told)) == {"4.weight", "10.weight"}
    with pytest.raises(UsageError, match="no layer is called 'fc'"):
        plan(checked(stack()), only=["fc"])


@torch.no_grad()
def test_a_scheme_changes_how_and_not_which():
    net = stack()
    net[4].weight.zero_()
    net[6].bias[0] = float("nan")
    auto, asked = plan(checked(net)), plan(checked(net), scheme="orthogonal:gain=1.2")
    assert names(auto) == names(asked)
    assert schemes(asked) == {"4.weight": "orthogonal:gain=1.2", "6.bias": "zeros"}


def test_an_unknown_scheme_is_refused():
    with pytest.raises(UsageError, match="no scheme 'hee'"):
        plan(checked(stack()), scheme="hee")


def test_lsuv_leaves_biases_alone():
    told = plan(checked(stack()), scheme="lsuv:tol=0.01", every=True)
    assert set(schemes(told).values()) == {"lsuv:tol=0.01"}
    assert not any(name.endswith("bias") for name in names(told))


class Tables(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.other = nn.Embedding(12, 16), nn.Embedding(8, 16), nn.Embedding(8, 16)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 12, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = 4 * self.words(ids) + self.places(torch.arange(8)).expand(2, 8, 16)
        return self.head(self.norm(x)) + self.other(ids % 8).sum()


def test_lsuv_scales_no_table_that_is_the_output_layer_nor_what_is_added_to_it():
    report = initaudit.check(Tables(), torch.randint(12, (2, 8)), probe=False)
    told = plan(report, scheme="lsuv", every=True)
    assert schemes(told) == {"other.weight": "lsuv"}
    assert {skip.name for skip in told.kept} == {"words.weight", "places.weight"}


@torch.no_grad()
def test_torch_default_is_drawn_for_biases_too():
    told = plan(checked(stack()), scheme="torch-default", every=True)
    assert set(schemes(told).values()) == {"torch-default"}
    assert "0.bias" in names(told)


# ---- what is meant


@torch.no_grad()
def test_a_kernel_that_upsamples_bilinearly_stays():
    net = nn.Sequential(nn.ConvTranspose2d(3, 3, 4, stride=2, padding=1, groups=3), nn.Conv2d(3, 8, 3))
    tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
    net[0].weight.copy_(torch.outer(tent, tent).expand(3, 1, 4, 4))
    told = plan(initaudit.check(net, torch.randn(2, 3, 8, 8), probe=False), every=True)
    assert names(told) == ["1.weight"]
    assert [skip.name for skip in told.kept] == ["0.weight"]


@torch.no_grad()
def test_branches_that_are_closed_on_purpose_stay_so_unless_they_are_named():
    net = Residual(4)
    for shrink in net.shrink:
        shrink.weight.zero_()
    told = plan(checked(net), every=True)
    assert "grow.0.weight" in names(told)
    assert "shrink.0.weight" not in names(told)
    assert {skip.name for skip in told.kept} == {f"shrink.{k}.weight" for k in range(4)}
    assert "shrink.0.weight" in names(plan(checked(net), only=["shrink.0"]))


def test_a_tied_weight_is_drawn_once():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    net[2].weight = net[0].weight
    assert names(plan(checked(net), every=True)).count("0.weight") == 1
    assert "2.weight" not in names(plan(checked(net), every=True))


# ---- the state of the model


def fc(name="fc", **fields):
    return layer(name, np.zeros((32, 32), np.float32), **fields)


def test_a_trained_model_needs_force():
    trained = report(fc(), state=State.TRAINED)
    with pytest.raises(UsageError, match=r"trained.*--force"):
        plan(trained)
    assert names(plan(trained, force=True, every=True)) == ["fc.weight"]


def test_of_a_mixed_model_only_fresh_layers_are_touched():
    rng = np.random.default_rng(0)
    moved = layer("moved", (rng.standard_normal((64, 64)) ** 3).astype(np.float32))
    mixed = report(fc(), moved, state=State.MIXED)
    told = plan(mixed, every=True)
    assert names(told) == ["fc.weight"]
    assert [skip.name for skip in told.kept] == ["moved.weight"]
    assert set(names(plan(mixed, every=True, force=True))) == {"fc.weight", "moved.weight"}


def test_a_layer_is_fresh_by_its_finite_values():
    rng = np.random.default_rng(0)
    drawn = (0.02 * rng.standard_normal((64, 64))).astype(np.float32)
    drawn[3, 4] = np.nan
    moved = layer("moved", (rng.standard_normal((64, 64)) ** 3).astype(np.float32))
    told = plan(report(layer("head", drawn, role=Role.HEAD, activation=None), moved, state=State.MIXED))
    assert names(told) == ["head.weight"]


def test_what_is_not_known_is_said():
    told = plan(report(fc(), state=State.UNKNOWN))
    assert names(told) == ["fc.weight"]
    assert "not known" in told.notes[0]


def test_what_no_draw_makes_is_kept():
    table = np.full((16, 8), np.nan, np.float32)
    told = plan(report(layer("rope", table, "parameter", "oo", role=Role.CLOSED_FORM)))
    assert names(told) == []
    assert [skip.name for skip in told.kept] == ["rope.weight"]
