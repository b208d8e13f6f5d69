"""Tags, depths and norms on traced networks, and that the two ends of the table of roles can fail."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from benchmarks.graphs_roles import ROLES, misses  # noqa: E402
from initaudit.layers.from_graph import infer  # noqa: E402
from initaudit.layers.from_graph_tags import Tag, ordered, whole  # noqa: E402
from initaudit.live.spec import Feed  # noqa: E402
from initaudit.live.trace import trace  # noqa: E402
from initaudit.types import Layer, Model, Role  # noqa: E402
from tests.layers import tag_nets as nets  # noqa: E402
from tests.layers.tag_nets import L, Net, weight  # noqa: E402

nn = torch.nn
X, TOKENS, IMAGE = torch.randn(2, 6, 8), torch.zeros(2, 5, dtype=torch.long), torch.randn(2, 3, 8, 8)


def conv(a: int, b: int, k: int = 3, stride: int = 1, **more: Any) -> Any:
    return nn.Conv2d(a, b, k, stride, k // 2, **more)


def zero(layer: Any) -> Any:
    nn.init.zeros_(layer.weight)
    return layer


def qkvo(width: int = 16) -> dict[str, Any]:
    return {name: L(width, width) for name in ("q", "k", "v", "out")}


O, C = {Tag.OUT_PROJECTION, Tag.RESIDUAL_CLOSING}, {Tag.RESIDUAL_CLOSING}  # noqa: E741
Q, K, V, HEAD = {Tag.QUERY}, {Tag.KEY}, {Tag.VALUE}, {Tag.OUTPUT_HEAD}
LAST = {*C, Tag.NORM_FOLLOWS_SUM}
NETS: dict[str, tuple[Any, tuple[Any, ...], dict[str, set[Tag]]]] = {
    "looped experts": (
        lambda: Net(nets.looped_experts, inp=L(8, 16), norm=nn.LayerNorm(16), gate=L(16, 2), head=L(16, 3),
                    up0=L(16, 32), down0=L(32, 16), up1=L(16, 32), down1=L(32, 16)),
        (X,),
        {"gate": {Tag.ROUTER}, "up0": {Tag.EXPERT}, "down0": {Tag.EXPERT, *C}, "up1": {Tag.EXPERT},
         "down1": {Tag.EXPERT, *C}, "head": HEAD},
    ),
    "dispatched experts": (
        lambda: Net(nets.dispatched_experts, inp=L(8, 16), router=L(16, 4), up=weight(4, 16, 32),
                    down=weight(4, 32, 16), head=L(16, 3)),
        (X,),
        {"router": {Tag.ROUTER}, "up": {Tag.EXPERT}, "down": {Tag.EXPERT, *C}, "head": HEAD},
    ),
    "shared out": (
        lambda: Net(nets.shared_out, inp=L(8, 16), router=L(16, 2), one=L(16, 16), two=L(16, 16), head=L(16, 3)),
        (torch.randn(4, 8),),
        {"router": {Tag.ROUTER}, "one": {Tag.EXPERT}, "two": {Tag.EXPERT}, "head": HEAD},
    ),
    "adaLN-zero": (
        lambda: Net(nets.modulated, inp=L(8, 16), time=L(4, 16), ada=L(16, 48), head=L(16, 3), **qkvo(),
                    norm=nn.LayerNorm(16, elementwise_affine=False)),
        (X, torch.randn(2, 4)),
        {"ada": {Tag.ADAPTIVE_NORM, Tag.ADAPTIVE_GATE}, "q": Q, "k": K, "v": V, "out": O, "head": HEAD},
    ),
    "adaLN-single": (
        lambda: Net(nets.table_modulated, inp=L(8, 16), time=L(4, 48), table=weight(3, 16), up=L(16, 32),
                    down=L(32, 16), head=L(16, 3), norm=nn.LayerNorm(16, elementwise_affine=False)),
        (X, torch.randn(2, 4)),
        {"time": {Tag.ADAPTIVE_NORM, Tag.ADAPTIVE_GATE, Tag.INPUT_LAYER}, "down": C, "up": set(), "head": HEAD},
    ),
    "GRU by hand": (
        lambda: Net(nets.gru_by_hand, embed=nn.Embedding(20, 8), wz=L(8, 12), uz=L(12, 12), wn=L(8, 12), un=L(12, 12),
                    head=L(12, 3)),
        (TOKENS,),
        {"embed": {Tag.TOKEN_EMBEDDING}, "uz": {Tag.RECURRENT}, "un": {Tag.RECURRENT}, "wz": set(), "wn": set(),
         "head": HEAD},
    ),
    "one block again": (
        lambda: Net(nets.again, inp=L(8, 16), norm=nn.LayerNorm(16), up=L(16, 32), down=L(32, 16), head=L(16, 2)),
        (X,),
        {"up": set(), "down": C, "head": HEAD},
    ),
    "deep supervision": (
        lambda: Net(nets.deep_supervision, first=nn.ModuleList([L(8, 8) for _ in range(4)]), aux=L(8, 3),
                    rest=nn.ModuleList([L(8, 8) for _ in range(8)]), head=L(8, 3)),
        (X,),
        {"aux": {*HEAD, Tag.AUXILIARY_HEAD}, "head": HEAD},
    ),
    "ControlNet": (
        lambda: Net(nets.controlled, inp=conv(3, 8), inp2=conv(3, 8), down=conv(8, 16, 3, 2), hint=zero(conv(3, 8)),
                    copy1=conv(8, 8), copy2=conv(8, 16, 3, 2), zero1=zero(conv(8, 8, 1)), zero2=zero(conv(16, 16, 1)),
                    up=conv(24, 8), out=conv(8, 3)),
        (IMAGE, IMAGE),
        {"zero1": {Tag.ZERO_CONV}, "zero2": {Tag.ZERO_CONV}, "hint": {Tag.ZERO_CONV, Tag.INPUT_LAYER},
         "copy1": set(), "down": set(),
         "out": HEAD},
    ),
    "ALiBi": (
        lambda: Net(nets.alibi, embed=nn.Embedding(20, 16), qkv=L(16, 48), out=L(16, 16), head=L(16, 20)),
        (TOKENS,),
        {"embed": {Tag.TOKEN_EMBEDDING}, "qkv": {Tag.QUERY_KEY_VALUE}, "out": O, "head": HEAD},
    ),
    "GAT": (
        lambda: Net(nets.graph_attention, lin=L(8, 16), here=weight(1, 2, 8), there=weight(1, 2, 8), head=L(16, 3)),
        (torch.randn(5, 8), torch.randint(0, 5, (2, 9))),
        {"here": {Tag.ATTENTION_VECTOR}, "there": {Tag.ATTENTION_VECTOR}, "head": HEAD},
    ),
    "attention pooling": (
        lambda: Net(nets.pooled_attention, inp=L(8, 16), mix=L(16, 16), ask=L(16, 1), keep=L(16, 16), head=L(16, 3)),
        (X,),
        {"ask": {Tag.ATTENTION_VECTOR}, "keep": V, "mix": set(), "head": HEAD},
    ),
    "linear attention": (
        lambda: Net(nets.linear_attention, inp=L(8, 16), head=L(16, 2), **qkvo()),
        (X,),
        {"q": Q, "k": K, "v": V, "out": O, "head": HEAD},
    ),
    "latent attention": (
        lambda: Net(nets.latent_attention, inp=L(8, 32), q_down=L(32, 12), q_up=L(12, 32), kv_down=L(32, 16),
                    kv_up=L(12, 40), out=L(16, 32), head=L(32, 2), q_norm=nn.RMSNorm(12), kv_norm=nn.RMSNorm(12)),
        (X,),
        {"q_down": set(), "q_up": Q, "kv_down": K, "kv_up": {Tag.KEY_VALUE}, "out": O, "head": HEAD},
    ),
    "stochastic depth": (
        lambda: Net(nets.stochastic, stem=conv(3, 8, 4, 4), depth=nn.Conv2d(8, 8, 7, 1, 3, 1, 8), up=L(8, 32),
                    norm=nn.LayerNorm(8), down=L(32, 8), gamma=weight(8), head=L(8, 2)),
        (torch.randn(2, 3, 16, 16),),
        {"stem": {Tag.INPUT_LAYER, Tag.PATCH_EMBEDDING}, "down": C, "gamma": {Tag.LAYER_SCALE}, "depth": set()},
    ),
    "parallel branches": (
        lambda: Net(nets.parallel, inp=L(8, 16), norm=nn.LayerNorm(16), up=L(16, 32), down=L(32, 16), head=L(16, 2),
                    **qkvo()),
        (X,),
        {"q": Q, "k": K, "v": V, "out": O, "down": C, "up": set(), "head": HEAD},
    ),
    "shortcut": (
        lambda: Net(nets.shortcut, stem=conv(3, 8), conv1=conv(8, 8, 3, 2), conv2=conv(8, 16), bn=nn.BatchNorm2d(16),
                    short=conv(8, 16, 1), squeeze=conv(16, 4, 1), excite=conv(4, 16, 1), head=L(16, 3)),
        (IMAGE,),
        {"stem": {Tag.INPUT_LAYER}, "conv1": set(), "conv2": C, "short": {Tag.SHORTCUT},
         "squeeze": {Tag.SQUEEZE_EXCITE}, "excite": {Tag.SQUEEZE_EXCITE}, "head": HEAD},
    ),
    "feature pyramid": (
        lambda: Net(nets.pyramid, low=conv(3, 8), high=conv(8, 16, 3, 2), side1=conv(8, 8, 1), side2=conv(16, 8, 1),
                    out1=conv(8, 8), out2=conv(8, 8)),
        (IMAGE,),
        {"side1": set(), "side2": set(), "out1": HEAD, "out2": HEAD},
    ),
    "LoRA": (
        lambda: Net(nets.lora, inp=L(8, 16), norm=nn.LayerNorm(16), qa=L(16, 2), qb=L(2, 16), up=L(16, 32),
                    base=L(32, 16), a=L(32, 2), b=L(2, 16), head=L(16, 2), **qkvo()),
        (X,),
        {"q": Q, "qa": {Tag.LOW_RANK_DOWN}, "qb": {Tag.LOW_RANK_UP}, "k": K, "v": V, "out": O, "head": HEAD},
    ),
    "learned queries": (
        lambda: Net(nets.queries, inp=L(8, 32), latents=weight(5, 32), norm=nn.LayerNorm(32), up=L(32, 64),
                    attend=nn.MultiheadAttention(32, 4, batch_first=True), down=L(64, 32), head=L(32, 3)),
        (X,),
        {"latents": {Tag.LEARNED_QUERIES}, "attend.in_proj_weight": {Tag.QUERY_KEY_VALUE}, "attend.out_proj": O,
         "down": C, "head": HEAD},
    ),
    "tied head": (
        lambda: Net(nets.tied, words=nn.Embedding(20, 16), places=nn.Embedding(8, 16), kinds=nn.Embedding(2, 16),
                    norm=nn.LayerNorm(16), norm2=nn.LayerNorm(16), up=L(16, 32), down=L(32, 16)),
        (TOKENS,),
        {"words": {Tag.TOKEN_EMBEDDING, Tag.TIED_HEAD, *HEAD}, "places": {Tag.POSITION_EMBEDDING},
         "kinds": {Tag.SEGMENT_EMBEDDING}, "down": LAST},
    ),
}  # fmt: skip


def layers(net: Any, *arguments: Any) -> dict[str, Layer]:
    torch.set_num_threads(1)
    graph = trace(net.eval(), Feed(arguments)).graph
    tensors = tuple(tensor for name, tensor in graph.constants.items() if not name.startswith("%"))
    found, _ = infer(Model("net", "torch", "", tensors, graph, source="traced"))
    return {one.name: one for one in found}


def rows(name: str) -> dict[str, Layer]:
    torch.manual_seed(0)
    made, arguments, _ = NETS[name]
    return layers(made(), *arguments)


@pytest.mark.parametrize("name", NETS)
def test_tags(name: str) -> None:
    found = rows(name)
    wanted = NETS[name][2]
    assert {key: set(found[key].tags) for key in wanted} == wanted


def test_every_tag_is_a_word_of_the_vocabulary_in_its_order() -> None:
    for name in ("adaLN-zero", "tied head", "shortcut"):
        for one in rows(name).values():
            assert one.tags == ordered(one.tags)
    assert whole({Tag.QUERY, Tag.VALUE}) == {Tag.QUERY, Tag.VALUE}


def test_a_branch_that_starts_closed_closes_a_branch_and_is_no_zero_convolution() -> None:
    net = NETS["one block again"][0]()
    nn.init.zeros_(net.down.weight)
    assert layers(net, X)["down"].tags == (Tag.RESIDUAL_CLOSING,)


def test_zeros_alone_make_no_zero_convolution() -> None:
    net = NETS["ControlNet"][0]()
    for name in ("copy1", "copy2", "up", "out"):
        nn.init.zeros_(getattr(net, name).weight)
    found = layers(net, IMAGE, IMAGE)
    assert not any(Tag.ZERO_CONV in found[name].tags for name in ("copy1", "copy2", "up", "out"))


@pytest.mark.parametrize(
    ("name", "depths"),
    [
        ("one block again", {"inp": (1, 1), "up": (2, 2), "down": (3, 3), "head": (10, 2)}),
        ("shortcut", {"stem": (1, 1), "conv1": (2, 2), "conv2": (3, 3), "short": (2, 2), "squeeze": (4, 3),
                      "excite": (5, 4), "head": (6, 3)}),
        ("tied head", {"words": (1, 1), "places": (1, 1), "up": (2, 2), "down": (3, 3)}),
        ("learned queries", {"inp": (1, 1), "attend.out_proj": (3, 3), "up": (4, 4), "head": (6, 4)}),
        ("GRU by hand", {"embed": (1, 1), "wz": (2, 2), "head": (12, 3)}),
        ("adaLN-zero", {"time": (1, 1), "ada": (2, 2), "q": (3, 2), "out": (4, 3), "head": (5, 2)}),
    ],
)  # fmt: skip
def test_depth_on_the_longest_and_the_shortest_way(name: str, depths: dict[str, tuple[int, int]]) -> None:
    found = rows(name)
    assert {key: found[key].depth for key in depths} == depths
    assert all(one.depth is None for one in found.values() if one.kind in ("norm", "parameter"))


def test_normed_means_that_a_norm_takes_the_output_itself() -> None:
    class Norms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.direct, self.pooled, self.bent, self.shifted = conv(3, 8), conv(8, 8), conv(8, 8), conv(8, 8)
            self.post, self.also, self.head = conv(8, 8), conv(8, 8), conv(8, 8)
            self.table = nn.Parameter(torch.randn(8, 4, 4))
            self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(6))

        def forward(self, x: Any) -> Any:
            bn = self.norms
            x = torch.relu(bn[0](self.direct(x)))
            x = torch.relu(bn[1](nn.functional.max_pool2d(2 * self.pooled(x), 2)))
            x = bn[2](torch.relu(self.bent(x)))
            x = bn[3](self.shifted(x) + self.table)
            x = bn[4](x + self.post(x))
            y = self.also(x)
            return self.head(torch.relu(bn[5](y)) + y)

    found = layers(Norms(), IMAGE)
    normed = {name: one.normed for name, one in found.items() if one.kind == "conv"}
    assert normed == {"direct": True, "pooled": True, "bent": False, "shifted": False, "post": False, "also": False,
                      "head": False}  # fmt: skip
    assert found["post"].tags == (Tag.RESIDUAL_CLOSING, Tag.NORM_FOLLOWS_SUM)


def test_a_mask_that_comes_in_is_no_gate() -> None:
    net = Net(lambda s, x, mask: s.down(torch.relu(s.up(x) * mask[..., None])), up=L(8, 16), down=L(16, 3))
    found = layers(net, X, torch.ones(2, 6))
    assert (found["up"].role, found["up"].activation) == (Role.TRUNK, "relu")


def test_the_table_of_roles_names_what_is_missing_and_what_is_too_much() -> None:
    found = list(rows("one block again").values())
    table = {"up": ("query",), "head": ("output head",), "gone": ("key",)}
    assert misses("own", found, table) == [
        "own: up: not query, but trunk",
        "own: down: residual closing",
        "own: no layer is called gone",
    ]
    assert ROLES
