"""What a module is fed with: given by the user, or guessed and told."""

import numpy as np
import pytest
import torch
from torch import nn

from initaudit.errors import UsageError
from initaudit.live import model, watch
from initaudit.live.given import from_examples, from_options
from initaudit.live.spec import Feed, Spec


class Fn(nn.Module):
    """Layers by name, and a forward that is given."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)


def fed(module: nn.Module, *args, **kwargs) -> str:
    """Return what the report says the module was fed with."""
    found = model.read(module, *args, **kwargs)
    assert found.graph is not None, [s.why for s in found.skipped]
    assert found.graph_source == "traced"
    return found.detail.partition("traced on ")[2]


class Flat(Fn):
    def __init__(self, size: int, channels: int = 3) -> None:
        side = ((size - 4) // 2 - 4) // 2
        super().__init__(conv1=nn.Conv2d(channels, 6, 5), conv2=nn.Conv2d(6, 16, 5), fc=nn.Linear(16 * side * side, 10))

    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc(x.flatten(1))


@pytest.mark.parametrize(("size", "channels"), [(32, 3), (28, 1), (96, 3), (224, 4)])
def test_the_size_of_an_image_follows_from_the_first_linear_layer(size, channels):
    assert fed(Flat(size, channels)) == (
        f"x (2, {channels}, {size}, {size}) float32, guessed from conv1 and from what fits the weights"
        if size != 64
        else ""
    )


class Mlp(Fn):
    def forward(self, image):
        return self.body(image.view(image.size(0), -1))


def test_a_flattened_image_gets_the_size_of_the_first_layer():
    assert fed(Mlp(body=nn.Sequential(nn.Linear(784, 30), nn.ReLU(), nn.Linear(30, 10)))).startswith("image (2, 784)")


class Tokens(Fn):
    def forward(self, x, mask=None):
        h = self.embed(x) + self.positions.weight[: x.size(1)]
        return self.out(self.rnn(h)[0])


def test_tokens_come_from_an_embedding():
    module = Tokens(
        out=nn.Linear(16, 50), embed=nn.Embedding(50, 12), positions=nn.Embedding(64, 12),
        rnn=nn.GRU(12, 8, bidirectional=True),
    )  # fmt: skip
    assert fed(module).startswith("x (2, 8) int64")


class Two(Fn):
    def forward(self, left, right, *, scale: float, training: bool):
        assert isinstance(scale, float)
        assert training is False
        return self.left(left) * scale + self.right(right).mean((2, 3))


def test_arguments_with_layers_of_their_names():
    module = Two(right=nn.Conv2d(5, 4, 3), left=nn.Linear(7, 4))
    assert fed(module).startswith("left (2, 7) float32, right (2, 5, 64, 64) float32")


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(13, 4))
        self.second = nn.Parameter(torch.randn(4, 5))

    def forward(self, x):
        return torch.einsum("bi,io->bo", x @ self.weight, self.second)


def test_bare_parameters_say_what_they_want():
    assert fed(Bare()).startswith("x (2, 13)") or fed(Bare()).startswith("x (2, 8, 13)")


class Positions(Fn):
    def __init__(self) -> None:
        super().__init__(patch=nn.Conv2d(3, 16, 8, 8), head=nn.Linear(16, 4))
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 37, 16))

    def forward(self, pixels):
        x = self.patch(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.size(0), -1, -1), x], 1)
        return self.head((x + self.positions).mean(1))


def test_positions_say_how_many_patches_there_are():
    assert fed(Positions()).startswith("pixels (2, 3, 48, 48) float32")


class Batch(Fn):
    def forward(self, batch):
        return self.a(batch["dense"]) + self.b(batch["ids"]).mean(1)


def test_a_dict_is_found_by_the_keys_that_are_asked_for():
    found = fed(Batch(a=nn.Linear(6, 3), b=nn.Embedding(9, 3)))
    assert "batch.dense (2, 6) float32" in found
    assert "batch.ids" in found
    assert "int64" in found


class Labelled(Fn):
    def forward(self, batch):
        logits = self.fc(torch.relu(self.conv(batch["image"])).mean((2, 3)))
        return {"loss": nn.functional.cross_entropy(logits, batch["label"]), "logits": logits}


def test_entries_of_a_dict_are_guessed_by_their_names():
    found = fed(Labelled(conv=nn.Conv2d(3, 8, 3), fc=nn.Linear(8, 4)))
    assert "batch.image (2, 3, 64, 64) float32, batch.label (2,) int64" in found


class Critic(Fn):
    def forward(self, obs, action):
        return self.q(torch.cat([torch.tanh(self.a(obs)), action], -1))


def test_one_of_what_is_joined_gets_the_width_that_is_left():
    found = fed(Critic(a=nn.Linear(17, 64), q=nn.Linear(64 + 6, 1)))
    assert "obs (2, 17) float32, action (2, 6) float32" in found


class Endless(Fn):
    def forward(self, x):
        while True:
            x = torch.relu(self.a(x))


def test_a_pass_without_end_is_ended(monkeypatch):
    monkeypatch.setattr(watch, "MOST_IN_A_PASS", 500)
    found = model.read(Endless(a=nn.Linear(4, 4)))
    assert found.graph is None
    assert "no end after 500 calls" in found.skipped[-1].why
    with pytest.raises(UsageError, match="no end after 500 calls"):
        model.read(Endless(a=nn.Linear(4, 4)), torch.zeros(2, 4))


class Graphs(Fn):
    def forward(self, x, edge_index):
        h = self.a(x)
        out = torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]])
        return self.b(torch.relu(out))


def test_graph_networks():
    assert fed(Graphs(a=nn.Linear(5, 8), b=nn.Linear(8, 2))).startswith("x (2, 5) float32, edge_index (2, 12) int64")


class Denoiser(Fn):
    def forward(self, x, t, y=None):
        return self.conv(x) + self.time(t[:, None].float())[:, :, None, None]


def test_time_steps():
    assert fed(Denoiser(conv=nn.Conv2d(4, 8, 3), time=nn.Linear(1, 8))).startswith("x (2, 4, 64, 64) float32, t (2,)")


class Wave(Fn):
    def forward(self, signal):
        batch, channels, _ = signal.shape
        return self.out(self.body(signal).mean(2)).view(batch, channels)


def test_signals_and_half_precision():
    module = Wave(body=nn.Conv1d(2, 6, 9, stride=4), out=nn.Linear(6, 2)).bfloat16()
    assert fed(module).startswith("signal (2, 2, 64) bfloat16")


def test_a_module_that_fits_nothing_is_read_without_a_graph_and_says_why():
    class Refuses(Fn):
        def forward(self, x):
            raise RuntimeError("only on Sundays")

    found = model.read(Refuses(a=nn.Linear(3, 4), b=nn.Linear(4, 2)))
    assert found.graph is None
    assert found.graph_source == "module"
    assert [one.path for one in found.modules] == ["", "a", "b"]
    assert [t.name for t in found.tensors] == ["a.weight", "a.bias", "b.weight", "b.bias"]
    why = next(skip.why for skip in found.skipped)
    assert (
        "only on Sundays (tests/live/test_inputs.py:" in why.replace("\\", "/") or "only on Sundays (test_inputs" in why
    )
    assert "--input" in why


def test_what_cannot_be_traced_at_all_is_read_and_says_what_to_do():
    for module, words in (
        (torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))), "torch.jit.save"),
        (nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 2)), "run the model once"),
    ):
        found = model.read(module)
        assert found.graph is None
        assert any(words in skip.why for skip in found.skipped)
        assert "2.weight" in {t.name for t in found.tensors}
        with pytest.raises(UsageError, match="cannot be run"):
            model.read(module, torch.zeros(2, 3))


def test_inputs_that_are_given_and_do_not_fit_are_an_error():
    for examples in (torch.zeros(2, 5), {"x": torch.zeros(2, 5)}, Feed((Spec((2, 5)),))):
        with pytest.raises(UsageError, match=r"Net cannot be run on x \(2, 5\) float32: .*fails in a \(Linear\)"):
            model.read(Net(a=nn.Linear(3, 4)), examples)
    with pytest.raises(UsageError, match=r"Net cannot be run on x \(2, 5\) float32"):
        model.read(Net(a=nn.Linear(3, 4)), options=["x=2,5"])


class Net(Fn):
    def forward(self, x, scale=None):
        return self.a(x)


def test_example_inputs_in_every_form():
    module = Net(a=nn.Linear(3, 4))
    for examples in (
        torch.zeros(7, 3), (torch.zeros(7, 3),), [torch.zeros(7, 3), None], {"x": torch.zeros(7, 3)},
        np.zeros((7, 3), "float32"),
    ):  # fmt: skip
        assert fed(module, examples) == "x (7, 3) float32"
    with pytest.raises(UsageError, match="not a str"):
        model.read(module, "x")
    assert from_examples(module, {"image": 1}) == Feed(({"image": 1},))


def test_options_by_name_by_place_and_in_order():
    class Many(Fn):
        def forward(self, image, input_ids, mask=None, *, depth=None):
            pass

    module = Many()
    assert from_options(module, ["1,3,8,8", "1,16"]) == {
        "image": Spec((1, 3, 8, 8), ""),
        "input_ids": Spec((1, 16), "int64"),
    }
    assert from_options(module, ["1=1,16:int32", "depth=4:float64"]) == {
        "input_ids": Spec((1, 16), "int32"),
        "depth": Spec((4,), "float64"),
    }
    for wrong, words in {
        "x=1,2": "no argument 'x'; it takes image, input_ids, mask",
        "image=1,a": "--input takes name=1,3,224,224",
        "image=1:float3": "'float3' is none of float32",
        "7=1,2": "forward takes image",
    }.items():
        with pytest.raises(UsageError) as refusal:
            from_options(module, [wrong])
        assert words in str(refusal.value)
    with pytest.raises(UsageError, match="twice"):
        from_options(module, ["image=1", "image=2"])


def test_what_is_given_stays_and_the_rest_is_guessed():
    module = Two(right=nn.Conv2d(5, 4, 3), left=nn.Linear(7, 4))
    found = fed(module, options=["right=1,5,9,9"])
    assert "left (" in found
    assert "right (1, 5, 9, 9) float32" in found
    assert "guessed" in found
    assert fed(Tokens(embed=nn.Embedding(9, 4), positions=nn.Embedding(64, 4), rnn=nn.GRU(4, 3), out=nn.Linear(3, 1)),
               options=["x=3,5"]) == "x (3, 5) int64"  # fmt: skip
