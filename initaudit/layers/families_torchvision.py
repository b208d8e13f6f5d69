"""Families of torchvision: what follows each weight, as the source of each model says."""

from __future__ import annotations

from initaudit.layers.families import Family

_V = "torchvision.models."

TORCHVISION: tuple[Family, ...] = (
    Family(
        "AlexNet", f"{_V}alexnet", ("features.10", "features.0", "features.3", "classifier.1", "classifier.6"),
        {"classifier.6": "-", "features.# classifier.#": "relu"},
        without=("features.1", "features.5"),
    ),
    Family(
        "VGG", f"{_V}vgg", ("classifier.6", "classifier.0", "classifier.3", "features.0", "features.7"),
        {"classifier.6": "-", "features.# classifier.#": "relu"},
    ),
    Family(
        "DenseNet", f"{_V}densenet", ("features.denseblock1.denselayer1.conv1", "features.conv0", "features.norm0"),
        {"features.conv# features.denseblock#.denselayer#.conv# features.transition#.conv": "relu", "classifier": "-"},
        norms={"features.norm# features.denseblock#.denselayer#.norm# features.transition#.norm": "relu"},
    ),
    Family(
        "GoogLeNet", f"{_V}googlenet", ("inception3a.branch1.conv", "inception3a.branch2.0.conv"),
        {"**.conv aux#.fc1": "relu", "aux#.fc2 fc": "-"},
    ),
    Family(
        "Inception v3", f"{_V}inception", ("Mixed_5b.branch1x1.conv", "Conv2d_1a_3x3.conv"),
        {"**.conv": "relu", "AuxLogits.fc fc": "-"},
    ),
    Family(
        "MobileNetV2", f"{_V}mobilenetv2",
        ("1.conv.0.0", "1.conv.0.1", "1.conv.1", "1.conv.2", "2.conv.1.0", "0.0", "0.1"),
        {"#.0 #.conv.#.0": "relu6", "#.conv.#": "-"},
    ),
    Family(
        "MobileNetV3 large", f"{_V}mobilenetv3", ("1.block.0.0", "1.block.0.1", "0.0", "0.1", "15.block.0.0", "16.0"),
        {
            "#.block.#.fc1": "relu", "#.block.#.fc2": "hardsigmoid", "#.block.$.0": "-",
            "{1,2,3,4,5,6}.block.#.0": "relu", "#.block.#.0 #.0": "hardswish",
        },
    ),
    Family(
        "MobileNetV3 small", f"{_V}mobilenetv3",
        ("1.block.0.0", "1.block.0.1", "1.block.1.fc1", "0.0", "0.1", "11.block.0.0", "12.0"),
        {
            "#.block.#.fc1": "relu", "#.block.#.fc2": "hardsigmoid", "#.block.$.0": "-", "{1,2,3}.block.#.0": "relu",
            "#.block.#.0 #.0": "hardswish",
        },
        without=("13.block.0.0",),
    ),
    Family(
        "MobileNetV3 classifier", f"{_V}mobilenetv3",
        ("classifier.3", "classifier.0", "features.1.block.0.0", "features.0.0"),
        {"classifier.0": "hardswish", "classifier.3": "-"},
        without=("features.1.0.block.0.0",),
    ),
    Family(
        "EfficientNet", f"{_V}efficientnet", ("1.0.block.0.0", "1.0.block.0.1", "0.0", "0.1", "2.0.block.1.0"),
        {
            "#.#.block.#.fc1": "silu", "#.#.block.#.fc2": "sigmoid", "#.#.block.0.0": "silu", "#.#.block.$.0": "-",
            "#.#.block.#.0 #.0": "silu",
        },
    ),
    Family(
        "ConvNeXt", f"{_V}convnext", ("1.0.block.0", "1.0.block.2", "1.0.block.3", "1.0.block.5", "0.0"),
        {"#.#.block.3": "gelu", "#.#.block.# #.#": "-"},
    ),
    Family(
        "RegNet", f"{_V}regnet", ("trunk_output.block1.block1-0.f.a.0", "stem.0"),
        {
            "stem.0 trunk_output.*.*.proj.0 trunk_output.*.*.f.{a,b,c}.0 trunk_output.*.*.f.se.fc1": "relu",
            "trunk_output.*.*.f.se.fc2": "sigmoid", "fc": "-",
        },
    ),
    Family(
        "ShuffleNetV2", f"{_V}shufflenetv2", ("stage2.0.branch2.0", "stage2.0.branch1.0", "conv1.0", "conv5.0"),
        {"stage#.#.branch1.0 stage#.#.branch2.3 fc": "-", "conv#.0 stage#.#.branch#.#": "relu"},
    ),
    Family(
        "SqueezeNet", f"{_V}squeezenet", ("features.3.squeeze", "features.3.expand1x1", "features.3.expand3x3"),
        {"features.# features.#.* classifier.1": "relu"},
    ),
    Family(
        "MNASNet", f"{_V}mnasnet", ("layers.8.0.layers.0", "layers.8.0.layers.6", "layers.0", "layers.14"),
        {"layers.6 layers.#.#.layers.6 classifier.1": "-", "layers.# layers.#.#.layers.#": "relu"},
    ),
    Family(
        "VisionTransformer", f"{_V}vision_transformer",
        ("encoder.layers.encoder_layer_0.mlp.0", "encoder.layers.encoder_layer_0.mlp.3", "conv_proj"),
        {
            "encoder.layers.*.mlp.0": "gelu",
            "encoder.layers.*.mlp.3 encoder.layers.*.self_attention.out_proj conv_proj": "-",
            "heads.pre_logits": "tanh", "heads.head": "-",
        },
    ),
    Family(
        "VisionTransformer", f"{_V}vision_transformer",
        ("encoder.layers.encoder_layer_0.mlp.linear_1", "encoder.layers.encoder_layer_0.mlp.linear_2", "conv_proj"),
        {"encoder.layers.*.mlp.linear_1": "gelu", "encoder.layers.*.mlp.linear_2 conv_proj heads.head": "-"},
    ),
    Family(
        "SwinTransformer", f"{_V}swin_transformer", ("1.0.attn.qkv", "1.0.mlp.0", "1.0.mlp.3", "0.0"),
        {
            "#.#.mlp.0": "gelu", "#.#.mlp.3 #.#.attn.proj #.#.attn.qkv #.reduction 0.0": "-",
            "#.#.attn.cpb_mlp.0": "relu", "#.#.attn.cpb_mlp.2": "sigmoid",
        },
    ),
    Family(
        "MaxVit", f"{_V}maxvit", ("blocks.0.layers.0.layers.MBconv.layers.conv_a.0", "stem.0.0"),
        {
            "stem.0.0 **.MBconv.layers.{conv_a,conv_b}.0 **.mlp_layer.1": "gelu", "**.squeeze_excitation.fc1": "silu",
            "**.squeeze_excitation.fc2": "sigmoid", "stem.1.0 **.MBconv.layers.conv_c.0 **.MBconv.proj.1": "-",
            "**.mlp_layer.3 **.attn_layer.1.to_qkv **.attn_layer.1.merge": "-", "classifier.3": "tanh",
            "classifier.5": "-",
        },
    ),
    Family(
        "video ResNet", f"{_V}video.resnet", ("layer1.0.conv1.0", "layer1.0.conv1.1", "layer1.0.conv2.0", "stem.0"),
        {"stem.# layer#.#.conv#.# layer#.#.conv#.#.# layer#.#.downsample.#": "relu", "fc": "-"},
    ),
    Family(
        "MViT", f"{_V}video.mvit", ("blocks.0.attn.qkv", "blocks.0.mlp.0", "blocks.0.mlp.3", "conv_proj"),
        {"blocks.#.mlp.0": "gelu", "blocks.#.mlp.3 blocks.#.attn.project.0 blocks.#.project conv_proj head.1": "-"},
    ),
    Family(
        "feature pyramid", "torchvision.ops.feature_pyramid_network", ("inner_blocks.0.0", "layer_blocks.0.0"),
        {"inner_blocks.#.0 layer_blocks.#.0": "-"},
    ),
    Family(
        "region proposals", f"{_V}detection.rpn", ("head.conv.0.0", "head.cls_logits", "head.bbox_pred"),
        {"head.conv.#.0": "relu", "head.cls_logits head.bbox_pred": "-"},
    ),
    Family(
        "Faster R-CNN heads", f"{_V}detection.faster_rcnn", ("box_predictor.cls_score", "box_predictor.bbox_pred"),
        {
            "box_head.fc6 box_head.fc7 box_head.#.0 mask_head.#.0 keypoint_head.#": "relu", "box_head.#": "relu",
            "mask_predictor.conv5_mask": "relu", "mask_predictor.mask_fcn_logits box_predictor.*": "-",
            "keypoint_predictor.kps_score_lowres": "-",
        },
    ),
    Family(
        "RetinaNet and FCOS heads", f"{_V}detection.retinanet",
        ("classification_head.conv.0.0", "classification_head.cls_logits"),
        {"{classification,regression}_head.conv.#.0": "relu", "{classification,regression}_head.*": "-"},
    ),
    Family(
        "RetinaNet and FCOS heads", f"{_V}detection.fcos",
        ("classification_head.conv.0", "classification_head.cls_logits"),
        {"{classification,regression}_head.conv.#": "relu", "{classification,regression}_head.*": "-"},
    ),
    Family(
        "DeepLabV3 head", f"{_V}segmentation.deeplabv3", ("0.convs.0.0", "0.convs.1.0", "0.project.0", "1", "4"),
        {"0.convs.#.# 0.project.0 1": "relu", "4": "-"},
    ),
    Family(
        "FCN head", f"{_V}segmentation.fcn", ("aux_classifier.0", "aux_classifier.1", "aux_classifier.4"),
        {"{aux_,}classifier.0": "relu", "{aux_,}classifier.4": "-"},
    ),
    Family(
        "LR-ASPP head", f"{_V}segmentation.lraspp", ("cbr.0", "cbr.1", "scale.1", "low_classifier"),
        {"cbr.0": "relu", "scale.1": "sigmoid", "low_classifier high_classifier": "-"},
    ),
    # Also timm's, and what is built after it: SE-ResNet, ResNeXt, ResNet-D with its deep stem, ResNeSt.
    Family(
        "ResNet", f"{_V}resnet, timm.models.resnet",
        ("layer1.0.conv1", "layer1.0.bn1", "layer1.0.conv2", "layer1.0.bn2", "layer2.0.conv1", "layer3.0.conv1"),
        {
            "conv1 conv1.# layer#.#.conv# layer#.#.downsample.# layer#.#.shortcut.# layer#.#.conv#.#": "relu",
            "layer#.#.se.fc1 layer#.#.se_module.fc1 layer#.#.conv2.fc1": "relu", "layer#.#.conv2.fc2": "-",
            "layer#.#.se.fc2 layer#.#.se_module.fc2 layer#.#.se.conv": "sigmoid", "fc": "-",
        },
        without=("stage2.0.branches.0.0.conv1",),
    ),
)  # fmt: skip
