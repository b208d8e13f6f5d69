import pytest

from initaudit import formats

torch = pytest.importorskip("torch")
nn = torch.nn


class Tokens(nn.Module):
    """Patches, a class token of the batch's size, attention, and a gate that is a number of the sizes."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        n, _, h, w = x.shape
        x = self.patches(x).reshape(n, 8, (h // 4) * (w // 4)).transpose(1, 2)
        x = torch.cat([self.token.expand(n, -1, -1), x], 1)
        x = self.dropout(self.block(x))
        x = x + torch.zeros(n, x.shape[1], 8).add_(1 / x.size(1))
        return self.head(self.norm(x)[:, 0])


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Tokens().eval()


def run(path, feeds, **options):
    from initaudit.live.execute import Executor

    ex = Executor(formats.read(path).graph, **options)
    assert ex.missing == ()
    made = ex.run(dict(zip(ex.graph.inputs, feeds, strict=True)))
    return ex, [made[name] for name in ex.graph.outputs]


def same_gradients(ex, made, net, wanted):
    made.square().sum().backward()
    net.zero_grad()
    wanted.square().sum().backward()
    own = dict(net.named_parameters())
    seen = {name.removeprefix("model."): leaf for name, leaf in ex.parameters.items()}
    assert seen.keys() <= own.keys()
    assert sum(leaf.grad is not None for leaf in seen.values()) == len(own)
    for name, leaf in seen.items():
        torch.testing.assert_close(leaf.grad, own[name].grad, rtol=1e-4, atol=1e-5)


def test_a_script_runs_on_any_batch(net, tmp_path):
    path = tmp_path / "script.pt"
    torch.jit.trace(net, torch.randn(2, 3, 8, 8), check_trace=False).save(str(path))
    for batch in (1, 3):
        x = torch.randn(batch, 3, 8, 8)
        ex, (made,) = run(path, [x])
        torch.testing.assert_close(made, net(x), rtol=1e-5, atol=1e-6)
    same_gradients(ex, made, net, net(x))


def test_an_exported_program_runs(net, tmp_path):
    path = tmp_path / "program.pt2"
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.export.save(torch.export.export(net, (x,), strict=False), str(path))
    ex, (made,) = run(path, [x])
    torch.testing.assert_close(made, net(x), rtol=1e-5, atol=1e-6)
    same_gradients(ex, made, net, net(x))


def test_training_norms_in_files(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    x = torch.randn(6, 3, 8, 8) * 5 + 2
    path = tmp_path / "script.pt"
    torch.jit.trace(module, x, check_trace=False).save(str(path))
    (out,) = run(path, [x], training_norms=True)[1]
    assert out.mean((0, 2, 3)).abs().max() < 1e-5
    assert (out.var((0, 2, 3), unbiased=False) - 1).abs().max() < 1e-3
    assert module[1].num_batches_tracked == 0
