"""What the models of timm use under the same keys, by how the `architecture` in their config.json begins.

The longest start that fits counts. Read off the models that timm builds under these names.
"""

from __future__ import annotations

from collections.abc import Mapping

_STARTS = {
    "relu": (
        "botnet26t", "ecaresnext", "efficientnet_el", "efficientnet_em", "efficientnet_es", "fasternet_l",
        "fasternet_m", "fasternet_s", "fasternet_t2", "fbnetc", "gcresnet50t", "gernet", "halonet26t", "halonet_h1",
        "lambda_resnet26", "mnasnet", "mobilenet_edgetpu", "mobilenetv4_conv", "mobilenetv4_hybrid_medium",
        "mobileone", "nextvit", "nf_ecaresnet", "nf_resnet", "nf_seresnet", "regnetx", "regnety", "repvgg", "resnet",
        "resnet50_clip", "resnext", "semnasnet", "seresnet", "seresnext", "ecaresnet", "spnasnet",
        "tf_efficientnet_el", "tf_efficientnet_em", "tf_efficientnet_es", "tf_mobilenetv3_large_minimal",
        "tf_mobilenetv3_small_minimal", "convmixer_768",
    ),
    "relu6": (
        "efficientnet_lite", "mobilenetv1", "mobilenetv2", "tf_efficientnet_lite",
    ),
    "leaky_relu": (
        "cspdarknet", "cspresnet", "cspresnext", "darknet", "sedarknet",
    ),
    "hardswish": (
        "fbnetv3", "hardcorenas", "lcnet", "levit", "mobilenetv3", "tf_mobilenetv3",
    ),
    "silu": (
        "bat_", "botnet50ts", "coatnet", "cs3", "cspnext", "eca_botnext", "eca_halonext", "eca_nfnet",
        "eca_resnet33ts", "eca_resnext", "efficientnet", "gc_efficientnet", "gcresnet", "gcresnext", "halo2botnet",
        "halonet", "haloregnetz", "lambda_resnet", "lamhalobotnet", "levit_256d", "levit_384_s8", "levit_512",
        "levit_conv_256d", "levit_conv_384_s8", "levit_conv_512", "mambaout_base_plus_rw", "mambaout_base_wide_rw",
        "maxvit", "mobilevit", "nf_regnet", "nfnet_l", "regnetv", "regnety_040_sgn", "regnetz", "resnet32ts",
        "resnet33ts", "resnet51q", "resnet61q", "resnext26ts", "rexnet", "sebotnet", "sehalonet", "seresnet33ts",
        "seresnext26ts", "tf_efficientnet", "tinynet",
    ),
    "gelu": (
        "coatnet_0_224", "coatnet_1_224", "coatnet_2_224", "coatnet_3_224", "coatnet_4", "coatnet_5", "coatnext",
        "maxxvit", "convmixer", "convnext", "dm_nfnet", "efficientformerv2", "fasternet_t0", "fasternet_t1", "gcvit",
        "mambaout", "maxvit_base_tf", "maxvit_large_tf", "maxvit_small_tf", "maxvit_tiny_tf", "maxvit_xlarge_tf",
        "mobilenetv4_hybrid_large", "nfnet_f", "rdnet", "swiftformer", "visformer",
    ),
}  # fmt: skip
ARCHITECTURES: Mapping[str, str] = {start: name for name, starts in _STARTS.items() for start in starts}
