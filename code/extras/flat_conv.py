"""A fast convolution without a convolution operation: `custom_conv2d`'s twin on channels-last images.

The sheet's convolution in `student_code.py` is the one to learn from. This one is made of matrix products as
well, and is fast for three reasons:

- **Channels last.** An image is a matrix with a row of C numbers for each pixel. A patch is then K runs of K * C
  numbers that lie side by side, and a 1x1 convolution needs no patches: its columns are the image itself.
- **A few images at a time.** The columns of a whole batch are K * K times the batch. Those of a few images fit into
  the processor's cache, and their memory is used again for the next few.
- **Winograd's algorithm** for 3x3 in fp32: 36 instead of 144 products for each 4x4 output pixels.

`main.py --use-custom-conv flat` trains with it; `benchmarks/bench_conv.py` compares it with nn.Conv2d.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import product as product_of

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Bytes of columns made at a time. On a CPU: about what two cores' caches hold. On a GPU: enough work for a kernel.
AT_A_TIME = {"cpu": 2**21, "cuda": 2**28}


class FlatConv2dFunction(torch.autograd.Function):
    """2D convolution, the sheet's `CustomConv2DFunction` in signature and result.

    Computes in the autocast type inside autocast. It has no second derivatives: asking for them raises RuntimeError.
    """

    @staticmethod
    def forward(ctx, input_feats, weight, bias, stride=1, padding=0):
        """N,Ci,H,W, Co,Ci,K,K and Co (or None) -> N,Co,Ho,Wo in the channels-last layout.

        Raises ValueError if the shapes do not go together.
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
    """nn.Conv2d by its name, parameters and initial weights; what it does is `flat_conv2d`."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True):
        for name, size in {"kernel_size": kernel_size, "stride": stride, "padding": padding}.items():
            if not isinstance(size, int):
                raise ValueError(f"FlatConv2d: {name} has to be one int for both directions, not {size!r}")
        if (dilation, groups) != (1, 1):
            raise ValueError(f"FlatConv2d: dilation {dilation} and groups {groups} have to be 1")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return flat_conv2d(x, self.weight, self.bias, self.stride[0], self.padding[0])


# ---------------------------------------------------------------------- the three products of a convolution


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
        return images_of(product(rows_of(images).view(-1, Ci), weight.view(Co, Ci).t(), bias), (H, W))
    output = torch.empty(len(images), Co, Ho, Wo, dtype=images.dtype, device=images.device,
                         memory_format=torch.channels_last)
    if len(images) == 0:
        return output
    if winograd_pays(images, K, stride, output):
        _convolve_tiles(images, weight, bias, padding, output)
    else:
        _convolve_columns(images, weight, bias, stride, padding, output)
    return output


def input_gradient(grad_output: Tensor, weight: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
    """dX, N,Ci,H,W. With stride 1 it is a convolution, too: of dY with the kernel turned by half a turn."""
    K = weight.shape[-1]
    if stride == 1 and padding < K:
        return convolve(grad_output, weight.flip(2, 3).transpose(0, 1), None, 1, K - 1 - padding)
    return _scatter(grad_output, weight, shape, stride, padding)


def weight_gradient(grad_output: Tensor, images: Tensor, K: int, stride: int, padding: int) -> Tensor:
    """dW = dY^T @ columns, Co,Ci,K,K, summed in fp32 at least."""
    if len(images) == 0:
        return images.new_zeros(grad_output.shape[1], images.shape[1], K, K)
    if winograd_pays(images, K, stride, grad_output):
        return _weight_gradient_tiles(grad_output, images, padding)
    grad_rows, total = rows_of(grad_output), 0.0
    for part, columns in columns_of(images, K, stride, padding):
        rows = grad_rows[part].flatten(0, 2)
        few_first = rows.shape[1] <= columns.shape[1]  # a product is faster with the short side in front
        total = total + widened(product(rows.t(), columns) if few_first else product(columns.t(), rows).t())
    return total.view(-1, K, K, images.shape[1]).permute(0, 3, 1, 2)


# -------------------------------------------------------------------------------------------------- columns


def rows_of(images: Tensor) -> Tensor:
    """N,C,H,W -> N,H,W,C, contiguous; a view if the images have the channels-last layout."""
    return images.permute(0, 2, 3, 1).contiguous()


def images_of(rows: Tensor, size: tuple[int, int]) -> Tensor:
    """N*H*W,C -> N,C,H,W in the channels-last layout. Detached: an in-place ReLU may change it."""
    return rows.view(-1, *size, rows.shape[1]).permute(0, 3, 1, 2).detach()


def widened(tensor: Tensor) -> Tensor:
    """16 bit -> fp32, for sums over many parts."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left @ right + bias.

    For fp32 on a CPU oneDNN's linear layer, where this torch has it: torch's own product is MKL's, which is slower on
    AMD's processors (benchmarks/probes.py). In 16 bit torch takes oneDNN anyway.
    """
    if ONEDNN_LINEAR and left.dtype == torch.float32 and left.device.type == "cpu":
        return ONEDNN_LINEAR(left, right.t(), bias, "none", [], "")
    return left @ right if bias is None else torch.addmm(bias, left, right)


ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def parts(images: Tensor, numbers_each: int) -> list[slice]:
    """Cut the batch, so that a part makes about AT_A_TIME bytes of `numbers_each` numbers an image."""
    limit = AT_A_TIME.get(images.device.type, 2**28)
    step = max(1, limit // (numbers_each * images.element_size()))
    return [slice(start, min(start + step, len(images))) for start in range(0, len(images), step)]


def columns_of(images: Tensor, K: int, stride: int, padding: int) -> Iterator[tuple[slice, Tensor]]:
    """For each part of the batch its columns: a row of K*K*Ci for each of the part's n*Ho*Wo output positions."""
    rows = rows_of(images)
    _, H, W, C = rows.shape
    if (K, stride, padding) == (1, 1, 0):
        for part in parts(images, H * W * C):
            yield part, rows[part].view(-1, C)
        return
    Ho, Wo = ((side + 2 * padding - K) // stride + 1 for side in (H, W))
    cut = parts(images, Ho * Wo * K * K * C)
    n = cut[0].stop
    padded = rows.new_zeros(n, H + 2 * padding, W + 2 * padding, C)  # the border stays zero throughout
    columns = rows.new_empty(n * Ho * Wo, K * K * C)
    image, row, pixel, _ = padded.stride()
    for part in cut:
        n = part.stop - part.start
        padded[:n, padding : padding + H, padding : padding + W] = rows[part]
        windows = padded.as_strided((n, Ho, Wo, K, K * C), (image, stride * row, stride * pixel, row, 1))
        columns[: n * Ho * Wo].view(windows.shape).copy_(windows)
        yield part, columns[: n * Ho * Wo]


def _convolve_columns(images: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int,
                      output: Tensor) -> None:
    matrix, size = weight.permute(2, 3, 1, 0).flatten(0, 2), output.shape[2:]  # (K*K*Ci, Co)
    for part, columns in columns_of(images, weight.shape[-1], stride, padding):
        output[part] = images_of(product(columns, matrix, bias), size)


def _scatter(grad_output: Tensor, weight: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
    """dX = fold(dY @ W^T). Each of the K*K taps adds a whole plane to one of the stride * stride phases of dX."""
    (_, Ci, H, W), K, (Ho, Wo) = shape, weight.shape[-1], grad_output.shape[2:]
    rows, matrix = rows_of(grad_output), weight.flatten(1).t()  # (Ci*K*K, Co)
    grad_input = torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=torch.channels_last)
    height, width = (max((K - 1) // stride + out, -(-(side + 2 * padding) // stride))
                     for out, side in ((Ho, H), (Wo, W)))
    for part in parts(grad_output, len(matrix) * Ho * Wo):
        columns = (matrix @ rows[part].flatten(0, 2).t()).view(Ci, K, K, -1, Ho, Wo)
        phases = widened(columns.new_zeros(stride, stride, Ci, columns.shape[3], height, width))
        for i, j in product_of(range(K), range(K)):
            y, x = i // stride, j // stride
            phases[i % stride, j % stride, :, :, y : y + Ho, x : x + Wo] += columns[:, i, j]
        whole = phases.permute(3, 2, 4, 0, 5, 1).reshape(-1, Ci, height * stride, width * stride)
        grad_input[part] = whole[:, :, padding : padding + H, padding : padding + W]
    return grad_input


# --------------------------------------------------------------------------------- Winograd's F(4x4, 3x3)

# Lavin and Gray 2016, section 4.2: Y = A^T [(G w G^T) * (B^T x B)] A for a tile x of 6x6 pixels, 4x4 of output.
BT = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
      [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
G = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
     [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
AT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


@lru_cache
def transforms(dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """For tiles, kernels and outputs seen as vectors: B^T x B^T 36,36; G x G 36,9; A^T x A^T 16,36 (Kronecker)."""
    matrices = (torch.tensor(rows, dtype=torch.float64) for rows in (BT, G, AT))
    return [torch.kron(matrix, matrix).to(device, dtype) for matrix in matrices]


def winograd_pays(images: Tensor, K: int, stride: int, output: Tensor) -> bool:
    """3x3, and neither so few channels nor so small an output, N,Co,Ho,Wo, that the transforms eat the gain.

    In 16 bit the transforms would lose digits that the network needs.
    """
    _, Co, Ho, Wo = output.shape
    whole = 16 * -(-Ho // 4) * -(-Wo // 4)
    return ((K, stride) == (3, 1) and images.element_size() >= 4 and min(images.shape[1], Co) >= 16
            and whole <= 1.5 * Ho * Wo)


def tiles_of(images: Tensor, padding: int) -> Iterator[tuple[slice, Tensor]]:
    """For each part of the batch its transformed tiles, 36,n*tiles,C."""
    rows = rows_of(images)
    _, H, W, C = rows.shape
    th, tw = -(-(H + 2 * padding - 2) // 4), -(-(W + 2 * padding - 2) // 4)
    cut = parts(images, 36 * th * tw * C)
    padded = rows.new_zeros(cut[0].stop, 4 * th + 2, 4 * tw + 2, C)
    image, row, pixel, _ = padded.stride()
    for part in cut:
        n = part.stop - part.start
        padded[:n, padding : padding + H, padding : padding + W] = rows[part]
        tiles = padded.as_strided((6, 6, n, th, tw, C), (row, pixel, image, 4 * row, 4 * pixel, 1))
        transform = transforms(rows.dtype, rows.device)[0]
        yield part, product(transform, tiles.reshape(36, -1)).view(36, -1, C)


def _convolve_tiles(images: Tensor, weight: Tensor, bias: Tensor | None, padding: int, output: Tensor) -> None:
    _, kernels, outputs = transforms(images.dtype, images.device)
    (Co, Ci), (Ho, Wo) = weight.shape[:2], output.shape[2:]
    matrices = (kernels @ weight.reshape(Co * Ci, 9).t()).view(36, Co, Ci).transpose(1, 2)
    th, tw = -(-Ho // 4), -(-Wo // 4)
    for part, tiles in tiles_of(images, padding):
        products = torch.bmm(tiles, matrices)  # (36, n*tiles, Co)
        pixels = product(outputs, products.view(36, -1)).view(4, 4, -1, th, tw, Co)
        if bias is not None:
            pixels += bias
        whole = pixels.permute(2, 5, 3, 0, 4, 1)  # (n, Co, th, 4, tw, 4)
        if (4 * th, 4 * tw) == (Ho, Wo):
            output[part].unflatten(2, (th, 4)).unflatten(4, (tw, 4)).copy_(whole)
        else:
            output[part] = whole.reshape(-1, Co, 4 * th, 4 * tw)[:, :, :Ho, :Wo]


def _weight_gradient_tiles(grad_output: Tensor, images: Tensor, padding: int) -> Tensor:
    """dW, Co,Ci,3,3: each step of the forward pass transposed, in the reverse order."""
    _, kernels, outputs = transforms(images.dtype, images.device)
    grad_rows, matrices = rows_of(grad_output), 0.0
    _, Ho, Wo, Co = grad_rows.shape
    th, tw = -(-Ho // 4), -(-Wo // 4)
    for part, tiles in tiles_of(images, padding):
        pixels = F.pad(grad_rows[part], (0, 0, 0, 4 * tw - Wo, 0, 4 * th - Ho)).view(-1, th, 4, tw, 4, Co)
        products = product(outputs.t(), pixels.permute(2, 4, 0, 1, 3, 5).reshape(16, -1)).view(36, -1, Co)
        matrices = matrices + torch.bmm(products.transpose(1, 2), tiles)  # (36, Co, Ci)
    return (kernels.t() @ matrices.view(36, -1)).t().view(Co, -1, 3, 3)
