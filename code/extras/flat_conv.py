"""Convolution without a convolution operation, faster than the assignment's `CustomConv2d`.

Also made of matrix products (im2col), and faster for three reasons:

- **Channels last.** A pixel is a contiguous row of C numbers, so a patch is K contiguous runs of K * C numbers, and a
  1x1 convolution needs no im2col: its columns are the image itself.
- **A few images at a time.** The columns of a whole batch are K * K times its size; those of a few images fit into the
  CPU's cache, in a buffer that is reused.
- **Winograd's algorithm** for 3x3 in fp32: 36 instead of 144 multiplications for each 4x4 output pixels.

`main.py --use-custom-conv flat` trains with it; `benchmarks/bench_conv.py` compares it with nn.Conv2d.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Size of the column buffer, in bytes. On a CPU: about the caches of two cores. On a GPU: enough to fill it.
BUFFER_BYTES = {"cpu": 2**21, "cuda": 2**28}


class FlatConv2dFunction(torch.autograd.Function):
    """2D convolution with the signature and result of the assignment's `CustomConv2DFunction`.

    Computes in the autocast type inside autocast. Not twice differentiable: raises RuntimeError.
    """

    @staticmethod
    def forward(ctx, input_feats, weight, bias, stride=1, padding=0):
        """N,Ci,H,W, Co,Ci,K,K and Co (or None) -> N,Co,Ho,Wo in the channels-last layout.

        Raises ValueError if the shapes do not match.
        """
        device, dtype = input_feats.device.type, input_feats.dtype
        if torch.is_autocast_enabled(device) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device)
        images = input_feats.to(dtype)
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return convolve(images, weight.to(dtype), None if bias is None else bias.to(dtype), stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        images, weight = ctx.saved_tensors
        grad_output, geometry = grad_output.to(images.dtype), (ctx.stride, ctx.padding)
        grad_input = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_input = input_gradient(grad_output, weight.to(images.dtype), images.shape, *geometry)
        if ctx.needs_input_grad[1]:
            grad_weight = weight_gradient(grad_output, images, weight.shape[-1], *geometry).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_output.sum((0, 2, 3)).to(weight.dtype)
        return grad_input, grad_weight, grad_bias, None, None


flat_conv2d = FlatConv2dFunction.apply


class FlatConv2d(nn.Conv2d):
    """nn.Conv2d computed by `flat_conv2d`; the same parameters and initial weights."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True):
        for name, size in {"kernel_size": kernel_size, "stride": stride, "padding": padding}.items():
            if not isinstance(size, int):
                raise ValueError(f"FlatConv2d: {name} has to be one int for both directions, not {size!r}")
        if (dilation, groups) != (1, 1):
            raise ValueError(f"FlatConv2d: dilation {dilation} and groups {groups} have to be 1")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return flat_conv2d(x, self.weight, self.bias, self.stride[0], self.padding[0])


# ------------------------------------------------------------------------- output, input and weight gradient


def convolve(images: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Y = columns @ W + b, N,Co,Ho,Wo."""
    Co, Ci, K, _ = weight.shape
    if images.dim() != 4 or images.shape[1] != Ci:
        raise ValueError(f"convolution: input {tuple(images.shape)} does not have the {Ci} channels of the weight "
                         f"{tuple(weight.shape)}")
    H, W = images.shape[2:]
    Ho, Wo = ((side + 2 * padding - K) // stride + 1 for side in (H, W))
    if min(Ho, Wo) < 1:
        raise ValueError(f"convolution: a kernel of {K} is larger than the input {tuple(images.shape)} with "
                         f"padding {padding}")
    if (K, stride, padding) == (1, 1, 0) and len(images):
        return to_images(matmul(to_rows(images).view(-1, Ci), weight.view(Co, Ci).t(), bias), (H, W))
    output = torch.empty(len(images), Co, Ho, Wo, dtype=images.dtype, device=images.device,
                         memory_format=torch.channels_last)
    if len(images) == 0:
        return output
    if use_winograd(images, K, stride, output):
        _convolve_winograd(images, weight, bias, padding, output)
    else:
        _convolve_im2col(images, weight, bias, stride, padding, output)
    return output


def input_gradient(grad_output: Tensor, weight: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
    """dX, N,Ci,H,W. With stride 1 it is the convolution of dY with the kernel rotated by 180 degrees."""
    K = weight.shape[-1]
    if stride == 1 and padding < K:
        return convolve(grad_output, weight.flip(2, 3).transpose(0, 1), None, 1, K - 1 - padding)
    return _input_gradient_col2im(grad_output, weight, shape, stride, padding)


def weight_gradient(grad_output: Tensor, images: Tensor, K: int, stride: int, padding: int) -> Tensor:
    """dW = dY^T @ columns, Co,Ci,K,K, accumulated in at least fp32."""
    if len(images) == 0:
        return images.new_zeros(grad_output.shape[1], images.shape[1], K, K)
    if use_winograd(images, K, stride, grad_output):
        return _weight_gradient_winograd(grad_output, images, padding)
    grad_rows, total = to_rows(grad_output), 0.0
    for part, columns in im2col(images, K, stride, padding):
        rows = grad_rows[part].flatten(0, 2)
        narrow = rows.shape[1] <= columns.shape[1]  # a product with fewer rows than columns is faster
        total = total + at_least_fp32(matmul(rows.t(), columns) if narrow else matmul(columns.t(), rows).t())
    return total.view(-1, K, K, images.shape[1]).permute(0, 3, 1, 2)


# --------------------------------------------------------------------------------------------------- im2col


def to_rows(images: Tensor) -> Tensor:
    """N,C,H,W -> N,H,W,C, contiguous; a view if the images have the channels-last layout."""
    return images.permute(0, 2, 3, 1).contiguous()


def to_images(rows: Tensor, size: tuple[int, int]) -> Tensor:
    """N*H*W,C -> N,C,H,W in the channels-last layout. Detached: an in-place ReLU may change it."""
    return rows.view(-1, *size, rows.shape[1]).permute(0, 3, 1, 2).detach()


def at_least_fp32(tensor: Tensor) -> Tensor:
    """16 bit -> fp32, for accumulation."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def matmul(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left @ right + bias.

    In fp32 on a CPU by oneDNN's linear layer, where this torch has it: torch.mm calls MKL, which is slower on AMD
    processors (benchmarks/probes.py). In 16 bit torch uses oneDNN itself.
    """
    if ONEDNN_LINEAR and left.dtype == torch.float32 and left.device.type == "cpu":
        return ONEDNN_LINEAR(left, right.t(), bias, "none", [], "")
    return left @ right if bias is None else torch.addmm(bias, left, right)


ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def chunks(images: Tensor, elements_per_image: int) -> list[slice]:
    """Slices of the batch for which a buffer of `elements_per_image` has about BUFFER_BYTES bytes."""
    limit = BUFFER_BYTES.get(images.device.type, 2**28)
    step = max(1, limit // (elements_per_image * images.element_size()))
    return [slice(start, min(start + step, len(images))) for start in range(0, len(images), step)]


def im2col(images: Tensor, K: int, stride: int, padding: int) -> Iterator[tuple[slice, Tensor]]:
    """For each chunk of n images its columns n*Ho*Wo,K*K*Ci, valid until the next chunk."""
    rows = to_rows(images)
    _, H, W, C = rows.shape
    if (K, stride, padding) == (1, 1, 0):
        for part in chunks(images, H * W * C):
            yield part, rows[part].view(-1, C)
        return
    Ho, Wo = ((side + 2 * padding - K) // stride + 1 for side in (H, W))
    slices = chunks(images, Ho * Wo * K * K * C)
    n = slices[0].stop
    padded = rows.new_zeros(n, H + 2 * padding, W + 2 * padding, C)  # only the interior is overwritten
    columns = rows.new_empty(n * Ho * Wo, K * K * C)
    image, row, pixel, _ = padded.stride()
    for part in slices:
        n = part.stop - part.start
        padded[:n, padding : padding + H, padding : padding + W] = rows[part]
        windows = padded.as_strided((n, Ho, Wo, K, K * C), (image, stride * row, stride * pixel, row, 1))
        columns[: n * Ho * Wo].view(windows.shape).copy_(windows)
        yield part, columns[: n * Ho * Wo]


def _convolve_im2col(images: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int,
                      output: Tensor) -> None:
    matrix, size = weight.permute(2, 3, 1, 0).flatten(0, 2), output.shape[2:]  # (K*K*Ci, Co)
    for part, columns in im2col(images, weight.shape[-1], stride, padding):
        output[part] = to_images(matmul(columns, matrix, bias), size)


def _input_gradient_col2im(grad_output: Tensor, weight: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
    """dX = fold(dY @ W^T). Each of the K*K taps is a plane added to one of the stride * stride phases of dX."""
    (_, Ci, H, W), K, (Ho, Wo) = shape, weight.shape[-1], grad_output.shape[2:]
    rows, matrix = to_rows(grad_output), weight.flatten(1).t()  # (Ci*K*K, Co)
    grad_input = torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=torch.channels_last)
    height, width = (max((K - 1) // stride + out, -(-(side + 2 * padding) // stride))
                     for out, side in ((Ho, H), (Wo, W)))
    for part in chunks(grad_output, len(matrix) * Ho * Wo):
        columns = (matrix @ rows[part].flatten(0, 2).t()).view(Ci, K, K, -1, Ho, Wo)
        phases = at_least_fp32(columns.new_zeros(stride, stride, Ci, columns.shape[3], height, width))
        for i, j in product(range(K), range(K)):
            y, x = i // stride, j // stride
            phases[i % stride, j % stride, :, :, y : y + Ho, x : x + Wo] += columns[:, i, j]
        padded = phases.permute(3, 2, 4, 0, 5, 1).reshape(-1, Ci, height * stride, width * stride)
        grad_input[part] = padded[:, :, padding : padding + H, padding : padding + W]
    return grad_input


# --------------------------------------------------------------------------------- Winograd's F(4x4, 3x3)

# Lavin and Gray 2016, section 4.2: Y = A^T [(G w G^T) * (B^T x B)] A for a tile x of 6x6 pixels, 4x4 of output.
BT = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
      [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
G = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
     [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
AT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


@lru_cache
def winograd_matrices(dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Kronecker products for flattened tiles, kernels and outputs: B^T x B^T 36,36; G x G 36,9; A^T x A^T 16,36."""
    matrices = (torch.tensor(rows, dtype=torch.float64) for rows in (BT, G, AT))
    return [torch.kron(matrix, matrix).to(device, dtype) for matrix in matrices]


def use_winograd(images: Tensor, K: int, stride: int, output: Tensor) -> bool:
    """Whether Winograd is faster: 3x3, enough channels, and an output, N,Co,Ho,Wo, that fills most of its tiles.

    Not in 16 bit, where the transforms lose too much precision.
    """
    _, Co, Ho, Wo = output.shape
    tiled_area = 16 * -(-Ho // 4) * -(-Wo // 4)
    return ((K, stride) == (3, 1) and images.element_size() >= 4 and min(images.shape[1], Co) >= 16
            and tiled_area <= 1.5 * Ho * Wo)


def winograd_tiles(images: Tensor, padding: int) -> Iterator[tuple[slice, Tensor]]:
    """For each chunk of n images its transformed tiles, 36,n*tiles,C."""
    rows = to_rows(images)
    _, H, W, C = rows.shape
    th, tw = -(-(H + 2 * padding - 2) // 4), -(-(W + 2 * padding - 2) // 4)
    slices = chunks(images, 36 * th * tw * C)
    padded = rows.new_zeros(slices[0].stop, 4 * th + 2, 4 * tw + 2, C)
    image, row, pixel, _ = padded.stride()
    for part in slices:
        n = part.stop - part.start
        padded[:n, padding : padding + H, padding : padding + W] = rows[part]
        tiles = padded.as_strided((6, 6, n, th, tw, C), (row, pixel, image, 4 * row, 4 * pixel, 1))
        transform = winograd_matrices(rows.dtype, rows.device)[0]
        yield part, matmul(transform, tiles.reshape(36, -1)).view(36, -1, C)


def _convolve_winograd(images: Tensor, weight: Tensor, bias: Tensor | None, padding: int, output: Tensor) -> None:
    _, kernels, outputs = winograd_matrices(images.dtype, images.device)
    (Co, Ci), (Ho, Wo) = weight.shape[:2], output.shape[2:]
    matrices = (kernels @ weight.reshape(Co * Ci, 9).t()).view(36, Co, Ci).transpose(1, 2)
    th, tw = -(-Ho // 4), -(-Wo // 4)
    for part, tiles in winograd_tiles(images, padding):
        products = torch.bmm(tiles, matrices)  # (36, n*tiles, Co)
        pixels = matmul(outputs, products.view(36, -1)).view(4, 4, -1, th, tw, Co)
        if bias is not None:
            pixels += bias
        whole = pixels.permute(2, 5, 3, 0, 4, 1)  # (n, Co, th, 4, tw, 4)
        if (4 * th, 4 * tw) == (Ho, Wo):
            output[part].unflatten(2, (th, 4)).unflatten(4, (tw, 4)).copy_(whole)
        else:
            output[part] = whole.reshape(-1, Co, 4 * th, 4 * tw)[:, :, :Ho, :Wo]


def _weight_gradient_winograd(grad_output: Tensor, images: Tensor, padding: int) -> Tensor:
    """dW, Co,Ci,3,3: the transposes of the forward steps, in reverse order."""
    _, kernels, outputs = winograd_matrices(images.dtype, images.device)
    grad_rows, matrices = to_rows(grad_output), 0.0
    _, Ho, Wo, Co = grad_rows.shape
    th, tw = -(-Ho // 4), -(-Wo // 4)
    for part, tiles in winograd_tiles(images, padding):
        pixels = F.pad(grad_rows[part], (0, 0, 0, 4 * tw - Wo, 0, 4 * th - Ho)).view(-1, th, 4, tw, 4, Co)
        products = matmul(outputs.t(), pixels.permute(2, 4, 0, 1, 3, 5).reshape(16, -1)).view(36, -1, Co)
        matrices = matrices + torch.bmm(products.transpose(1, 2), tiles)  # (36, Co, Ci)
    return (kernels.t() @ matrices.view(36, -1)).t().view(Co, -1, 3, 3)
