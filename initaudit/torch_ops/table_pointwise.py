"""Rows of the functions that work on each element alone, and of those that reduce axes."""

SHARED = """
relu        = relu : x -inplace
relu6       = relu6 : x -inplace
leaky_relu  = leaky_relu : x negative_slope>negative_slope=0.01 -inplace
elu         = elu : x alpha>alpha=1.0 -inplace|scale -input_scale
selu        = selu : x -inplace
celu        = celu : x alpha>alpha=1.0 -inplace
gelu        = gelu : x approximate>approximate=none
silu        = silu : x -inplace
mish        = mish : x -inplace
sigmoid     = sigmoid special_expit expit : x
tanh        = tanh : x
hardsigmoid = hardsigmoid : x -inplace +alpha=0.16666666666666666 +beta=0.5
hardswish   = hardswish : x -inplace
hardtanh    = hardtanh : x min_val>min_val=-1.0 max_val>max_val=1.0 -inplace
softplus    = softplus : x beta>beta=1.0 threshold>threshold=20.0
softsign    = softsign : x
logsigmoid  = logsigmoid log_sigmoid log_sigmoid_forward : x
softshrink  = softshrink : x lambd>lambd=0.5
hardshrink  = hardshrink : x lambd>lambd=0.5
tanhshrink  = tanhshrink : x
threshold   = threshold : x threshold> value> -inplace
prelu       = prelu _prelu_kernel : x weight
rrelu       = rrelu : x lower>lower=0.125 upper>upper=0.3333333333333333 -training -inplace|generator
rrelu       = rrelu_with_noise : x -noise lower>lower=0.125 upper>upper=0.3333333333333333 -training -generator
glu         = glu : x dim>axis=-1

!add        = add : x other alpha
!sub        = sub subtract : x other alpha
!rsub       = rsub : x other alpha
add         = radd : other@1 x@0
mul         = mul multiply : x other
mul         = rmul : other@1 x@0
div         = div divide true_divide truediv : x other rounding_mode>
div         = floor_divide floordiv : x other +rounding_mode=floor
div         = rdiv rtruediv : other@1 x@0
div         = rfloordiv : other@1 x@0 +rounding_mode=floor
mod         = remainder fmod mod : x other
mod         = rmod : other@1 x@0
pow         = pow float_power : x exponent -modulo
pow         = rpow : exponent@1 x@0
!addcmul    = addcmul : x tensor1 tensor2 value
!addcdiv    = addcdiv : x tensor1 tensor2 value
!lerp       = lerp : x end weight
neg         = neg negative : x
identity    = positive pos : x
abs         = abs absolute fabs : x
exp         = exp : x
expm1       = expm1 special_expm1 : x
pow         = exp2 special_exp2 : x@1 %2.0@0
log         = log : x
log1p       = log1p special_log1p : x
log2        = log2 : x
log10       = log10 : x
sqrt        = sqrt : x
rsqrt       = rsqrt : x
square      = square : x
reciprocal  = reciprocal : x
erf         = erf special_erf : x
erfc        = erfc special_erfc : x
erfinv      = erfinv special_erfinv : x
sign        = sign sgn : x
floor       = floor : x
ceil        = ceil : x
round       = round : x decimals>
trunc       = trunc fix : x
frac        = frac : x
sin         = sin : x
cos         = cos : x
tan         = tan : x
asin        = asin arcsin : x
acos        = acos arccos : x
atan        = atan arctan : x
atan2       = atan2 arctan2 : x other
sinh        = sinh : x
cosh        = cosh : x
asinh       = asinh arcsinh : x
acosh       = acosh arccosh : x
atanh       = atanh arctanh : x
sinc        = sinc special_sinc : x
logit       = logit special_logit : x eps>
lgamma      = lgamma gammaln special_gammaln : x
digamma     = digamma special_digamma special_psi : x
bessel      = i0 special_i0 special_i0e special_i1 special_i1e special_bessel_j0 special_bessel_j1 : x
xlogy       = xlogy special_xlogy special_xlog1py : x other
logaddexp   = logaddexp logaddexp2 : x other
hypot       = hypot : x other
copysign    = copysign : x other
ldexp       = ldexp : x other
heaviside   = heaviside : x values
identity    = nan_to_num : x -nan -posinf -neginf
deg2rad     = deg2rad rad2deg : x
clip        = clamp clip : x min? max?
clip        = clamp_min : x min
clip        = clamp_max : x max@2
max         = maximum fmax : x other
min         = minimum fmin : x other
max         = max : x other!
min         = min : x other!
where       = where : condition x|input|self other
!where_nonzero = where : condition
where       = masked_fill : x@2 mask@0 value@1
where       = masked_scatter : x@2 mask@0 source@1
greater     = gt greater : x other
less        = lt less : x other
greater_or_equal = ge greater_equal : x other
less_or_equal = le less_equal : x other
equal       = eq equal : x other
!not_equal  = ne not_equal : x other
equal       = isclose allclose : x other -rtol -atol -equal_nan
and         = logical_and bitwise_and and : x other
and         = rand : other@1 x@0
or          = logical_or bitwise_or or : x other
or          = ror : other@1 x@0
xor         = logical_xor bitwise_xor xor : x other
xor         = rxor : other@1 x@0
not         = logical_not bitwise_not __invert__ invert : x
bit_shift   = bitwise_left_shift bitwise_right_shift lshift rshift : x other
isnan       = isnan : x
isinf       = isinf isfinite isposinf isneginf : x
equal       = isin : elements|element test_elements|test_element -assume_unique -invert

reduce_mean = mean nanmean : x dim>axes keepdim>keepdims=False -dtype
reduce_sum  = sum nansum : x dim>axes keepdim>keepdims=False -dtype
reduce_sum  = sum_to_size : x *size>
reduce_prod = prod : x dim>axes keepdim>keepdims=False -dtype
reduce_max  = amax max : x dim>axes keepdim>keepdims=False
reduce_min  = amin min : x dim>axes keepdim>keepdims=False
max         = max : x other
min         = min : x other
reduce_max  = aminmax : x dim>axes keepdim>keepdims=False
reduce_median = median nanmedian mode : x dim>axes keepdim>keepdims=False
reduce_median = quantile nanquantile : x q> dim>axes keepdim>keepdims=False -interpolation
reduce_median = kthvalue : x k> dim>axes keepdim>keepdims=False
!var        = var std var_mean std_mean : x dim unbiased keepdim correction
!norm       = norm : x p dim keepdim -dtype
!norm       = linalg_norm linalg_vector_norm linalg_matrix_norm : x p|ord dim keepdim -dtype
reduce_log_sum_exp = logsumexp special_logsumexp : x dim>axes keepdim>keepdims=False
reduce_all  = all any : x dim>axes keepdim>keepdims=False
count_nonzero = count_nonzero : x dim>axes
cumsum      = cumsum logcumsumexp : x dim>axis -dtype
cumprod     = cumprod : x dim>axis -dtype
cummax      = cummax cummin : x dim>axis
cumsum      = diff : x n>n=1 dim>axis=-1 -prepend -append
cumsum      = trapezoid trapz cumulative_trapezoid : y -x|dx dim>axis=-1
reduce_sum  = trace : x +keepdims=False
arg_max     = argmax : x dim>axis keepdim>keepdims=False
arg_min     = argmin : x dim>axis keepdim>keepdims=False
top_k       = topk : x k> dim>axis=-1 largest>largest=True sorted>sorted=True
sort        = sort msort : x -stable dim>axis=-1 descending>
sort        = sort : x dim>axis=-1 descending> -stable
argsort     = argsort : x dim>axis=-1 descending> -stable
argsort     = argsort : x -stable dim>axis=-1 descending>
unique      = unique unique_consecutive _unique2 unique_dim : x *-rest
non_zero    = nonzero argwhere nonzero_static : x -as_tuple -size -fill_value
bincount    = bincount histc histogram : x *-rest
search_sorted = searchsorted : sorted_sequence x|input|self *-rest
search_sorted = bucketize : x@1 boundaries@0 *-rest
one_hot     = one_hot : x num_classes>
multinomial = multinomial : x num_samples> -replacement -generator
bernoulli   = bernoulli : x -p -generator
cdist       = cdist : x1 x2 p> -compute_mode
cdist       = pairwise_distance : x1 x2 p> eps> keepdim>
cdist       = pdist : x p>
!cosine_similarity = cosine_similarity : x1 x2 dim eps
cross       = cross linalg_cross : x other dim>axis=-1
loss        = mse_loss l1_loss smooth_l1_loss huber_loss cross_entropy nll_loss nll_loss_nd nll_loss2d kl_div
              binary_cross_entropy binary_cross_entropy_with_logits poisson_nll_loss hinge_embedding_loss
              soft_margin_loss multi_margin_loss multilabel_margin_loss multilabel_soft_margin_loss ctc_loss
              cross_entropy_loss nll_loss_forward nll_loss2d_forward
            : x|log_probs target|targets *-rest
loss        = gaussian_nll_loss cosine_embedding_loss margin_ranking_loss triplet_margin_loss
              triplet_margin_with_distance_loss :
              x|input1|anchor target|input2|positive third|target|negative|var *-rest
"""

FUNCTION = ""

ATEN = ""
