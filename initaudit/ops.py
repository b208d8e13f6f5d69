"""Canonical operation names: one row per op, the family it belongs to, and what other languages call it.

Families say how a signal passes:

    weighted     mixes its input with a weight: a layer
    activation   a known elementwise nonlinearity
    elementwise  arithmetic on each element; several together may be an activation or a norm
    norm         normalises over some axes
    softmax      normalises to a distribution
    pool         averages or picks within a neighbourhood or an axis
    reduce       reduces whole axes
    move         rearranges, copies or drops elements; their values stay
    quant        to and from integers
    attention    whole attention in one op: query, key, value in, mixed values out
    index        positions or order, no longer the values (arg_max, top_k, shape)
    source       makes values out of nothing or out of shapes
    other        none of these
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Op:
    """One row: the canonical name, the family it belongs to, and its ONNX names."""

    name: str
    family: str
    onnx: tuple[str, ...] = ()


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


# Per family: the ONNX name where snake case gives the canonical name, "Onnx=canonical" where it does not, and
# "=canonical" for what ONNX has no op for.
_ROWS = {
    "weighted": """
        Gemm MatMul=matmul FusedMatMul=matmul TransposeMatMul=matmul FusedGemm=gemm GemmFastGelu
        MatMulInteger=matmul_integer MatMulIntegerToFloat=matmul_integer_to_float
        DynamicQuantizeMatMul=dynamic_quantize_matmul QLinearMatMul=qlinear_matmul QGemm=qgemm
        QLinearConv=qlinear_conv ConvInteger=conv_integer
        MatMulNBits=matmul_nbits MatMulBnb4=matmul_bnb4 Conv FusedConv=conv NhwcConv=conv_nhwc ConvTranspose DeformConv
        Einsum LSTM=lstm GRU=gru RNN=rnn DynamicQuantizeLSTM=dynamic_quantize_lstm =linear =embedding =bilinear
        =embedding_bag =grouped_mm MoE=moe QMoE=qmoe EmbedLayerNormalization=embed_layer_norm
        """,
    "activation": """
        Relu LeakyRelu PRelu=prelu Elu Selu Celu Gelu FastGelu=fast_gelu QuickGelu=quick_gelu BiasGelu=bias_gelu
        BiasSplitGelu=bias_split_gelu Sigmoid Tanh HardSigmoid=hardsigmoid HardSwish=hardswish Mish Softplus Softsign
        Swish=silu ThresholdedRelu=threshold Shrink ScaledTanh ParametricSoftplus =silu =relu6 =hardtanh
        =logsigmoid =relu2 =star_relu =softshrink =hardshrink =tanhshrink =rrelu =glu =composite
        """,
    "elementwise": """
        Add Sub Mul Div Pow Sqrt Exp Log Neg Abs Erf Reciprocal Clip Min Max Sum Where Sin Cos Tan Asin Acos Atan Sinh
        Cosh Asinh Acosh Atanh Floor Ceil Round Sign Greater Less Equal GreaterOrEqual LessOrEqual And Or Not Xor Mean
        Mod BitShift IsNaN=isnan IsInf=isinf =rsqrt =square =log1p =expm1 =log2 =log10 =erfc =erfinv =trunc =frac =atan2
        =hypot =copysign =ldexp =logaddexp =logit =xlogy =heaviside =sinc =lgamma =digamma =bessel =deg2rad
        """,
    "norm": """
        BatchNormalization=batch_norm LayerNormalization=layer_norm InstanceNormalization=instance_norm
        GroupNormalization=group_norm GroupNorm=group_norm SkipGroupNorm=skip_group_norm RMSNormalization=rms_norm
        SimplifiedLayerNormalization=rms_norm SkipLayerNormalization=skip_layer_norm
        SkipSimplifiedLayerNormalization=skip_rms_norm MeanVarianceNormalization=mean_variance_norm
        LpNormalization=l2_norm LRN=local_response_norm
        """,
    "softmax": "Softmax LogSoftmax Hardmax =sparsemax BiasSoftmax",
    "pool": """
        MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool GlobalLpPool MaxRoiPool RoiAlign MaxUnpool
        QLinearAveragePool=qlinear_average_pool QLinearGlobalAveragePool=qlinear_global_average_pool NhwcMaxPool
        """,
    "reduce": """
        ReduceMean ReduceSum ReduceMax ReduceMin ReduceL1=reduce_l1 ReduceL2=reduce_l2 ReduceLogSum ReduceLogSumExp
        ReduceProd ReduceSumSquare CumSum=cumsum CumProd=cumprod =reduce_var =reduce_std
        =reduce_median =cummax =loss
        """,
    "move": """
        Reshape Flatten Transpose Squeeze Unsqueeze Concat Split SplitToSequence SequenceAt ConcatFromSequence
        SequenceConstruct SequenceInsert Slice Pad Expand Tile Gather GatherElements GatherND=gather_nd Scatter
        ScatterElements ScatterND=scatter_nd Resize Upsample GridSample DepthToSpace SpaceToDepth Identity Dropout Cast
        CastLike Compress Trilu=trilu ReverseSequence CenterCropPad Col2Im=col2im RotaryEmbedding TensorScatter Optional
        OptionalGetElement =roll =view =contiguous =phi =scan_slice
        =scan_stack =subgraph_input AffineGrid =unfold =complex
        """,
    "quant": "QuantizeLinear DequantizeLinear DynamicQuantizeLinear",
    "attention": """
        Attention MultiHeadAttention GroupQueryAttention PackedMultiHeadAttention PackedAttention QAttention=qattention
        SparseAttention DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention LongformerAttention PagedAttention
        LinearAttention =scaled_dot_product_attention
        """,
    "index": """
        ArgMax ArgMin TopK=top_k =argsort =sort =search_sorted =bincount =count_nonzero =reduce_all
        Shape Size NonZero OneHot Unique NonMaxSuppression Multinomial Bernoulli SequenceLength
        """,
    "source": """
        Constant ConstantOfShape Range RandomNormal RandomNormalLike RandomUniform RandomUniformLike EyeLike
        SequenceEmpty =source =loop_index HannWindow HammingWindow BlackmanWindow MelWeightMatrix
        """,
    "other": """
        Det STFT=stft =istft DFT=dft If Loop Scan =cdist =cross =inverse =solve =decomposition =weight_norm =lstm_gates
        =gru_gates
        """,
}


def _rows() -> dict[str, Op]:
    table: dict[str, Op] = {}
    for family, words in _ROWS.items():
        for word in words.split():
            onnx, _, name = word.partition("=")
            name = name or _snake(onnx)
            known = table.get(name)
            names = (*known.onnx, onnx) if known and onnx else (onnx,) if onnx else known.onnx if known else ()
            table[name] = Op(name, family, names)
    return table


OPS: dict[str, Op] = _rows()
_FROM_ONNX = {name: op.name for op in OPS.values() for name in op.onnx}


def from_onnx(op_type: str) -> str:
    """Return the canonical name of an ONNX op type; unknown ones keep their own, in snake case."""
    return _FROM_ONNX.get(op_type, _snake(op_type))


def family(op: str) -> str:
    """Return the family of a canonical op; "other" for one that is not in the table."""
    row = OPS.get(op)
    return row.family if row else "other"
