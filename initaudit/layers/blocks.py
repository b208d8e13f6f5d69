"""The blocks of diffusion models as diffusers names them: what runs after what is in the names.

Source: diffusers.models.unets.unet_2d_blocks. A block runs resnets.0, attentions.0, resnets.1, ... and then its
samplers; the blocks run down, through the middle and up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from initaudit.layers.families import Reading, Told
from initaudit.types import Evidence

_BLOCK = re.compile(
    r"^((?:.*\.)?)((?:down_blocks|up_blocks)\.(\d+)|mid_block)\.(resnets|attentions|(?:down|up)samplers)\.(\d+)\.(.+)$"
)
_ANY = re.compile(r"^((?:.*\.)?)((?:down_blocks|up_blocks)\.\d+|mid_block)\.([^.]+)(?:\.|$)")
_ORDER = {"resnets": 0, "attentions": 1, "downsamplers": 2, "upsamplers": 2}
_SOURCE = "diffusers.models.unets.unet_2d_blocks"
# Norms that the time or a picture scales: what follows them is not the activation.
_SCALED = re.compile(r"(?:^|\.)norm[12]\.(?:conv_y|conv_b|linear)$")


class Blocks:
    """What follows the weights that end a residual block, an attention or a sampler."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = frozenset(paths)
        self._steps: dict[str, list[str]] = {}  # root -> "down_blocks.0.resnets.0", ... as they run
        others: set[str] = set()
        found: dict[str, dict[tuple[int, ...], str]] = {}
        for path in self._paths:
            block = _BLOCK.match(path)
            if block is None:
                beside = _ANY.match(path)
                if beside is not None:
                    others.add(beside[1])
                continue
            root, name, number, part, index, below = block.groups()
            if _SCALED.search(below):
                others.add(root)
                continue
            stage = 1 if name == "mid_block" else 0 if name.startswith("down") else 2
            sampler = _ORDER[part] == 2
            key = (stage, int(number or 0), int(sampler), int(index), _ORDER[part])
            found.setdefault(root, {})[key] = f"{root}{name}.{part}.{index}"
        for root, steps in found.items():
            if root not in others and f"{root}mid_block.resnets.0.conv1" in self._paths:
                decoder = f"{root}up_blocks.0.resnets.0.conv1" in self._paths
                if decoder or f"{root}down_blocks.0.resnets.0.conv1" in self._paths:
                    self._steps[root] = [steps[key] for key in sorted(steps)]

    def read(self, path: str, told: Told) -> Reading | None:
        """Return what follows the weight at a path, None where the blocks do not say."""
        if not self._steps:
            return None
        for root, steps in self._steps.items():
            if not path.startswith(root):
                continue
            here = path.removeprefix(root)
            if here in ("conv_in", "controlnet_cond_embedding.conv_out"):
                return self._into(root, steps[0], path, told)
            step, _, end = here.rpartition(".")
            if end == "0" and step.endswith(".to_out"):
                step, end = step.removesuffix(".to_out"), "to_out"
            step = f"{root}{step}"
            if step not in steps or end not in ("conv2", "conv_shortcut", "to_out", "proj_out", "conv"):
                continue
            after = steps.index(step) + 1
            return self._into(root, steps[after] if after < len(steps) else "", path, told)
        return None

    def _into(self, root: str, step: str, path: str, told: Told) -> Reading | None:
        """What meets the output first: the norm and activation of a residual block, else a linear layer."""
        if step and f"{step}.conv1" not in self._paths:
            return Reading(None, Evidence.NAMED, f"no activation: {step} takes it ({_SOURCE})")
        if not step and f"{root}conv_norm_out" not in self._paths:
            if f"{root}controlnet_mid_block" in self._paths:
                return Reading(None, Evidence.NAMED, f"no activation: a zero convolution takes it ({_SOURCE})")
            return None
        name = told("act", path) or "silu"
        return Reading(name, Evidence.NAMED, f"{name} follows: {step or 'conv_norm_out'} takes it ({_SOURCE})")
