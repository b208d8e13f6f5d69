from __future__ import annotations

import argparse
import collections
import dataclasses
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from initaudit.errors import ReadError, UnsafeFileError
from initaudit.formats.torch.tree import Branch, Left, locate
from initaudit.types import Tensor
from tests.formats.torch_files import Call, differing, read, save, saved, tensors

torch = pytest.importorskip("torch")


def network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(4, 5))


def trained(model: Any, optimizer: str = "AdamW") -> Any:
    """Return an optimizer that has taken a step."""
    steps = getattr(torch.optim, optimizer)(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    steps.step()
    return steps


def whys(model: Any) -> dict[str, str]:
    return {skip.name: skip.why for skip in model.skipped}


def test_state_dict_keeps_its_names_and_buffers(tmp_path: Path) -> None:
    state = network().state_dict()
    model = saved(state, tmp_path)
    assert [tensor.name for tensor in model.tensors] == list(state)
    assert {tensor.name for tensor in model.tensors if tensor.buffer} == {
        "1.running_mean", "1.running_var", "1.num_batches_tracked"
    }  # fmt: skip
    assert model.detail == "zip archive, state_dict"


@pytest.mark.parametrize("key", ["model", "state_dict", "net", "whatever"])
@pytest.mark.parametrize("optimizer", ["AdamW", "Adamax", "RMSprop", "Adadelta", "Adagrad", "SGD"])
def test_training_checkpoint_is_its_one_model(tmp_path: Path, key: str, optimizer: str) -> None:
    net = network()
    steps = trained(net, optimizer)
    model = saved(
        {
            key: net.state_dict(), "optimizer": steps.state_dict(), "epoch": 3, "loss": torch.tensor(0.3),
            "lr_scheduler": torch.optim.lr_scheduler.StepLR(steps, 1).state_dict(),
            "scaler": {"scale": 1.0, "growth_factor": 2.0, "backoff_factor": 0.5, "_growth_tracker": 0},
            "rng": torch.get_rng_state(),
            "numpy": np.random.get_state(),  # noqa: NPY002  what training scripts save
            "args": argparse.Namespace(act="relu", n=[1]),
            "cuda_rng_state_all": [torch.zeros(16, dtype=torch.uint8)],
        },
        tmp_path,
    )  # fmt: skip
    assert {tensor.name for tensor in model.tensors} == set(net.state_dict())
    assert differing(model, net.state_dict()) == []
    assert model.detail == f"zip archive, state_dict under '{key}'"
    assert model.config == {"act": "relu", "n": [1]}
    told = whys(model)
    assert told["optimizer"].startswith("optimizer state")
    assert "schedule" in told["lr_scheduler"]
    assert "scaler" in told["scaler"]
    assert all("random number" in told[name] for name in ("rng", "numpy", "cuda_rng_state_all"))
    assert "loss" in told


def test_lightning_checkpoint(tmp_path: Path) -> None:
    net = network()
    model = saved(
        {
            "epoch": 1, "global_step": 10, "pytorch-lightning_version": "2.4.0", "state_dict": net.state_dict(),
            "loops": {"fit_loop": {"state_dict": {}, "progress": {"total": 3}}},
            "callbacks": {"ModelCheckpoint{'a': 1.5}": {"best_model_score": torch.tensor(0.1), "best_k_models": {}}},
            "optimizer_states": [trained(net).state_dict()], "lr_schedulers": [],
            "hyper_parameters": {"backbone": network(), "hidden_act": "gelu", "lr": 1e-3},
        },
        tmp_path,
    )  # fmt: skip
    assert [tensor.name for tensor in model.tensors] == list(net.state_dict())
    assert model.detail.endswith("state_dict under 'state_dict'")
    assert model.config["hidden_act"] == "gelu"
    assert model.modules == ()
    assert whys(model)["optimizer_states"].startswith("optimizer state")


def test_several_models_keep_their_keys(tmp_path: Path) -> None:
    one, two = network(), network()
    model = saved({"model": one.state_dict(), "ema": two.state_dict(), "step": torch.tensor(5)}, tmp_path)
    expected = {f"{key}.{name}": value for key, net in (("model", one), ("ema", two))
                for name, value in net.state_dict().items()}  # fmt: skip
    assert differing(model, expected) == []
    assert len(model.tensors) == len(expected)
    assert "step" in whys(model)
    assert model.detail == "zip archive, checkpoint of model, ema"


def test_ema_of_diffusers_and_lists_of_tensors(tmp_path: Path) -> None:
    x = torch.randn(3, 4)
    model = saved({"unet": {"w": x}, "ema": {"decay": 0.99, "shadow_params": [x.clone(), x.t()]}}, tmp_path)
    assert set(tensors(model)) == {"unet.w", "ema.shadow_params.0", "ema.shadow_params.1"}


def test_nested_dicts_keep_their_path(tmp_path: Path) -> None:
    x = torch.randn(3, 4)
    nested = {"enc": {"fc": {"weight": x, "bias": x[0]}, "norm": {"scale": x[0]}}, "head": {"weight": x}}
    names = {"enc.fc.weight", "enc.fc.bias", "enc.norm.scale", "head.weight"}
    assert set(tensors(saved(nested, tmp_path))) == names
    assert set(tensors(saved({"params": nested, "step": 3}, tmp_path))) == names


def test_a_model_deep_inside(tmp_path: Path) -> None:
    state = network().state_dict()
    model = saved(
        {"trainer": {"rank0": {"weights": state, "optim": trained(network()).state_dict()}}, "v": 1}, tmp_path
    )
    assert list(tensors(model)) == list(state)
    assert model.detail.endswith("under 'trainer.rank0.weights'")
    assert whys(model)["trainer.rank0.optim"].startswith("optimizer state")


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (lambda x: x, {"tensor"}),
        (lambda x: [x, x], {"0", "1"}),
        (lambda x: (collections.OrderedDict(w=x), {"state": {}, "param_groups": []}), {"w"}),
        (lambda x: {"w": x, "n": 3, "none": None, "text": "t", 5: x}, {"w", "5"}),
        (lambda x: argparse.Namespace(w=x, lr=1), {"w"}),
        (lambda x: {"a.b": x, "a.c": (x, None)}, {"a.b", "a.c.0"}),
        (lambda x: {1: x, "1": x}, {"1", "1'"}),
        (lambda x: {"bias": x[0], "scale": x[0]}, {"bias", "scale"}),
    ],
)
def test_whatever_holds_tensors(tmp_path: Path, value: Any, names: set[str]) -> None:
    assert set(tensors(saved(value(torch.randn(2, 3)), tmp_path))) == names


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({}, "no tensors"), ({"epoch": 3}, "a dict with 'epoch'"), ([1, 2], "a list"),
        (argparse.Namespace(a=1), "argparse"),
        ({"state": {0: {"step": 1}}, "param_groups": []}, "optimizer state"),
        ({"opt": {"state": {}, "param_groups": []}}, "opt: optimizer state"),
    ],
)  # fmt: skip
def test_files_without_tensors_are_refused(tmp_path: Path, value: Any, reason: str) -> None:
    path = tmp_path / "x.pkl"
    for data in (pickle.dumps(value), None):
        if data is None:
            save(value, path)
        else:
            path.write_bytes(data)
        with pytest.raises(ReadError, match=reason):
            read(path)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "nested", "nested zip", "key", "state"])
@pytest.mark.parametrize("with_weights", [False, True])
def test_a_file_that_a_pickle_would_create_never_appears(tmp_path: Path, form: str, with_weights: bool) -> None:
    import os

    target = tmp_path / "appeared"
    evil: Any = Call(os.system, f"touch {target}")
    path = tmp_path / "evil.pt"
    inner = {"w": torch.randn(2, 2)} if with_weights else {}
    value = {**inner, "evil": evil}
    if form == "key":
        value = {**inner, Call(os.mkdir, str(target)): 1}
    if form == "state":
        value = {**inner, "o": argparse.Namespace(x=Call(exec, f"open({str(target)!r}, 'w')"))}
    if form.startswith("nested"):
        out = io.BytesIO()
        torch.save(evil, out, _use_new_zipfile_serialization=form == "nested zip")
        value = {**inner, "evil": Call(torch.storage._load_from_bytes, out.getvalue())}
    if form == "pickle":
        path.write_bytes(pickle.dumps(value))
    else:
        save(value, path, legacy=form == "legacy")
    if with_weights:
        model = read(path)
        assert [tensor.name for tensor in model.tensors] == ["w"]
        assert any("ever called" in skip.why for skip in model.skipped)
    else:
        with pytest.raises(UnsafeFileError, match="nothing was called"):
            read(path)
    assert not target.exists()


def test_one_dict_under_many_names_ends(tmp_path: Path) -> None:
    value: Any = {"w": torch.zeros(2, 2)}
    for _ in range(60):
        value = {"a": value, "b": value}
    with pytest.raises(ReadError, match="more than"):
        saved(value, tmp_path)


def test_wrapping_without_end_ends(tmp_path: Path) -> None:
    value: Any = torch.zeros(2, 2)
    for _ in range(50):
        value = Call(torch._utils._rebuild_parameter, value, False, {})
    with pytest.raises(ReadError, match="wrapped"):
        saved({"w": value}, tmp_path)


def test_data_that_contains_itself(tmp_path: Path) -> None:
    value: Any = {"w": torch.zeros(2, 2)}
    value["self"] = value
    assert list(tensors(saved(value, tmp_path))) == ["w"]


@dataclasses.dataclass
class Settings:
    act: str = "silu"
    depth: int = 2


def test_settings_beside_the_weights(tmp_path: Path) -> None:
    state = network().state_dict()
    for value in (Settings(), dataclasses.asdict(Settings()), argparse.Namespace(act="silu", depth=2)):
        assert saved({"model": state, "config": value}, tmp_path).config == {"act": "silu", "depth": 2}


def test_locate_by_hand() -> None:
    weight = Tensor("", (2, 2), "float32", lambda: np.zeros((2, 2)))
    inner = Branch({"w": weight}, judged=True, weights=1)
    root = Branch({"net": inner, "optim": Left("optimizer state")}, judged=True, weights=1)
    place = locate(root)
    assert (place.path, place.node, place.left) == (("net",), inner, (("optim", "optimizer state"),))
