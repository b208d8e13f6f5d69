"""The models of `benchmarks.graphs`: rows of the zoo and hand-written networks, and where the truth of each is from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import graphs_nets, graphs_truths, zoo

Built = tuple[Any, dict[str, Any]]

HOOKED = (  # models of the zoo whose activations are all modules: hooks tell what they can
    "mlp", "dcgan_generator", "dcgan_discriminator", "unet", "vae", "two_towers", "gru_bi",
    "resnext", "mobilenet_v2", "regnet_y_400mf", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5", "vgg",
    "lraspp_mobilenet_v3", "resnet18_fpn",
    "timm_maxvit", "timm_coat", "timm_convnextv2", "timm_resnetv2", "timm_mobilevit", "timm_caformer",
    "timm_poolformer", "timm_cait", "timm_xcit", "timm_mixer", "timm_dla", "timm_hrnet", "timm_ghostnet",
    "timm_efficientformer", "timm_edgenext", "timm_convmixer", "timm_nfnet", "timm_davit",
    "distilbert", "albert", "mobilebert", "bart", "opt", "bloom", "gpt_neox", "phi", "phi3", "hf_vit", "hf_swin",
    "dinov2", "convnext_hf", "llama_dora",
)  # fmt: skip
SOURCES = (  # models that are saved in every form; the rest would only repeat them
    "mlp", "lstm_lm", "gated_units", "bare_cnn", "cells", "shared_layers", "gat", "in_place", "dcgan_generator", "unet",
    "resnet18", "densenet121", "mobilenet_v3_small", "convnext", "swin", "vit", "timm_coat", "bert", "gpt2", "llama",
    "t5", "whisper", "wav2vec2", "clip", "unet2d", "dit", "gpt2_lora",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One model, its library, and how to build it with example inputs."""

    name: str
    library: str
    build: Callable[[], Built]

    @property
    def by_hand(self) -> bool:
        """Whether what follows each weight is written down in graphs_truths."""
        return self.name in graphs_truths.TRUTHS


def rows() -> tuple[Row, ...]:
    """Return all models, those of the zoo first."""
    known = {row.name: row for row in zoo.ZOO}
    chosen = [*(name for name in graphs_truths.TRUTHS if name in known), *HOOKED]
    own = [Row(name, "hand-written", _own(build)) for name, build in graphs_nets.MODELS.items()]
    return (*(Row(name, known[name].library, _zoo(known[name])) for name in chosen), *own)


def row(name: str) -> Row:
    """Return the model called `name`, of these or of the whole zoo."""
    if name in graphs_nets.MODELS:
        return Row(name, "hand-written", _own(graphs_nets.MODELS[name]))
    known = zoo.row(name)
    return Row(name, known.library, _zoo(known))


def _zoo(row: zoo.Row) -> Callable[[], Built]:
    return lambda: zoo.build(row)


def _own(build: Callable[[], Built]) -> Callable[[], Built]:
    def seeded() -> Built:
        import torch

        torch.manual_seed(0)
        model, inputs = build()
        return model.eval(), inputs

    return seeded
