"""Inputs from a configuration: transformers' and diffusers' config, timm's default_cfg."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from initaudit.live.signature import arguments
from initaudit.live.spec import Spec
from initaudit.live.wishes import BATCH, LENGTH

_PARTS = ("text_config", "vision_config", "audio_config", "encoder", "decoder", "backbone_config", "encoder_config")
_MODAL = ("input_ids", "pixel_values", "input_features", "input_values")
_MOST = 64  # sides of a latent that are not worth more


def from_config(module: nn.Module) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield inputs by argument name and where they come from, the fullest first; nothing without a configuration."""
    config = getattr(module, "config", None)
    names = [a.name for a in arguments(module)]
    if config is None and isinstance(base := getattr(module, "base_model", None), nn.Module) and base is not module:
        config = getattr(base, "config", None)
    if hasattr(config, "model_type"):
        yield from _transformers(module, config, names)
    elif isinstance(config, Mapping) and hasattr(module, "register_to_config"):
        yield from _diffusers(module, _Config({**config, "_class_name": type(module).__name__}))
    for key in ("pretrained_cfg", "default_cfg"):
        size = (getattr(module, key, None) or {}).get("input_size") if _is_mapping(module, key) else None
        if isinstance(size, tuple | list) and names:
            yield {names[0]: Spec((BATCH, *map(int, size)))}, f"{key}['input_size']"
            return


def argument(module: nn.Module, name: str) -> Any:
    """Return what the configuration says of one argument, None if it says nothing."""
    config = getattr(module, "config", None)
    make = _maker(name) if hasattr(config, "model_type") else None
    return make(_Config(config)) if make is not None else None


def _is_mapping(module: nn.Module, key: str) -> bool:
    return isinstance(getattr(module, key, None), Mapping)


class _Config:
    """Settings by name, looked for in a configuration and then in its parts."""

    def __init__(self, config: Any) -> None:
        self._config = config

    def __call__(self, *names: str, part: str = "") -> Any:
        for place in self._places(part):
            for name in names:
                value = place.get(name) if isinstance(place, Mapping) else getattr(place, name, None)
                if value is not None:
                    return value
        return None

    def _places(self, part: str) -> Iterator[Any]:
        parts = [part] if part else []
        for key in (*parts, "", *_PARTS):
            place = self._config
            if key:
                place = place.get(key) if isinstance(place, Mapping) else getattr(place, key, None)
            if place is not None and not isinstance(place, str):
                yield place

    def number(self, *names: str, default: int, part: str = "") -> int:
        """Return the first setting of these names that is a whole number."""
        for name in names:
            value = self(name, part=part)
            value = value[-1] if isinstance(value, tuple | list) and value else value
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
        return default


def _pair(value: Any, default: int) -> tuple[int, int]:
    if isinstance(value, Mapping):
        value = (value.get("height", default), value.get("width", default))
    if isinstance(value, int) and value > 0:
        return value, value
    if isinstance(value, tuple | list) and len(value) >= 2 and all(isinstance(n, int) for n in value[-2:]):
        return value[-2], value[-1]
    return default, default


# ---- transformers


def _ids(c: _Config) -> Spec:
    return Spec((BATCH, LENGTH), "int64", c.number("vocab_size", part="text_config", default=2))


def _decoder_ids(c: _Config) -> Spec:
    return Spec((BATCH, LENGTH), "int64", c.number("vocab_size", part="decoder", default=2))


def _pixels(c: _Config) -> Spec:
    height, width = _pair(c("image_size", part="vision_config"), 224)
    channels = c.number("num_channels", "in_channels", "in_chans", part="vision_config", default=3)
    frames = c("num_frames")
    lead = (BATCH, frames, channels) if isinstance(frames, int) else (BATCH, channels)
    return Spec((*lead, height, width))


def _wave(c: _Config) -> Spec:
    strides = c("conv_stride", part="audio_config")
    if isinstance(strides, tuple | list) and strides:
        return Spec((BATCH, 64 * math.prod(strides)))
    if c("num_mel_bins") and c("max_length"):  # a spectrogram transformer
        return Spec((BATCH, c.number("max_length", default=1024), c.number("num_mel_bins", default=128)))
    return Spec((BATCH, 1, 16000))


def _mel(c: _Config) -> Spec:
    bins = c.number("num_mel_bins", "feature_projection_input_dim", part="audio_config", default=80)
    positions = c("max_source_positions", part="audio_config")
    if c("feature_projection_input_dim"):
        return Spec((BATCH, 64, c.number("feature_projection_input_dim", default=160)))
    if c("input_feat_per_channel"):
        width = c.number("input_feat_per_channel", default=80) * c.number("input_channels", default=1)
        return Spec((BATCH, 64, width))
    length = 2 * positions if isinstance(positions, int) else 3000
    return Spec((BATCH, bins, length))


def _series(c: _Config) -> dict[str, Any]:
    context = c.number("context_length", "prediction_length", default=32)
    lags = c("lags_sequence")
    past = context + (max(lags) if isinstance(lags, tuple | list) and lags else 0)
    channels = c.number("num_input_channels", default=0)
    size = c.number("input_size", default=1)
    wide = (channels,) if channels else (size,) if size > 1 else ()
    future = c.number("prediction_length", default=8)
    times = c.number("num_time_features", default=0) or 1
    found = {
        "past_values": Spec((BATCH, past, *wide)),
        "past_time_features": Spec((BATCH, past, times)),
        "past_observed_mask": Spec((BATCH, past, *wide)),
        "future_values": Spec((BATCH, future, *wide)),
        "future_time_features": Spec((BATCH, future, times)),
    }
    kinds = c("num_static_categorical_features")
    if isinstance(kinds, int) and kinds > 0:
        found["static_categorical_features"] = Spec((BATCH, kinds), "int64", 1)
    reals = c("num_static_real_features")
    if isinstance(reals, int) and reals > 0:
        found["static_real_features"] = Spec((BATCH, reals))
    return found


_TRANSFORMERS: dict[str, Callable[[_Config], Any]] = {
    "input_ids": _ids,
    "decoder_input_ids": _decoder_ids,
    "pixel_values": _pixels,
    "input_values": _wave,
    "input_features": _mel,
    "bbox": lambda c: Spec((BATCH, LENGTH, 4), "int64", 100),
    "states": lambda c: Spec((BATCH, LENGTH, c.number("state_dim", default=17))),
    "actions": lambda c: Spec((BATCH, LENGTH, c.number("act_dim", "action_dim", default=4))),
    "rewards": lambda c: Spec((BATCH, LENGTH, 1)),
    "returns_to_go": lambda c: Spec((BATCH, LENGTH, 1)),
    "timesteps": lambda c: Spec((BATCH, LENGTH), "int64", LENGTH),
    "attention_mask": lambda c: Spec((BATCH, LENGTH), "int64"),
    "visual_feats": lambda c: Spec((BATCH, LENGTH, c.number("visual_feat_dim", default=2048))),
    "visual_pos": lambda c: Spec((BATCH, LENGTH, c.number("visual_pos_dim", default=4))),
    "audio_codes": lambda c: Spec((BATCH, c.number("n_codebooks", default=8), LENGTH), "int64"),
    "labels": lambda c: Spec((BATCH, LENGTH), "int64"),
}  # fmt: skip
_WITH = {"states": ("states", "actions", "rewards", "returns_to_go", "timesteps", "attention_mask")}


def _transformers(module: nn.Module, config: Any, names: list[str]) -> Iterator[tuple[dict[str, Any], str]]:
    c = _Config(config)
    main = str(getattr(module, "main_input_name", "") or "")
    known = set(names)
    if not known:  # a wrapper that passes on whatever it gets
        known = {main or "input_ids"}
    needed = [a.name for a in arguments(module) if a.required]
    first = [main] if main in known else []
    if main == "past_values" or "past_values" in known:
        series = _series(c)
        takes = {name: series[name] for name in series if name in known}
        if not any("future" in name for name in needed):
            yield {name: value for name, value in takes.items() if "future" not in name}, "the config"
        yield takes, "the config"
        return
    modal = [name for name in _MODAL if name in known and (name in first or _holds(config, name))]
    sets = [(*first, *modal, *needed), (*first, *needed), tuple(needed)]
    if main in _WITH:
        sets.insert(0, tuple(name for name in _WITH[main] if name in known))
    for chosen in dict.fromkeys(tuple(dict.fromkeys(one)) for one in sets):
        values = {name: make(c) for name in chosen if (make := _maker(name)) is not None}
        if not values:
            continue
        if "use_cache" in known:
            values["use_cache"] = False
        if "decoder_input_ids" in known and getattr(config, "is_encoder_decoder", False):
            values["decoder_input_ids"] = _decoder_ids(c)
        yield values, "the config"


def _maker(name: str) -> Callable[[_Config], Any] | None:
    """Return what makes an argument: "prompt_pixel_values" is as "pixel_values"."""
    found = (make for key, make in _TRANSFORMERS.items() if name == key or name.endswith(f"_{key}"))
    return _TRANSFORMERS.get(name) or next(found, None)


def _holds(config: Any, name: str) -> bool:
    """Whether a configuration has a part for this kind of input."""
    part = {"input_ids": "text_config", "pixel_values": "vision_config"}.get(name, "audio_config")
    return getattr(config, part, None) is not None


# ---- diffusers


def _sample(c: _Config) -> Spec:
    side = _pair(c("sample_size"), 32)
    channels = c.number("in_channels", default=4)
    frames = (8,) if "3D" in str(c("_class_name")) or c("temporal_compression_ratio") else ()
    return Spec((BATCH, channels, *frames, *(min(n, _MOST) if not c("patch_size") else n for n in side)))


def _condition(c: _Config) -> Spec:
    width = c.number(
        "cross_attention_dim", "joint_attention_dim", "caption_channels", "text_dim", "encoder_hid_dim",
        "cross_attention_input_dim", default=768,
    )  # fmt: skip
    return Spec((BATCH, LENGTH, width))


def _added(c: _Config) -> Any:
    if c("addition_embed_type") == "text_time":
        times = c.number("addition_time_embed_dim", default=256)
        text = c.number("projection_class_embeddings_input_dim", default=2816) - 6 * times
        return {"text_embeds": Spec((BATCH, text)), "time_ids": Spec((BATCH, 6))}
    return {"resolution": None, "aspect_ratio": None}


_LATENTS = 16  # places in a packed latent
_DIFFUSERS: dict[str, Callable[[_Config], Any]] = {
    "sample": _sample,
    "x": _sample,
    "timestep": lambda c: Spec((BATCH,), "int64", 10),
    "encoder_hidden_states": _condition,
    "class_labels": lambda c: Spec((BATCH,), "int64", c.number("num_embeds_ada_norm", "num_class_embeds", default=2)),
    "pooled_projections": lambda c: Spec((BATCH, c.number("pooled_projection_dim", default=768))),
    "added_cond_kwargs": _added,
    "guidance": lambda c: Spec((BATCH,)),
    "img_ids": lambda c: Spec((_LATENTS, 3)),
    "txt_ids": lambda c: Spec((LENGTH, 3)),
    "conditioning_scale": lambda c: 1.0,
    "added_time_ids": lambda c: Spec((BATCH, 3)),
}


def _latent(c: _Config) -> Spec:
    """What transformers of diffusers call hidden_states: an image, or a packed one where they take ids of places."""
    if c("axes_dims_rope"):
        return Spec((BATCH, _LATENTS, c.number("in_channels", default=64)))
    return _sample(c)


def _hint(c: _Config) -> Spec:
    side = 8 * _sample(c).shape[-1]
    return Spec((BATCH, c.number("conditioning_channels", default=3), side, side))


def _diffusers(module: nn.Module, c: _Config) -> Iterator[tuple[dict[str, Any], str]]:
    wants = {
        "added_cond_kwargs": bool(c("addition_embed_type")) or c("use_additional_conditions") is not None,
        "class_labels": bool(c("num_class_embeds") or c("class_embed_type")),
        "guidance": bool(c("guidance_embeds")),
        "img_ids": bool(c("axes_dims_rope")),
        "txt_ids": bool(c("axes_dims_rope")),
        "timestep": True,
    }
    ada = str(c("norm_type") or "").startswith("ada_norm") and bool(c("num_embeds_ada_norm"))
    known = {**_DIFFUSERS, "hidden_states": _latent, "controlnet_cond": _hint}
    values: dict[str, Any] = {}
    for argument in arguments(module):
        needed = argument.required or wants.get(argument.name, False) or (ada and argument.name == "class_labels")
        if argument.name == "encoder_hidden_states" and not argument.required:
            needed = bool(c("cross_attention_dim", "joint_attention_dim", "caption_channels"))
        if argument.name == "pooled_projections" and c("pooled_projection_dim"):
            needed = True
        if needed and argument.name in known:
            values[argument.name] = known[argument.name](c)
    if values:
        yield values, "the config"
