"""Rows of the functions that mix a signal with weights, and of attention, norms and their like."""

SHARED = """
linear               = linear : x weight bias?
conv                 = conv1d conv2d conv3d
                       : x weight bias? stride>strides=1 padding>pads=0 dilation>dilations=1 groups>group=1
conv                 = conv_tbc : x weight bias? pad>pads=0
!conv_transpose      = conv_transpose1d conv_transpose2d conv_transpose3d :
                       x weight bias? stride padding output_padding groups dilation
!conv                = convolution _convolution convolution_overrideable :
                       x weight bias? stride padding dilation transposed output_padding groups
                       -benchmark -deterministic -cudnn_enabled -allow_tf32
conv                 = _convolution_mode : x weight bias? stride>strides=1 padding>pads=0 dilation>dilations=1
                       groups>group=1
conv                 = mkldnn_convolution : x weight bias? padding>pads=0 stride>strides=1 dilation>dilations=1
                       groups>group=1
conv                 = cudnn_convolution : x weight padding>pads=0 stride>strides=1 dilation>dilations=1
                       groups>group=1 *-rest
conv                 = miopen_convolution :
                       x weight bias? padding>pads=0 stride>strides=1 dilation>dilations=1 groups>group=1 *-rest
conv                 = _slow_conv2d_forward thnn_conv2d slow_conv3d :
                       x weight -kernel_size bias? stride>strides=1 padding>pads=0 *-rest
deform_conv          = deform_conv2d :
                       x weight@1 offset@2 mask?@4 bias?@3 stride_h>stride_h stride_w>stride_w pad_h>pad_h pad_w>pad_w
                       dilation_h>dilation_h dilation_w>dilation_w groups>group=1 offset_groups>offset_group=1
                       -use_mask
matmul               = matmul mm bmm mv dot inner vdot linalg_matmul linalg_vecdot : a|x b|other|mat2|vec|tensor|y
                       -out_dtype -dim
matmul               = rmatmul : b@1 a@0
matmul               = outer ger : a b|vec2
matmul               = tensordot : a b|other dims|dims_self>dims=2 dims_other>
matmul               = kron : a b|other
gemm                 = addmm : c@2 a|mat1@0 b|mat2@1 -out_dtype beta>beta=1 alpha>alpha=1
gemm                 = addmm : c@2 a|mat1@0 b|mat2@1 beta>beta=1 alpha>alpha=1
gemm                 = _addmm_activation : c@2 a|mat1@0 b|mat2@1 beta>beta=1 alpha>alpha=1 use_gelu>use_gelu=False
!baddbmm             = baddbmm addbmm addmv addr :
                       c a|batch1|mat|vec1 b|batch2|vec|vec2 beta alpha
grouped_mm           = _grouped_mm grouped_mm : x|mat_a weight|mat2|mat_b offs? bias? out_dtype>
grouped_mm           = _scaled_grouped_mm :
                       x weight|mat2 -scale_a -scale_b offs? bias? -scale_result -out_dtype -use_fast_accum
grouped_mm           = scaled_grouped_mm : x|mat_a weight|mat_b *-rest
matmul               = scaled_mm : a|mat_a b|mat_b *-rest
!linear_loss         = linear_cross_entropy : x linear_weight target *rest
matmul               = _scaled_mm _int_mm : a b|mat2 -scale_a -scale_b -bias -scale_result -out_dtype -use_fast_accum
!einsum              = einsum : equation *operands
bilinear             = bilinear : x1|input1 x2|input2@2 weight@1 bias?@3
matmul               = chain_matmul linalg_multi_dot : tensors|matrices*

!lstm                = lstm : x|data a|hx|batch_sizes b|params c d e f g h
!gru                 = gru : x|data a|hx|batch_sizes b|params c d e f g h
!rnn_tanh            = rnn_tanh : x|data a|hx|batch_sizes b|params c d e f g h
!rnn_relu            = rnn_relu : x|data a|hx|batch_sizes b|params c d e f g h
!lstm_cell           = lstm_cell : x hx w_ih w_hh b_ih|input_bias? b_hh|hidden_bias?
!gru_cell            = gru_cell : x hx w_ih w_hh b_ih|input_bias? b_hh|hidden_bias?
!rnn_tanh_cell       = rnn_tanh_cell : x hx w_ih w_hh b_ih|input_bias? b_hh|hidden_bias?
!rnn_relu_cell       = rnn_relu_cell : x hx w_ih w_hh b_ih|input_bias? b_hh|hidden_bias?
lstm_gates           = _thnn_fused_lstm_cell : input_gates hidden_gates cx b_ih|input_bias? b_hh|hidden_bias?
gru_gates            = _thnn_fused_gru_cell : input_gates hidden_gates hx b_ih|input_bias? b_hh|hidden_bias?

scaled_dot_product_attention = scaled_dot_product_attention :
                       query key value attn_mask? dropout_p> is_causal> scale> enable_gqa>
scaled_dot_product_attention = _scaled_dot_product_attention_math _scaled_dot_product_attention_math_for_mps
                     : query key value attn_mask? dropout_p> is_causal> -dropout_mask scale> enable_gqa>
scaled_dot_product_attention = _scaled_dot_product_flash_attention
                     : query key value dropout_p> is_causal> -return_debug_mask scale>
scaled_dot_product_attention = _scaled_dot_product_flash_attention_for_cpu
                     : query key value dropout_p> is_causal> attn_mask?@3 scale>
scaled_dot_product_attention = _scaled_dot_product_efficient_attention
                     : query key value attn_bias? -compute_log_sumexp dropout_p> is_causal> scale>
scaled_dot_product_attention = _scaled_dot_product_cudnn_attention
                     : query key value attn_bias? -compute_log_sumexp dropout_p> is_causal> -return_debug_mask scale>
scaled_dot_product_attention = _scaled_dot_product_fused_attention_overrideable :
                       query key value attn_bias? dropout_p> is_causal> -return_debug_mask scale>
scaled_dot_product_attention = _scaled_dot_product_flash_attention :
                       query key value -q_descale -k_descale -v_descale dropout_p> is_causal> -return_debug_mask
                       scale>
scaled_dot_product_attention = flex_attention flex_attention_hop
                     : query key value -score_mod -block_mask scale> enable_gqa> -return_lse -kernel_options
                     -return_aux
scaled_dot_product_attention = flash_attn_func : query key value dropout_p> softmax_scale>scale causal>is_causal
!multi_head          = multi_head_attention_forward :
                       query key value embed_dim|embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k
                       bias_v add_zero_attn dropout_p
                       out_proj_weight out_proj_bias training key_padding_mask need_weights attn_mask
                       use_separate_proj_weight q_proj_weight k_proj_weight v_proj_weight static_k static_v
                       average_attn_weights is_causal
!multi_head          = _native_multi_head_attention :
                       query key value embed_dim num_heads|num_head in_proj_weight|qkv_weight in_proj_bias|qkv_bias
                       out_proj_weight|proj_weight out_proj_bias|proj_bias attn_mask|mask need_weights
                       average_attn_weights mask_type
!encoder_layer       = _transformer_encoder_layer_fwd :
                       x|src embed_dim num_heads in_proj_weight|qkv_weight in_proj_bias|qkv_bias
                       out_proj_weight|proj_weight out_proj_bias|proj_bias use_gelu norm_first eps
                       norm1_weight|norm_weight_1 norm1_bias|norm_bias_1 norm2_weight|norm_weight_2
                       norm2_bias|norm_bias_2
                       linear1_weight|ffn_weight_1 linear1_bias|ffn_bias_1 linear2_weight|ffn_weight_2
                       linear2_bias|ffn_bias_2 attn_mask|mask mask_type

layer_norm           = layer_norm : x normalized_shape> weight? bias? eps>epsilon=1e-5 -cudnn_enable
layer_norm           = native_layer_norm : x normalized_shape> weight? bias? eps>epsilon=1e-5
rms_norm             = rms_norm _fused_rms_norm : x normalized_shape> weight? eps>epsilon
group_norm           = group_norm : x num_groups> weight? bias? eps>epsilon=1e-5 -cudnn_enabled
group_norm           = native_group_norm : x weight? bias? -N -C -HxW num_groups|group> eps>epsilon=1e-5
l2_norm              = normalize : x p>p=2.0 dim>axis=1 eps>epsilon=1e-12
local_response_norm  = local_response_norm : x size> alpha>alpha=1e-4 beta>beta=0.75 k>bias=1.0
weight_norm          = _weight_norm _weight_norm_interface : v g dim>axis=0
weight_norm          = norm_except_dim : v pow>p=2 dim>axis=0
softmax              = softmax softmin _softmax special_softmax : x dim>axis=-1 -_stacklevel|half_to_float|dtype
                       -dtype
log_softmax          = log_softmax _log_softmax special_log_softmax :
                       x dim>axis=-1 -_stacklevel|half_to_float|dtype -dtype
softmax              = gumbel_softmax : x|logits -tau -hard -eps dim>axis=-1
softmax              = _safe_softmax : x dim>axis=-1 -dtype
softmax              = softmax2d : x +axis=-3
"""

FUNCTION = """
embedding            = embedding : ids@1 weight@0 padding_idx> max_norm> norm_type> scale_grad_by_freq> sparse>
embedding_bag        = embedding_bag :
                       ids@1 weight@0 offsets?@2 max_norm> norm_type> scale_grad_by_freq> mode>mode=mean sparse>
                       per_sample_weights?@3 include_last_offset> padding_idx>
deform_conv          = deform_conv2d :
                       x offset@2 weight@1 bias?@3 stride>strides=1 padding>pads=0 dilation>dilations=1 mask?@4
batch_norm           = batch_norm : x running_mean?@3 running_var?@4 weight?@1 bias?@2 training> momentum>
                       eps>epsilon=1e-5
instance_norm        = instance_norm :
                       x running_mean?@3 running_var?@4 weight?@1 bias?@2 use_input_stats> momentum> eps>epsilon=1e-5
"""

ATEN = """
embedding            = embedding : weight ids|indices padding_idx> scale_grad_by_freq> sparse>
embedding            = _embedding_renorm : weight ids
embedding_bag        = embedding_bag _embedding_bag _embedding_bag_forward_only :
                       weight ids|indices offsets? -scale_grad_by_freq mode>mode=0 -sparse per_sample_weights?
                       -include_last_offset
                       padding_idx>
batch_norm           = batch_norm : x weight? bias? running_mean? running_var? training> momentum> eps>epsilon=1e-5
                       -cudnn_enabled
batch_norm           = native_batch_norm cudnn_batch_norm miopen_batch_norm :
                       x weight? bias? running_mean? running_var? training> momentum|exponential_average_factor>
                       eps|epsilon>epsilon=1e-5
batch_norm           = _native_batch_norm_legit _native_batch_norm_legit_functional
                     : x weight? bias? running_mean? running_var? training> momentum> eps>epsilon=1e-5
batch_norm           = _native_batch_norm_legit : x weight? bias? training> momentum> eps>epsilon=1e-5
batch_norm           = _native_batch_norm_legit_no_training _batch_norm_no_update _batch_norm_with_update
                       _batch_norm_with_update_functional
                     : x weight? bias? running_mean? running_var? momentum> eps>epsilon=1e-5
batch_norm           = _batch_norm_impl_index : x weight? bias? running_mean? running_var? training> momentum>
                       eps>epsilon=1e-5 -cudnn_enabled
instance_norm        = instance_norm :
                       x weight? bias? running_mean? running_var? use_input_stats> momentum> eps>epsilon=1e-5
                       -cudnn_enabled
"""
