"""Families of transformers for pictures and sound, and the keys that the authors' own code gives them."""

from __future__ import annotations

from initaudit.layers.families import Family

_H = "transformers.models."

SENSES: tuple[Family, ...] = (
    Family(
        "SigLIP", f"{_H}siglip", ("vision_model.encoder.layers.0.mlp.fc1", "text_model.head"),
        {"*.encoder.layers.#.mlp.fc1 vision_model.head.mlp.fc1": "act=gelu", "*.encoder.layers.#.mlp.fc2": "-"},
    ),
    Family(
        "CLIP", f"{_H}clip", ("vision_model.encoder.layers.0.mlp.fc1", "vision_model.pre_layrnorm"),
        {"*.encoder.layers.#.mlp.fc1": "act=quick_gelu", "*.encoder.layers.#.mlp.fc2": "-"},
        sure=False,
    ),
    Family(
        "CLIP", f"{_H}clip", ("text_model.encoder.layers.0.mlp.fc1", "text_model.final_layer_norm"),
        {"*.encoder.layers.#.mlp.fc1": "act=quick_gelu", "*.encoder.layers.#.mlp.fc2": "-"},
        sure=False,
    ),
    Family(
        "CLIP", "github.com/openai/CLIP, clip/model.py", ("resblocks.0.mlp.c_fc", "resblocks.0.attn.in_proj_weight"),
        {"resblocks.#.mlp.c_fc": "act=quick_gelu|gelu", "resblocks.#.mlp.c_proj resblocks.#.attn.out_proj": "-"},
    ),
    Family(
        "Segformer and PVT block", f"{_H}segformer, timm.models.pvt_v2", ("mlp.dwconv.dwconv", "mlp.fc1", "mlp.fc2"),
        {"mlp.dwconv.dwconv": "act=gelu", "mlp.fc1 mlp.fc2": "-"},
    ),
    Family(
        "Segformer block", f"{_H}segformer", ("mlp.dwconv.dwconv", "mlp.dense1", "mlp.dense2"),
        {"mlp.dwconv.dwconv": "act=gelu", "mlp.dense1 mlp.dense2": "-"},
    ),
    Family(
        "PVT block", "timm.models.pvt_v2", ("mlp.dwconv", "mlp.fc1", "mlp.fc2"),
        {"mlp.dwconv": "act=gelu", "mlp.fc1 mlp.fc2": "-"},
    ),
    Family(
        "Segformer head", f"{_H}segformer", ("linear_fuse", "batch_norm", "classifier"),
        {"linear_fuse": "relu", "linear_c.#.proj classifier": "-"},
    ),
    Family(
        "vision transformer block", f"{_H}sam, perceiver", ("mlp.lin1", "mlp.lin2"),
        {"mlp.lin1": "act=gelu|relu", "mlp.lin2": "-"},
    ),
    Family(
        "SAM mask decoder", f"{_H}sam",
        ("output_hypernetworks_mlps.0.proj_in", "upscale_conv1", "iou_prediction_head.proj_in"),
        {
            "output_hypernetworks_mlps.#.proj_in output_hypernetworks_mlps.#.layers.#": "relu", "upscale_conv#": "gelu",
            "iou_prediction_head.proj_in iou_prediction_head.layers.#": "relu", "**.proj_out": "-",
            "transformer.layers.#.mlp.lin1": "relu", "transformer.layers.#.mlp.lin2": "-",
        },
    ),
    Family(
        "SAM prompt encoder", f"{_H}sam", ("mask_embed.conv1", "mask_embed.conv2", "mask_embed.conv3"),
        {"mask_embed.conv1 mask_embed.conv2": "gelu", "mask_embed.conv3": "-"},
    ),
    Family(
        "SAM neck", f"{_H}sam", ("neck.conv1", "neck.conv2", "neck.layer_norm1"),
        {"neck.conv1 neck.conv2": "-"},
    ),
    Family(
        "ConvNeXt block", f"{_H}convnext, arXiv:2201.03545", ("pwconv1", "dwconv", "pwconv2", "layernorm"),
        {"pwconv1": "act=gelu", "dwconv pwconv2": "-"},
    ),
    Family(
        "ConvNeXt block", "github.com/facebookresearch/ConvNeXt, models/convnext.py",
        ("pwconv1", "dwconv", "pwconv2", "norm"),
        {"pwconv1": "gelu", "dwconv pwconv2": "-"},
    ),
    Family(
        "ResNet and RegNet", f"{_H}resnet, regnet",
        ("encoder.stages.0.layers.0.layer.0.convolution", "encoder.stages.0.layers.0.layer.1.convolution"),
        {
            "embedder.embedder.convolution embedder.convolution": "act=relu",
            "encoder.stages.#.layers.#.layer.#.convolution encoder.stages.#.layers.#.shortcut.convolution": "act=relu",
            "encoder.stages.#.layers.#.layer.#.attention.0": "relu",
            "encoder.stages.#.layers.#.layer.#.attention.2": "sigmoid",
        },
    ),
    Family(
        "DETR heads", f"{_H}yolos", ("class_labels_classifier.layers.0", "bbox_predictor.layers.0"),
        {"bbox_predictor.layers.$": "sigmoid", "class_labels_classifier.layers.$": "-", "*.layers.#": "relu"},
    ),
    Family(
        "DETR heads", f"{_H}detr", ("bbox_predictor.layers.0", "class_labels_classifier"),
        {"bbox_predictor.layers.$": "sigmoid", "bbox_predictor.layers.#": "relu", "class_labels_classifier": "-"},
    ),
    Family(
        "DETR heads", "github.com/facebookresearch/detr, models/detr.py",
        ("bbox_embed.layers.0", "class_embed", "input_proj"),
        {"bbox_embed.layers.$": "sigmoid", "bbox_embed.layers.#": "relu", "class_embed input_proj": "-"},
    ),
    Family(
        "DETR layer", f"{_H}detr",
        ("encoder.layers.0.mlp.fc1", "decoder.layers.0.encoder_attn.q_proj", "query_position_embeddings"),
        {"*.layers.#.mlp.fc1": "act=relu", "*.layers.#.mlp.fc2 input_projection": "-"},
    ),
    Family(
        "Phi and vision transformer layers", f"{_H}phi, vit, dinov2, blip", ("mlp.fc1", "mlp.fc2"),
        {"mlp.fc1": "act=gelu", "mlp.fc2": "-"},
        sure=False,
    ),
    Family(
        "ViT pooler", f"{_H}vit", ("pooler.dense", "embeddings.patch_embeddings.projection"),
        {"pooler.dense": "pooler_act=tanh"},
    ),
    Family(
        "patch embedding", f"{_H}vit, swin", ("patch_embeddings.projection",),
        {"patch_embeddings.projection": "-"},
    ),
    Family(
        "Wav2Vec2 layer", f"{_H}wav2vec2, hubert, wavlm, speecht5",
        ("feed_forward.intermediate_dense", "feed_forward.output_dense"),
        {"feed_forward.intermediate_dense": "act=gelu", "feed_forward.output_dense attention.out_proj": "-"},
    ),
    Family(
        "Conformer layer", f"{_H}wav2vec2_conformer, arXiv:2005.08100",
        ("ffn1.intermediate_dense", "conv_module.depthwise_conv"),
        {
            "ffn#.intermediate_dense": "act=silu", "ffn#.output_dense conv_module.pointwise_conv2": "-",
            "conv_module.depthwise_conv": "act=silu",
        },
    ),
    Family(
        "Wav2Vec2 features", f"{_H}wav2vec2", ("feature_extractor.conv_layers.0.conv", "feature_projection.projection"),
        {
            "feature_extractor.conv_layers.#.conv": "feat_extract_activation=gelu",
            "encoder.pos_conv_embed.conv": "feat_extract_activation=gelu",
            "encoder.pos_conv_embed.layers.#.conv": "feat_extract_activation=gelu",
            "feature_projection.projection": "-",
        },
    ),
    Family(
        "EnCodec", f"{_H}encodec, arXiv:2210.13438", ("encoder.layers.0.conv", "encoder.layers.1.block.1.conv"),
        {"decoder.layers.$.conv": "-", "**.layers.#.block.#.conv **.layers.#.shortcut.conv **.layers.#.conv": "elu"},
    ),
    Family(
        "speech convolutions", f"{_H}speech_to_text", ("conv.conv_layers.0", "layers.0.self_attn.q_proj"),
        {"conv.conv_layers.#": "glu"},
    ),
    Family(
        "HiFi-GAN", f"{_H}speecht5.SpeechT5HifiGan, vits, arXiv:2010.05646",
        ("conv_pre", "upsampler.0", "resblocks.0.convs1.0"),
        {"conv_pre upsampler.# resblocks.#.convs#.#": "leaky_relu", "conv_post": "tanh"},
    ),
    Family(
        "HiFi-GAN", "github.com/jik876/hifi-gan, models.py", ("conv_pre", "ups.0", "resblocks.0.convs1.0"),
        {"conv_pre ups.# resblocks.#.convs#.#": "leaky_relu", "conv_post": "tanh"},
    ),
)  # fmt: skip
