"""Families of timm, whose models share a vocabulary: conv_stem, conv_pw, blocks.0.mlp.fc1, se.conv_reduce.

Where its models differ in their activation under the same keys, the `architecture` in the config.json of the
HuggingFace hub tells them apart.
"""

from __future__ import annotations

from initaudit.layers.families import Family

_T = "timm.models."
_ATTENTION = "blocks.#.attn.{qkv,q_proj,k_proj,v_proj,proj} blocks.#.mlp.fc2 patch_embed.proj head head_dist fc_norm"

TIMM: tuple[Family, ...] = (
    Family(
        "vision transformer with SwiGLU", f"{_T}eva, timm.layers.SwiGLU",
        ("blocks.0.mlp.fc1_g", "blocks.0.mlp.fc1_x", "blocks.0.mlp.fc2"),
        {"blocks.#.mlp.fc1_g": "silu", f"blocks.#.mlp.fc1_x {_ATTENTION}": "-"},
    ),
    Family(
        "vision transformer", f"{_T}vision_transformer, deit, beit, eva",
        ("blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "blocks.0.attn.proj", "patch_embed.proj"),
        {
            "blocks.#.attn.rel_pos.mlp.fc1": "relu", "blocks.#.attn.rel_pos.mlp.fc2": "-", _ATTENTION: "-",
            "blocks.#.mlp.fc1": "act=gelu", "blocks.#.local_mp.conv1": "gelu", "blocks.#.local_mp.conv2": "-",
            "patch_embed.proj.$.0": "-", "patch_embed.proj.#.0": "gelu",
        },
        style={"mlp": "gelu"},
    ),
    Family(
        "ConvNeXt", f"{_T}convnext", ("stages.0.blocks.0.conv_dw", "stages.0.blocks.0.mlp.fc1"),
        {
            "stages.#.blocks.#.mlp.fc1": "gelu", "head.pre_logits.fc": "gelu", "head.mlp.fc1": "gelu",
            "stages.#.blocks.#.mlp.fc2 stages.#.blocks.#.conv_dw stages.#.downsample.# stem.0 head.fc": "-",
            "stages.#.blocks.#.convs.# stages.#.blocks.#.xca.{qkv,proj}": "-",
        },
        without=("stages.0.blocks.0.conv_pw", "stages.0.downsample.conv"), style={"conv": "gelu", "mlp": "gelu"},
    ),
    Family(
        "MobileNetV3 small", f"{_T}mobilenetv3",
        ("blocks.5.0.conv", "conv_stem", "bn1", "blocks.0.0.conv_dw", "conv_head", "blocks.4.0.se.conv_reduce"),
        {
            "blocks.#.#.se.conv_reduce": "relu", "blocks.#.#.se.conv_expand": "hardsigmoid",
            "blocks.#.#.conv_pwl blocks.0.#.conv_pw classifier": "-", "blocks.{0,1}.#.{conv_pw,conv_dw}": "relu",
            "blocks.#.#.{conv_pw,conv_dw}": "hardswish", "blocks.#.#.conv conv_stem conv_head": "hardswish",
        },
        without=("bn2", "blocks.6.0.conv", "blocks.0.0.ghost1.primary_conv.0"), sure=False,
    ),
    Family(
        "Inception-ResNet", f"{_T}inception_resnet_v2", ("repeat.0.conv2d", "mixed_5b.branch0.conv"),
        {"**.conv **.conv2d": "~relu", "classif": "-"},
    ),
    Family(
        "MobileNetV3", f"{_T}mobilenetv3",
        ("conv_stem", "bn1", "blocks.0.0.conv_dw", "blocks.0.0.bn1", "conv_head", "blocks.4.0.se.conv_reduce"),
        {
            "blocks.#.#.se.conv_reduce": "relu", "blocks.#.#.se.conv_expand": "hardsigmoid",
            "blocks.#.#.conv_pwl blocks.0.#.conv_pw classifier": "-",
            "blocks.{0,1,2}.#.{conv_pw,conv_dw,conv_exp}": "relu", "blocks.#.#.{conv_pw,conv_dw}": "hardswish",
            "blocks.#.#.conv conv_stem conv_head": "hardswish",
        },
        without=("bn2", "blocks.0.0.dw_start.conv", "blocks.0.0.ghost1.primary_conv.0", "blocks.0.1.conv_dw"),
        sure=False, style={"conv": "hardswish", "se": "relu", "gate": "hardsigmoid"},
    ),
    Family(
        "EfficientNet", f"{_T}efficientnet",
        ("conv_stem", "bn1", "bn2", "conv_head", "blocks.1.0.conv_pw", "blocks.1.0.se.conv_reduce"),
        {
            "blocks.#.#.se.conv_reduce": "act=silu", "blocks.#.#.se.conv_expand": "sigmoid",
            "blocks.#.#.conv_pwl blocks.0.#.conv_pw classifier": "-",
            "conv_stem conv_head blocks.#.#.conv_pw blocks.#.#.conv_dw blocks.#.#.conv_exp": "act=silu",
            "blocks.#.#.conv": "act=silu",
        },
        sure=False, style={"conv": "silu"},
    ),
    Family(
        "EfficientNetV2", f"{_T}efficientnet",
        ("conv_stem", "bn1", "bn2", "conv_head", "blocks.0.0.conv", "blocks.1.0.conv_exp", "blocks.1.0.conv_pwl"),
        {
            "blocks.#.#.se.conv_reduce": "act=silu", "blocks.#.#.se.conv_expand": "sigmoid",
            "blocks.#.#.conv_pwl classifier": "-",
            "conv_stem conv_head blocks.#.#.conv_pw blocks.#.#.conv_dw blocks.#.#.conv_exp blocks.#.#.conv": "act=silu",
        },
        sure=False, style={"conv": "silu"},
    ),
    Family(
        "MobileNetV2, MNASNet, EfficientNet-Lite", f"{_T}efficientnet",
        ("conv_stem", "bn1", "bn2", "conv_head", "blocks.1.0.conv_pw", "blocks.1.0.conv_dw"),
        {
            "blocks.#.#.se.conv_reduce": "act=relu", "blocks.#.#.se.conv_expand": "sigmoid",
            "blocks.#.#.conv_pwl blocks.0.#.conv_pw classifier": "-",
            "conv_stem conv_head blocks.#.#.conv_pw blocks.#.#.conv_dw blocks.#.#.conv": "act=relu6|relu",
        },
        without=("blocks.1.0.se.conv_reduce",), sure=False, style={"conv": "relu6"},
    ),
    Family(
        "MobileNetV4, LCNet and other MobileNets", f"{_T}mobilenetv3", ("conv_stem", "bn1", "conv_head"),
        {
            "classifier blocks.#.#.dw_start.conv blocks.#.#.pw_proj.conv blocks.#.#.conv_pwl": "-",
            "conv_stem conv_head blocks.#.#.{conv_dw,pw_exp.conv,dw_mid.conv}": "act=relu|hardswish",
        },
        without=("blocks.0.0.ghost1.primary_conv.0", "bn2"), sure=False,
        style={"conv": "relu", "gate": "hardsigmoid", "se": "relu"},
    ),
    Family(
        "MixNet and other EfficientNets", f"{_T}efficientnet", ("conv_stem", "bn1", "conv_head", "bn2"),
        {
            "classifier blocks.#.#.conv_pwl blocks.#.#.conv_pwl.# blocks.0.#.conv_pw": "-",
            "conv_stem conv_head blocks.#.#.conv_dw blocks.#.#.conv_dw.# blocks.#.#.conv_pw.#": "act=silu|relu",
            "blocks.#.#.conv_pw blocks.#.#.conv blocks.#.#.se.conv_reduce": "act=silu|relu",
            "blocks.#.#.se.conv_expand": "sigmoid",
        },
        without=("blocks.0.0.ghost1.primary_conv.0",), sure=False,
    ),
    Family(
        "GhostNet", f"{_T}ghostnet", ("blocks.0.0.ghost1.primary_conv.0", "conv_stem"),
        {
            "blocks.#.#.ghost1.short_conv.4": "sigmoid", "blocks.#.#.*.short_conv.#": "-",
            "blocks.#.#.ghost1.*.0 blocks.#.#.se.conv_reduce blocks.#.#.conv conv_stem conv_head": "relu",
            "blocks.#.#.ghost2.*.0 blocks.#.#.conv_dw blocks.#.#.shortcut.# classifier": "-",
            "blocks.#.#.se.conv_expand": "hardsigmoid",
        },
    ),
    Family(
        "RegNet", f"{_T}regnet", ("s1.b1.conv1.conv", "s1.b1.conv2.conv", "stem.conv"),
        {
            "stem.conv s#.b#.conv#.conv s#.b#.downsample.conv": "act=relu", "s#.b#.se.fc1": "relu",
            "s#.b#.se.fc2": "sigmoid", "head.fc": "-",
        },
        style={"conv": "relu"},
    ),
    Family(
        "NFNet", f"{_T}nfnet", ("stages.0.0.conv1", "stages.0.0.conv2b", "stem.conv1"),
        {
            "stages.#.#.attn_last.fc1": "relu", "stages.#.#.attn_last.fc2 stages.#.#.attn_last.conv": "sigmoid",
            "stages.#.#.attn.fc1": "relu", "stages.#.#.attn.fc2": "sigmoid", "head.fc": "-",
            "stem.conv# stages.#.#.conv1 stages.#.#.conv2 stages.#.#.conv2b final_conv": "act=silu|gelu",
            "stages.#.#.conv3 stages.#.#.downsample.conv": "~act=silu|gelu",
        },
    ),
    Family(
        "ResNetV2", f"{_T}resnetv2", ("stages.0.blocks.0.norm1", "stages.0.blocks.0.conv1", "stem.conv"),
        {"stem.conv stem.conv# stages.#.blocks.#.conv# stages.#.blocks.#.downsample.conv": "relu", "head.fc": "-"},
    ),
    Family(
        "HRNet", f"{_T}hrnet", ("stage2.0.branches.0.0.conv1", "stage2.0.fuse_layers.0.1.0", "conv2"),
        {
            "conv# layer1.#.conv# layer1.#.downsample.#": "relu", "classifier": "-",
            "stage#.#.branches.#.#.conv# transition#.#.# transition#.#.#.# final_layer.#": "relu",
            "stage#.#.fuse_layers.#.#.# stage#.#.fuse_layers.#.#.#.#": "relu",
            "incre_modules.#.#.conv# incre_modules.#.#.downsample.# downsamp_modules.#.#": "relu",
        },
    ),
    Family(
        "DLA", f"{_T}dla", ("level2.tree1.conv1", "base_layer.0", "level0.0"),
        {"fc": "-", "**.root.conv **.project.0 base_layer.0 level#.0 **.conv#": "relu"},
    ),
    Family(
        "RepVGG", f"{_T}byobnet", ("stages.0.0.conv_kxk.conv", "stages.0.0.conv_1x1.conv", "stem.conv_kxk.conv"),
        {"stages.#.#.conv_*.conv **.conv_kxk.conv **.conv_1x1.conv": "relu", "head.fc": "-"},
    ),
    Family(
        "LeViT", f"{_T}levit", ("stages.0.blocks.0.attn.qkv.linear", "stem.conv1.linear"),
        {
            "stem.conv{1,2,3}.linear": "act=hardswish", "stem.conv4.linear": "-", "**.mlp.ln1.linear": "act=hardswish",
            "**.mlp.ln2.linear **.qkv.linear **.kv.linear **.ln.linear head.linear head_dist.linear": "-",
        },
    ),
    Family(
        "MaxViT and CoAtNet", f"{_T}maxxvit", ("stages.0.blocks.0.conv.conv1_1x1", "stem.conv1"),
        {
            "stem.conv1 **.conv.conv1_1x1 **.conv.conv2_kxk": "act=silu|gelu", "**.conv.conv3_1x1": "-",
            "stem.conv2 **.shortcut.expand **.attn.qkv **.attn.proj **.mlp.fc2 head.fc": "-", "**.se.fc1": "silu",
            "**.se.fc2": "sigmoid", "**.rel_pos.mlp.fc1": "relu", "**.mlp.fc1": "gelu", "head.pre_logits.fc": "tanh",
        },
        style={"mlp": "gelu"},
    ),
    Family(
        "CoAtNet", f"{_T}maxxvit", ("stages.0.blocks.0.conv1_1x1", "stages.0.blocks.0.conv2_kxk", "stem.conv1"),
        {
            "stem.conv1 **.conv1_1x1 **.conv2_kxk": "act=silu|gelu", "**.attn.rel_pos.mlp.fc1": "relu",
            "**.mlp.fc1": "gelu",
            "stem.conv2 **.conv3_1x1 **.shortcut.expand **.attn.qkv **.attn.proj **.mlp.fc2 head.fc": "-",
            "**.se.fc1": "silu", "**.se.fc2": "sigmoid",
        },
    ),
    Family(
        "CoaT", f"{_T}coat", ("serial_blocks1.0.factoratt_crpe.qkv", "serial_blocks1.0.mlp.fc1"),
        {"**.fc1": "gelu", "**.fc2 **.qkv **.proj **.conv_list.# head head# aggregate": "-"},
    ),
    Family(
        "MetaFormer", f"{_T}metaformer", ("stages.0.blocks.0.token_mixer.pwconv1", "stages.0.blocks.0.mlp.fc1"),
        {
            "**.mlp.fc1 **.token_mixer.pwconv1": "star_relu", "head.fc.fc1": "relu2",
            "**.mlp.fc2 **.token_mixer.* stem.conv stages.#.downsample.conv head.fc.fc2 head.fc": "-",
        },
    ),
    Family(
        "PoolFormer, PoolFormerV2", f"{_T}metaformer",
        ("stages.0.blocks.0.mlp.fc1", "stages.0.blocks.0.norm1", "stem.conv", "stages.1.downsample.conv"),
        {
            "**.mlp.fc1": "gelu|star_relu", "head.fc.fc1": "relu2",
            "**.mlp.fc2 stem.conv stages.#.downsample.conv head.fc.fc2 head.fc": "-",
        },
        without=("stages.0.blocks.0.token_mixer.pwconv1", "stages.0.blocks.0.attn.qkv", "stages.0.blocks.0.conv_dw"),
        sure=False,
    ),
    Family(
        "MLP-Mixer", f"{_T}mlp_mixer", ("blocks.0.mlp_channels.fc1", "blocks.0.mlp_channels.fc2", "stem.proj"),
        {
            "blocks.#.mlp_channels.fc1 blocks.#.mlp_tokens.fc1": "gelu|silu",
            "blocks.#.mlp_channels.* blocks.#.mlp_tokens.* blocks.#.linear_tokens stem.proj head": "-",
            "blocks.#.mlp_channels.gate.proj": "-",
        },
        sure=False,
    ),
    Family(
        "ConvMixer", f"{_T}convmixer", ("blocks.0.0.fn.0", "blocks.0.1", "stem.0"),
        {"stem.0 blocks.#.0.fn.0 blocks.#.1": "act=gelu", "head": "-"},
    ),
    Family(
        "XCiT", f"{_T}xcit", ("blocks.0.local_mp.conv1", "cls_attn_blocks.0.attn.q"),
        {
            "**.mlp.fc1 **.local_mp.conv1": "gelu", "patch_embed.proj.$.0": "-", "patch_embed.proj.#.0": "gelu",
            "**.mlp.fc2 **.local_mp.conv2 **.attn.* pos_embed.token_projection head": "-",
        },
    ),
    Family(
        "MobileViT", f"{_T}mobilevit, byobnet", ("stages.2.1.conv_kxk.conv", "stages.2.1.transformer.0.mlp.fc1"),
        {
            "**.conv3_1x1.conv **.conv_1x1 **.mlp.fc2 **.attn.proj head.fc": "-",
            "stem.conv final_conv.conv **.conv1_1x1.conv **.conv2_kxk.conv **.conv_kxk.conv **.conv_proj.conv": "silu",
            "**.conv_fusion.conv **.mlp.fc1": "silu",
        },
        style={"conv": "silu", "mlp": "silu"},
    ),
    Family(
        "EfficientFormer", f"{_T}efficientformer",
        ("stem.conv1", "stem.conv2", "stem.norm1", "stages.0.blocks.0.mlp.fc1", "stages.0.blocks.0.mlp.norm1"),
        {
            "stem.conv#": "relu", "**.mlp.fc1": "gelu", "head head_dist": "-",
            "**.mlp.fc2 **.downsample.conv **.token_mixer.qkv **.token_mixer.proj": "-",
        },
    ),
    Family(
        "bring your own blocks", f"{_T}byobnet", ("stages.0.0.conv1_1x1.conv", "stages.0.0.conv2_kxk.conv"),
        {"head.fc": "-"},
        sure=False, style={"conv": "relu"},
    ),
    Family(
        "CSPNet, DarkNet", f"{_T}cspnet", ("stages.0.conv_down.conv", "stages.0.blocks.0.conv1.conv"),
        {"head.fc": "-"},
        sure=False, style={"conv": "leaky_relu"},
    ),
    Family(
        "ReXNet", f"{_T}rexnet", ("features.1.conv_exp.conv", "features.0.conv_dw.conv", "stem.conv"),
        {
            "**.conv_exp.conv stem.conv": "silu", "**.conv_pwl.conv": "-", "**.se.fc1": "relu", "**.se.fc2": "sigmoid",
            "**.conv_dw.conv": "relu6", "head.fc": "-",
        },
        sure=False, style={"conv": "silu"},
    ),
    Family(
        "TResNet", f"{_T}tresnet", ("body.conv1.conv", "body.layer1.0.conv1.conv"),
        {
            "head.fc": "-", "body.layer{1,2}.#.conv2.conv **.conv3.conv **.downsample.#.conv": "relu",
            "**.conv#.conv": "leaky_relu", "**.se.fc1": "relu", "**.se.fc2": "sigmoid",
        },
        sure=False, style={"conv": "leaky_relu"},
    ),
    Family(
        "EfficientViT", f"{_T}efficientvit_mit", ("stem.in_conv.conv", "stages.0.blocks.0.main.point_conv.conv"),
        {
            "**.in_conv.conv **.inverted_conv.conv **.depth_conv.conv **.spatial_conv.conv": "hardswish",
            "**.point_conv.conv **.proj.conv **.qkv.conv head.classifier.$": "-", "head.classifier.#": "hardswish",
            "**.aggreg.#.#": "-",
        },
    ),
    Family(
        "FastViT", f"{_T}fastvit", ("stages.0.blocks.0.token_mixer.mixer.conv_kxk.0.conv", "stem.0.conv_kxk.0.conv"),
        {
            "**.mlp.fc1": "gelu", "**.mlp.fc2 **.mlp.conv.conv **.token_mixer.* head.fc": "-",
            "**.token_mixer.mixer.conv_kxk.#.conv **.token_mixer.mixer.conv_scale.conv": "-",
            "**.token_mixer.norm.conv_kxk.#.conv **.token_mixer.norm.conv_scale.conv": "-",
            "stem.#.conv_kxk.#.conv stem.#.conv_scale.conv": "gelu",
            "stages.#.downsample.proj.#.conv_kxk.#.conv stages.#.downsample.proj.#.conv_scale.conv": "gelu",
            "**.se.fc1": "relu", "**.se.fc2": "sigmoid",
        },
    ),
    Family(
        "MobileOne", f"{_T}byobnet", ("stages.0.0.conv_kxk.0.conv", "stages.0.0.conv_scale.conv"),
        {"**.conv_kxk.#.conv **.conv_scale.conv": "relu", "**.se.fc1 **.attn.fc1": "relu", "**.fc2": "sigmoid"},
    ),
    Family(
        "RepViT", f"{_T}repvit", ("stages.0.blocks.0.token_mixer.conv.c", "stages.0.blocks.0.channel_mixer.conv1.c"),
        {
            "**.channel_mixer.conv1.c **.ffn.conv1.c stem.conv1.c": "gelu", "**.se.fc1": "relu", "**.se.fc2": "sigmoid",
            "**.token_mixer.conv.c **.token_mixer.conv1 **.channel_mixer.conv2.c **.ffn.conv2.c stem.conv2.c": "-",
            "**.spatial_downsample.c **.channel_downsample.c head.head.l head.head_dist.l": "-",
        },
    ),
    Family(
        "TinyViT", f"{_T}tiny_vit",
        ("patch_embed.conv1.conv", "stages.0.blocks.0.conv1.conv", "stages.0.blocks.0.conv3.conv"),
        {
            "patch_embed.conv1.conv stages.#.blocks.#.conv#.conv **.mlp.fc1": "gelu",
            "stages.#.downsample.conv1.conv stages.#.downsample.conv2.conv": "gelu",
            "stages.#.downsample.conv3.conv **.local_conv.conv **.attn.* **.mlp.fc2 head.fc": "-",
            "patch_embed.conv2.conv": "~gelu",
        },
    ),
    Family(
        "FocalNet", f"{_T}focalnet", ("layers.0.blocks.0.modulation.focal_layers.0.0", "layers.0.blocks.0.mlp.fc1"),
        {
            "layers.#.blocks.#.modulation.focal_layers.#.0 layers.#.blocks.#.mlp.fc1": "gelu",
            "layers.#.blocks.#.modulation.* layers.#.blocks.#.mlp.fc2 stem.proj layers.#.downsample.proj head.fc": "-",
        },
    ),
    Family(
        "VoVNet", f"{_T}vovnet", ("stages.0.blocks.0.conv_concat.conv", "stem.0.conv"),
        {"**.conv_dw head.fc": "-", "**.conv **.conv_pw": "relu", "**.attn.fc": "hardsigmoid"},
    ),
    Family(
        "HGNet", f"{_T}hgnet", ("stages.0.blocks.0.aggregation.0.conv", "stages.0.blocks.0.layers.0.conv"),
        {
            "stages.#.downsample.conv head.fc": "-", "**.aggregation.1.conv": "sigmoid|relu",
            "head.last_conv.0": "relu", "**.aggregation.#.conv **.layers.#.conv stem.stem.#.conv": "relu",
        },
        sure=False,
    ),
    Family(
        "aligned Xception", f"{_T}xception_aligned", ("blocks.0.stack.conv1.conv_dw", "blocks.0.stack.conv1.conv_pw"),
        {"**.conv_dw **.shortcut.conv head.fc": "-", "**.conv_pw stem.#.conv": "~relu"},
        sure=False,
    ),
    Family(
        "EfficientViT", f"{_T}efficientvit_msra",
        ("stages.0.blocks.0.mixer.m.attn.qkvs.0.conv", "patch_embed.conv1.conv"),
        {
            "patch_embed.conv{1,2,3}.conv **.ffn#.m.pw1.conv **.m.pw1.conv **.patchmerge.conv{1,2}.conv": "relu",
            "patch_embed.conv4.conv **.pw2.conv **.m.conv **.qkvs.#.conv **.dws.#.conv **.patchmerge.conv3.conv": "-",
            "**.attn.proj.1.conv": "-", "**.se.fc1": "relu", "**.se.fc2": "sigmoid",
        },
    ),
    Family(
        "InceptionNeXt", f"{_T}inception_next",
        ("stages.0.blocks.0.token_mixer.dwconv_hw", "stages.0.blocks.0.mlp.fc1"),
        {"**.mlp.fc1 head.fc1": "gelu", "**.token_mixer.* **.mlp.fc2 stem.0 stages.#.downsample.1 head.fc2": "-"},
    ),
    Family(
        "GCViT", f"{_T}gcvit", ("stem.down.conv_block.conv_dw", "stages.0.blocks.0.mlp.fc1"),
        {
            "**.conv_dw **.se.fc1 **.mlp.fc1": "gelu", "**.se.fc2": "sigmoid",
            "**.conv_pw **.attn.* **.mlp.fc2 stem.conv1 **.reduction head.fc": "-",
        },
    ),
    Family(
        "continuous position bias", f"{_T}swin_transformer_v2, arXiv:2111.09883", ("cpb_mlp.0", "logit_scale"),
        {"cpb_mlp.$": "sigmoid", "cpb_mlp.#": "relu"},
    ),
    Family(
        "continuous position bias", f"{_T}swin_transformer_v2, arXiv:2111.09883", ("cpb_mlp.fc1", "cpb_mlp.fc2"),
        {"cpb_mlp.fc1": "relu", "cpb_mlp.fc2": "sigmoid"},
    ),
    Family(
        "continuous position bias", "transformers.models.swinv2", ("continuous_position_bias_mlp.0", "logit_scale"),
        {"continuous_position_bias_mlp.$": "sigmoid", "continuous_position_bias_mlp.#": "relu"},
    ),
    Family(
        "StarNet", f"{_T}starnet", ("stages.0.1.dwconv.conv", "stages.0.1.f1.conv"),
        {
            "**.f1.conv": "relu6", "**.f2.conv **.g.conv **.dwconv.conv **.dwconv2.conv stages.#.#.conv head": "-",
            "stem.#.conv": "relu6",
        },
    ),
)  # fmt: skip
