"""Rows of the functions that move, copy and choose values, and of those that make values out of nothing."""

SHARED = """
reshape     = reshape view _unsafe_view _reshape_alias view_symint : x *shape>shape
reshape     = view_as reshape_as : x -other
reshape     = flatten : x start_dim> end_dim>
reshape     = unflatten : x dim>axis sizes>
reshape     = ravel : x
squeeze     = squeeze : x dim>axes
unsqueeze   = unsqueeze : x dim>axes
!transpose  = transpose swapaxes swapdims : x dim0|axis0 dim1|axis1
!turn       = t T.__get__ mT.__get__ H.__get__ mH.__get__ adjoint numpy_T matrix_H mT mH : x
!permute    = permute : x *dims
!movedim    = movedim moveaxis : x source destination
concat      = cat concat concatenate : tensors* dim>axis=0 axis>axis
concat      = stack : tensors* dim>axis=0 +new_axis=1
concat      = hstack column_stack : tensors* +axis=-1
concat      = vstack row_stack : tensors* +axis=0
concat      = dstack : tensors* +axis=2
concat      = block_diag cartesian_prod combinations : *tensors* +axis=0
split       = chunk unsafe_chunk : x chunks> dim>axis=0
split       = split unsafe_split split_with_sizes unsafe_split_with_sizes :
              x split_size_or_sections|split_size|split_sizes>split dim>axis=0
split       = tensor_split : x indices_or_sections|indices|sections|tensor_indices_or_sections>sections dim>axis=0
split       = hsplit : x indices|sections>sections +axis=1
split       = vsplit : x indices|sections>sections +axis=0
split       = dsplit : x indices|sections>sections +axis=2
split       = unbind : x dim>axis=0 +keepdims=0
split       = iter : x +axis=0 +keepdims=0
!select     = select : x dim index
!slice      = slice : x dim start end step
!slice      = narrow narrow_symint : x dim start length
slice       = as_strided : x size> stride> storage_offset>
slice       = diagonal diag linalg_diagonal : x offset> dim1> dim2>
slice       = diag : x diagonal>offset
pad         = diag_embed diagflat : x offset> dim1> dim2>
!getitem    = __getitem__ getitem : x index
!index      = index _unsafe_index : x indices
!setitem    = __setitem__ setitem : x index value
!index_put  = index_put _unsafe_index_put _index_put_impl : x indices values accumulate unsafe
!copy       = copy : x src non_blocking
gather      = index_select : x dim>axis index
gather      = take : x index +axis=0
gather_elements = gather : x dim>axis index sparse_grad>
gather_elements = take_along_dim : x indices dim>axis
scatter_elements = scatter scatter_add scatter_reduce : x dim>axis index src -reduce -include_self
scatter_elements = scatter : x dim>axis index value -reduce
scatter_elements = index_add index_copy index_reduce : x dim>axis index source alpha|reduce> -include_self
scatter_elements = index_fill : x dim>axis index value
scatter_elements = put : x index source accumulate>
scatter_nd  = slice_scatter : x src@2 dim>axis start> end> step>
scatter_nd  = select_scatter : x src@2 dim>axis index>
scatter_nd  = diagonal_scatter as_strided_scatter : x src@2 *rest>
scatter_nd  = segment_reduce : x reduce> *-rest
compress    = masked_select : x mask
expand      = expand : x *sizes|size>shape implicit>
expand      = broadcast_to : x shape|size>shape
expand      = expand_as : x -other
expand      = broadcast_tensors meshgrid : *tensors* indexing>
expand      = atleast_1d atleast_2d atleast_3d : *tensors*
tile        = repeat : x *repeats>
tile        = tile : x *dims>repeats
tile        = repeat_interleave : x repeats> dim>axis output_size>
roll        = roll : x shifts> dims>axes
roll        = flip : x *dims>axes +reverse=True
roll        = fliplr flipud rot90 : x k> dims>axes +reverse=True
trilu       = tril : x diagonal>k=0 +upper=0
trilu       = triu : x diagonal>k=0 +upper=1
pad         = pad : x pad>pads mode>mode=constant value>value
pad         = constant_pad_nd : x pad>pads value>value +mode=constant
pad         = reflection_pad1d reflection_pad2d reflection_pad3d : x padding>pads +mode=reflect
pad         = replication_pad1d replication_pad2d replication_pad3d : x padding>pads +mode=edge
pad         = pad_sequence : sequences* batch_first> padding_value> padding_side>
identity    = contiguous clone detach alias lift lift_fresh lift_fresh_copy requires_grad cpu cuda xpu pin_memory
              data.__get__ share_memory resolve_conj resolve_neg conj conj_physical refine_names rename align_to real
              real.__get__ _conj _neg_view view_as_real view_as_complex imag imag.__get__ is_pinned retain_grad
              _fw_primal _make_dual sparse_mask to_dense coalesce values : x *-rest
identity    = pack_padded_sequence _pack_padded_sequence : x -lengths -batch_first -enforce_sorted
identity    = _pad_packed_sequence : x *-rest
quantize_linear   = quantize_per_tensor quantize_per_token : x|tensors scale|scales? zero_point|zero_points? *-rest
quantize_linear   = quantize_per_channel : x scale|scales? zero_point|zero_points? axis>axis *-rest
dequantize_linear = dequantize_per_tensor dequantize_per_token dequantize_per_channel_group :
                    x scale? zero_point? *-rest
dequantize_linear = dequantize_per_channel : x scale? zero_point? axis>axis *-rest
identity    = checkpoint fake_quantize_per_tensor_affine fake_quantize_per_channel_affine : x *-rest
identity    = _nested_tensor_from_mask _nested_from_padded nested_to_padded_tensor to_padded_tensor : x *-rest
!view_dtype = view : x dtype
!cast       = to type type_as _to_copy _autocast_to_reduced_precision _autocast_to_full_precision : x *rest
cast        = float : x -memory_format +dtype=float32
cast        = double : x -memory_format +dtype=float64
cast        = half : x -memory_format +dtype=float16
cast        = bfloat16 : x -memory_format +dtype=bfloat16
cast        = long : x -memory_format +dtype=int64
cast        = int : x -memory_format +dtype=int32
cast        = short : x -memory_format +dtype=int16
cast        = char : x -memory_format +dtype=int8
cast        = byte : x -memory_format +dtype=uint8
cast        = bool : x -memory_format +dtype=bool
cast        = cfloat : x -memory_format +dtype=complex64
cast        = cdouble : x -memory_format +dtype=complex128
cast        = convert_element_type : x dtype>
shape       = size sym_size shape _shape_as_tensor shape.__get__ : x dim>
size        = numel sym_numel dim len ndimension stride storage_offset sym_stride sym_storage_offset : x *-rest
size        = item tolist _local_scalar_dense is_nonzero numpy : x
dropout     = dropout alpha_dropout native_dropout : x p>ratio=0.5 *-rest
dropout     = dropout1d dropout2d dropout3d feature_dropout feature_alpha_dropout : x p>ratio=0.5 *-rest +per=channel
dropout     = _fused_dropout : x *-rest
dropout     = drop_path stochastic_depth : x *-rest +per=sample

max_pool    = max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
              mkldnn_max_pool2d _max_pool1d _max_pool2d _max_pool3d :
              x kernel_size>kernel_shape stride>strides padding>pads=0 dilation>dilations=1 ceil_mode> return_indices>
average_pool = avg_pool1d avg_pool2d avg_pool3d :
              x kernel_size>kernel_shape stride>strides padding>pads=0 ceil_mode> count_include_pad> divisor_override>
!adaptive   = adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
              mkldnn_adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
              adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices :
              x output_size return_indices
max_pool    = fractional_max_pool2d fractional_max_pool3d fractional_max_pool2d_with_indices
              fractional_max_pool3d_with_indices : x *-rest
lp_pool     = lp_pool1d lp_pool2d lp_pool3d : x norm_type>p kernel_size>kernel_shape stride>strides ceil_mode>
max_unpool  = max_unpool1d max_unpool2d max_unpool3d : x indices *-rest
roi_align   = roi_align : x rois output_size> spatial_scale> *-rest
roi_align   = roi_align : x rois -spatial_scale -pooled_height -pooled_width -sampling_ratio -aligned
max_roi_pool = roi_pool ps_roi_pool ps_roi_align : x rois *-rest
resize      = interpolate upsample upsample_nearest upsample_bilinear : x size> scale_factor> mode>mode=nearest *-rest
resize      = upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
              _upsample_nearest_exact2d _upsample_nearest_exact3d : x output_size>size *-rest +mode=nearest
resize      = upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d
              _upsample_bilinear2d_aa _upsample_bicubic2d_aa : x output_size>size *-rest +mode=linear
grid_sample = grid_sample grid_sampler grid_sampler_2d grid_sampler_3d : x grid *-rest
affine_grid = affine_grid affine_grid_generator : theta size> align_corners>
depth_to_space = pixel_shuffle : x upscale_factor>blocksize +mode=CRD
space_to_depth = pixel_unshuffle : x downscale_factor>blocksize
transpose   = channel_shuffle native_channel_shuffle : x groups>
col2im      = fold col2im : x output_size> *-rest
unfold      = unfold im2col : x *-rest
non_max_suppression = nms batched_nms : boxes scores *-rest
stft        = stft : x -n_fft -hop_length -win_length -window *-rest
istft       = istft : x *-rest
dft         = fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn
              fft_ifftn fft_rfftn fft_irfftn fft_hfft2 fft_ihfft2 fft_hfftn fft_ihfftn
              _fft_r2c _fft_c2r _fft_c2c : x *-rest
roll        = fft_fftshift fft_ifftshift : x dim>axes
complex     = complex polar : real|abs imag|angle
det         = det logdet slogdet linalg_det linalg_slogdet : x
inverse     = inverse linalg_inv pinverse linalg_pinv cholesky linalg_cholesky cholesky_inverse matrix_exp
              linalg_matrix_exp linalg_matrix_power matrix_power linalg_inv_ex linalg_cholesky_ex : x *-rest
decomposition = svd linalg_svd linalg_svdvals qr linalg_qr linalg_eigh linalg_eig linalg_eigvals linalg_eigvalsh
              linalg_lu linalg_lu_factor lu geqrf linalg_householder_product householder_product orgqr _linalg_svd
              _linalg_eigh : x *-rest
solve       = linalg_solve linalg_solve_triangular triangular_solve cholesky_solve linalg_lstsq lu_solve
              linalg_solve_ex linalg_tensorsolve : a b|B|A|other|LU_data|input2 *-rest

source      = zeros zeros_like new_zeros zero : *-rest +value=0.0
source      = ones ones_like new_ones : *-rest +value=1.0
source      = full : -size fill_value>value *-rest
expand      = full : -size fill_value!@0 *-rest
source      = full_like : -x fill_value>value *-rest
expand      = full_like : -x fill_value!@0 *-rest
source      = new_full : -x -size fill_value>value *-rest
expand      = new_full : -x -size fill_value!@0 *-rest
source      = fill : -x value>value
expand      = fill : -x value!@0
source      = empty rand randn randint randperm arange range linspace logspace eye tril_indices triu_indices
              empty_strided empty_permuted normal_source complex_source blackman_window hamming_window hann_window
              bartlett_window kaiser_window sparse_coo_tensor from_numpy frombuffer fft_fftfreq fft_rfftfreq
              get_default_dtype manual_seed vander seed initial_seed : *-rest
!number     = tensor as_tensor scalar_tensor asarray : data *-rest
source      = empty_like rand_like randn_like randint_like new_empty new_tensor new new_empty_strided : *-rest
source      = normal normal_ uniform uniform_ exponential exponential_ geometric geometric_ log_normal
              log_normal_ cauchy cauchy_ random random_ bernoulli_ poisson binomial trunc_normal trunc_normal_
              kaiming_uniform_ xavier_uniform_ set_ resize_ resize_as_ : *-rest
"""

FUNCTION = ""

ATEN = """
unfold      = unfold : x dimension> size> step>
reshape     = unflatten : x dim>axis sizes> -names
"""
