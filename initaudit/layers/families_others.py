"""Families of diffusers, torch.nn, graph networks and detectors."""

from __future__ import annotations

from initaudit.layers.families import Family

_D = "diffusers.models."

OTHERS: tuple[Family, ...] = (
    Family(
        "residual block", f"{_D}resnet", ("conv1", "norm1", "conv2", "norm2", "time_emb_proj"),
        {"conv1 time_emb_proj": "act=silu", "conv2 conv_shortcut": "~act=silu"},
        sure=False, norms={"norm1": "act=silu", "norm2": "~act=silu"},  # the time may scale the second
    ),
    Family(
        "autoencoder", f"{_D}autoencoders.autoencoder_kl",
        ("encoder.mid_block.resnets.0.conv1", "encoder.conv_in", "encoder.conv_norm_out", "decoder.conv_out"),
        {
            "**.resnets.#.conv1": "act=silu", "**.conv_out": "-",
            "**.resnets.#.conv2 **.resnets.#.conv_shortcut": "~act=silu",
        },
        norms={"**.resnets.#.norm# **.conv_norm_out": "act=silu", "**.attentions.#.group_norm": "-"},
        style={"conv": "silu"},
    ),
    Family(
        "UNet", f"{_D}unets.unet_2d_condition, unet_2d",
        ("time_embedding.linear_1", "time_embedding.linear_2", "conv_in"),
        {
            "time_embedding.linear_# add_embedding.linear_1 class_embedding.linear_1": "act=silu", "conv_out": "-",
            "controlnet_cond_embedding.conv_in controlnet_cond_embedding.blocks.#": "silu",
            "controlnet_down_blocks.# controlnet_mid_block": "-",
            "**.attentions.#.proj_in transformer_in.proj_in transformer_in.proj_out": "-",
            "**.temp_convs.#.conv#.#": "~silu", "**.attentions.#.proj_out **.attentions.#.to_out.0": "~-",
        },
        norms={"conv_norm_out": "act=silu", "**.attentions.#.norm **.attentions.#.group_norm": "-"},
        style={"conv": "silu"},
    ),
    Family(
        "transformer block", f"{_D}attention.FeedForward", ("ff.net.0.proj", "ff.net.2"),
        {
            "{ff,ff_context}.net.0.proj": "activation_fn=gelu", "{ff,ff_context}.net.2": "-",
            "norm{1,2,3}.linear norm1_context.linear": "-", "norm{1,2,3}.emb.timestep_embedder.linear_#": "silu",
            "norm{1,2,3}.emb.class_embedder.embedding_table": "silu",
        },
    ),
    Family(
        "Flux single block", f"{_D}transformers.transformer_flux", ("proj_mlp", "proj_out", "norm.linear"),
        {"proj_mlp": "gelu", "proj_out norm.linear": "-"},
    ),
    Family(
        "time and text embedding", f"{_D}embeddings.CombinedTimestepTextProjEmbeddings",
        ("time_text_embed.timestep_embedder.linear_1", "time_text_embed.timestep_embedder.linear_2"),
        {"time_text_embed.*.linear_#": "silu", "context_embedder proj_out norm_out.linear x_embedder": "-"},
    ),
    Family(
        "time embedding", f"{_D}embeddings, normalization.AdaLayerNormSingle",
        ("adaln_single.emb.timestep_embedder.linear_1", "adaln_single.linear"),
        {
            "adaln_single.emb.*.linear_#": "silu", "adaln_single.linear": "-", "caption_projection.linear_1": "gelu",
            "caption_projection.linear_2": "-",
        },
    ),
    Family(
        "DiT", "github.com/facebookresearch/DiT, models.py",
        ("t_embedder.mlp.0", "t_embedder.mlp.2", "blocks.0.adaLN_modulation.1"),
        {
            "t_embedder.mlp.# y_embedder.embedding_table": "silu", "blocks.#.mlp.fc1": "gelu",
            "blocks.#.mlp.fc2 blocks.#.adaLN_modulation.1 final_layer.adaLN_modulation.1 final_layer.linear": "-",
            "x_embedder.proj": "-",
        },
    ),
    Family(
        "latent diffusion", "github.com/CompVis/latent-diffusion, ldm/modules/diffusionmodules/openaimodel.py",
        ("input_blocks.0.0", "input_blocks.1.0.in_layers.2", "time_embed.0", "time_embed.2"),
        {
            "time_embed.# **.emb_layers.1 **.in_layers.2": "silu", "**.out_layers.3 **.skip_connection": "~silu",
            "out.2 **.ff.net.2 **.proj_in **.to_out.0": "-", "**.proj_out": "~-", "**.ff.net.0.proj": "gelu",
        },
    ),
    Family(
        "latent diffusion's autoencoder", "github.com/CompVis/latent-diffusion, ldm/modules/diffusionmodules/model.py",
        ("mid.block_1.conv1", "mid.block_1.norm1", "conv_in", "conv_out"),
        {"**.conv1 **.conv2 **.nin_shortcut **.attn_1.proj_out": "silu", "conv_out": "-"},
        sure=False,
    ),
    Family(
        "torch.nn.Transformer layer", "torch.nn.modules.transformer",
        ("linear1", "linear2", "self_attn.in_proj_weight"),
        {"linear1": "act=relu|gelu", "linear2 self_attn.out_proj multihead_attn.out_proj": "-"},
    ),
    Family(
        "graph attention", "torch_geometric.nn.GATConv, arXiv:1710.10903",
        ("conv1.lin_src", "conv1.att_src", "conv2.lin_src"),
        {"conv1.lin_src conv1.lin": "elu", "conv2.lin_src": "-"},
        sure=False,
    ),
    Family(
        "graph attention", "torch_geometric.nn.GATConv, arXiv:1710.10903",
        ("conv1.lin", "conv1.att_src", "conv2.lin", "conv2.att_src"),
        {"conv1.lin": "elu", "conv2.lin": "-"},
        sure=False,
    ),
    Family(
        "graph attention", "github.com/Diego999/pyGAT, models.py", ("attention_0.W", "out_att.W"),
        {"attention_#.W out_att.W": "elu"},
        sure=False,
    ),
    Family(
        "graph convolution", "torch_geometric.nn.GCNConv, arXiv:1609.02907", ("conv1.lin", "conv2.lin"),
        {"conv1.lin": "relu", "conv2.lin": "-"},
        sure=False, without=("conv1.att_src",),
    ),
    Family(
        "YOLO", "github.com/ultralytics/ultralytics, nn/modules/conv.py",
        ("model.0.conv", "model.0.bn", "model.1.conv", "model.2.cv1.conv"),
        {"**.conv": "silu"},
        style={"conv": "silu"},
    ),
)  # fmt: skip
