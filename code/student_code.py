"""The graded file: convolution, networks, vision transformer, attack and saliency, in the assignment's order.

Input images are always ImageNet-normalised tensors N,3,H,W.
"""

# BEGIN SOLUTION
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

# END SOLUTION
import cv2
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import fold, unfold
from torchvision.utils import make_grid

import custom_transforms as transforms
from custom_blocks import DropPath, PatchEmbed, trunc_normal_, window_partition, window_unpartition

try:
    from custom_blocks import MLP
except ImportError:  # the helper code of 2022 and 2023
    from custom_blocks import Mlp as MLP

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# ============================================================================= 3.1.1 understanding convolutions


class CustomConv2DFunction(torch.autograd.Function):
    """2D convolution with any square kernel, stride and padding, and its gradients. Assignment 3.1.1, equation (1).

    Made of unfold, fold and matrix products; no convolution function may be used.
    """

    # BEGIN SOLUTION
    # With L = Ho * Wo output positions and J = Ci * K * K weights for each output channel:
    #
    #     columns = unfold(X)              N, J, L     a column is the patch of one output position
    #     Y       = W @ columns + b        N, Co, L    W seen as Co, J
    #     dX      = fold(W^T @ dY)         fold sums over overlapping patches
    #     dW      = sum_n dY @ columns^T
    #     db      = sum over images and positions of dY
    #
    # The columns take K * K / S^2 times the memory of the input, so the backward pass unfolds the saved input again
    # instead of saving the columns.
    # END SOLUTION

    @staticmethod
    def forward(ctx, input_feats, weight, bias, stride=1, padding=0):
        """Convolve.

        Shapes: input_feats N,Ci,H,W; weight Co,Ci,K,K; bias Co or None. Returns N,Co,Ho,Wo with
        Ho = (H + 2 * padding - K) // stride + 1, Wo likewise.
        Raises ValueError if the shapes do not match.
        """
        # BEGIN SOLUTION
        out_channels, in_channels, kernel_size, _ = weight.shape
        if input_feats.dim() != 4 or input_feats.shape[1] != in_channels:
            raise ValueError(f"convolution: input {tuple(input_feats.shape)} does not have the {in_channels} "
                             f"channels of the weight {tuple(weight.shape)}")
        out_size = [(side + 2 * padding - kernel_size) // stride + 1 for side in input_feats.shape[2:]]
        if min(out_size) < 1:
            raise ValueError(f"convolution: a kernel of {kernel_size} is larger than the input "
                             f"{tuple(input_feats.shape)} with padding {padding}")

        ctx.save_for_backward(input_feats, weight)
        ctx.stride, ctx.padding = stride, padding
        ctx.dtype = compute_dtype(input_feats)

        columns = unfold(input_feats.to(ctx.dtype), kernel_size, padding=padding, stride=stride)  # (N, J, L)
        # Write into a new tensor: an in-place ReLU cannot modify a view returned by a custom Function.
        output = columns.new_empty(len(input_feats), out_channels, *out_size)
        torch.matmul(weight.flatten(1).to(ctx.dtype), columns, out=output.flatten(2))  # (N, Co, L)
        if bias is not None:
            output += bias.view(-1, 1, 1).to(ctx.dtype)
        return output
        # END SOLUTION
        # STARTER: raise NotImplementedError("3.1.1: write the forward pass of the convolution")

    @staticmethod
    def backward(ctx, grad_output):
        """dL/dY, N,Co,Ho,Wo -> dL/dX, dL/dW and dL/db (None where not needed), None, None."""
        # BEGIN SOLUTION
        # Differentiable operations on saved tensors, so that double backward works.
        input_feats, weight = ctx.saved_tensors
        geometry = {"kernel_size": weight.shape[2:], "padding": ctx.padding, "stride": ctx.stride}
        grad_output = grad_output.to(ctx.dtype)
        # END SOLUTION
        # BEGIN SOLUTION bias
        grad_input = grad_weight = grad_bias = None
        if ctx.needs_input_grad[2]:
            grad_bias = grad_output.sum((0, 2, 3))  # (Co,)
        # END SOLUTION
        # BEGIN SOLUTION
        grad_output = grad_output.flatten(2)  # (N, Co, L)
        if ctx.needs_input_grad[0]:
            grad_columns = weight.flatten(1).to(ctx.dtype).t() @ grad_output  # (N, J, L)
            grad_input = fold(grad_columns, input_feats.shape[2:], **geometry)  # (N, Ci, H, W)
        if ctx.needs_input_grad[1]:
            columns = unfold(input_feats.to(ctx.dtype), **geometry)  # (N, J, L)
            grad_weight = (grad_output @ columns.transpose(1, 2)).sum(0).view_as(weight)  # (Co, Ci, K, K)
        # END SOLUTION
        # STARTER: raise NotImplementedError("3.1.1: write the backward pass of the convolution")
        # BEGIN SOLUTION bias
        return grad_input, grad_weight, grad_bias, None, None
        # END SOLUTION


# BEGIN SOLUTION
def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of the computation: the autocast dtype inside autocast, else the tensor's own."""
    device = tensor.device.type
    if tensor.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return tensor.dtype
    return torch.get_autocast_dtype(device)
# END SOLUTION


custom_conv2d = CustomConv2DFunction.apply


class CustomConv2d(nn.Module):
    """`custom_conv2d` as a module, a drop-in for nn.Conv2d with the same initial weights. Please do not modify."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True):
        super().__init__()
        sizes = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
        for name, size in sizes.items():
            if not isinstance(size, int):
                raise ValueError(f"CustomConv2d: {name} has to be one int for both directions, not {size!r}")
        if (dilation, groups) != (1, 1):
            raise ValueError(f"CustomConv2d: dilation {dilation} and groups {groups} have to be 1")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.Conv2d.reset_parameters(self)

    def forward(self, x: Tensor) -> Tensor:
        return custom_conv2d(x, self.weight, self.bias, self.stride, self.padding)

    def extra_repr(self) -> str:
        return (f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
                f"padding={self.padding}, bias={self.bias is not None}")


# ==================================================================== 3.1.2 designing convolutional networks


def init_weights(model: nn.Module) -> None:
    """He initialisation (He et al. 2015) for convolutions of either kind; biases zero."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, CustomConv2d)):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def relu() -> nn.ReLU:
    return nn.ReLU(inplace=True)


def halve() -> nn.MaxPool2d:
    return nn.MaxPool2d(kernel_size=3, stride=2, padding=1)


def bottleneck(conv_op, in_channels: int, width: int, out_channels: int) -> list[nn.Module]:
    """1x1 to `width` channels, 3x3, 1x1 to `out_channels`, each followed by ReLU: the building block of SimpleNet."""
    return [conv_op(in_channels, width, kernel_size=1), relu(),
            conv_op(width, width, kernel_size=3, padding=1), relu(),
            conv_op(width, out_channels, kernel_size=1), relu()]


class SimpleNet(nn.Module):
    """The assignment's baseline: seven convolutions, 365,028 parameters at 100 classes. N,3,H,W -> N,num_classes."""

    def __init__(self, conv_op=nn.Conv2d, num_classes=100):
        super().__init__()
        self.features = nn.Sequential(
            conv_op(3, 64, kernel_size=7, stride=2, padding=3), relu(),  # 1/2
            halve(), *bottleneck(conv_op, 64, 64, 256),  # 1/4
            halve(), *bottleneck(conv_op, 256, 128, 512))  # 1/8
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, num_classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(self.features(x)).flatten(1))


# BEGIN SOLUTION
class SkipBlock(nn.Module):
    """x + BatchNorm(bottleneck(x)): a bottleneck with a skip connection."""

    def __init__(self, conv_op, channels: int):
        super().__init__()
        self.body = nn.Sequential(*bottleneck(conv_op, channels, channels // 4, channels), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)
# END SOLUTION


class CustomNet(nn.Module):
    """A network of your own design, better than SimpleNet. N,3,H,W -> N,num_classes."""

    def __init__(self, conv_op=nn.Conv2d, num_classes=100):
        super().__init__()
        # BEGIN SOLUTION
        # The 2023 report's design: SimpleNet with BatchNorm after its first two stages, four skip blocks, and a head of
        # two linear layers with ReLU and BatchNorm between them.
        self.features = nn.Sequential(
            conv_op(3, 64, kernel_size=7, stride=2, padding=3), relu(), halve(), nn.BatchNorm2d(64),  # 1/4
            *bottleneck(conv_op, 64, 64, 256), halve(), nn.BatchNorm2d(256),  # 1/8
            *[SkipBlock(conv_op, 256) for _ in range(4)],
            *bottleneck(conv_op, 256, 128, 512))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(nn.Linear(512, 256), relu(), nn.BatchNorm1d(256), nn.Linear(256, num_classes))
        init_weights(self)
        # END SOLUTION
        # STARTER: raise NotImplementedError("3.1.2: design your own convolutional network")

    def forward(self, x: Tensor) -> Tensor:
        # BEGIN SOLUTION
        return self.head(self.avgpool(self.features(x)).flatten(1))
        # END SOLUTION
        # STARTER: raise NotImplementedError("3.1.2: design your own convolutional network")


# BEGIN SOLUTION
def conv_bn(conv_op, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> list[nn.Module]:
    """A bias-free convolution with "same" padding (apart from `stride`), and BatchNorm."""
    return [conv_op(in_channels, out_channels, kernel_size=kernel_size, stride=stride, padding=kernel_size // 2,
                    bias=False), nn.BatchNorm2d(out_channels)]


class ResidualBlock(nn.Module):
    """ReLU(shortcut(x) + two 3x3 convolutions of x). N,Ci,H,W -> N,Co,H/stride,W/stride (rounded up)."""

    def __init__(self, conv_op, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.body = nn.Sequential(*conv_bn(conv_op, in_channels, out_channels, 3, stride), relu(),
                                  *conv_bn(conv_op, out_channels, out_channels, 3))
        projection = [] if stride == 1 else conv_bn(conv_op, in_channels, out_channels, 1, stride)
        self.shortcut = nn.Sequential(*projection)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.body(x))


def stage(conv_op, in_channels: int, out_channels: int) -> nn.Sequential:
    """Two residual blocks, the first of which halves the size."""
    return nn.Sequential(ResidualBlock(conv_op, in_channels, out_channels, stride=2),
                         ResidualBlock(conv_op, out_channels, out_channels))


class MultiScaleNet(nn.Module):
    """Features at 1/2, 1/4, 1/8 and 1/16 of the size, pooled and concatenated. N,3,H,W -> N,num_classes.

    The 2019 report's design ("MSN"): scene features are hierarchical in scale, so the classifier sees every scale,
    not only the coarsest. Strided convolutions replace pooling.
    """

    def __init__(self, conv_op=nn.Conv2d, num_classes=100):
        super().__init__()
        widths = 64, 128, 256, 512
        self.stem = nn.Sequential(*conv_bn(conv_op, 3, widths[0], 7, stride=2), relu())
        self.scales = nn.ModuleList(stage(conv_op, a, b) for a, b in pairwise(widths))
        self.heads = nn.ModuleList(nn.Sequential(*conv_bn(conv_op, width, 512, 1), relu()) for width in widths)
        self.fc = nn.Linear(4 * 512, num_classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for scale in self.scales:
            features.append(scale(features[-1]))
        pooled = [head(feature).mean((2, 3)) for head, feature in zip(self.heads, features)]  # 4 x (N, 512)
        return self.fc(torch.cat(pooled, dim=1))


class ResidualNet(nn.Module):
    """A ResNet (He et al. 2016) for accuracy by the minute on a CPU: 7.7 million parameters. N,3,H,W -> N,num_classes.

    Most of its work is in 3x3 convolutions with many channels at 1/8 and 1/16 of the size, which run nearest to a
    processor's peak.
    """

    def __init__(self, conv_op=nn.Conv2d, num_classes=100):
        super().__init__()
        # Two 3x3 convolutions of stride 2 reach 1/4 of the size (He et al. 2019, "ResNet-D"). SimpleNet's 7x7 with
        # max-pooling works on large, thin feature maps, where a CPU waits for memory.
        stem = [*conv_bn(conv_op, 3, 32, 3, stride=2), relu(), *conv_bn(conv_op, 32, 64, 3, stride=2), relu()]
        # One block at 1/4, where pixels are many and edges suffice; two at each scale below.
        self.features = nn.Sequential(*stem, ResidualBlock(conv_op, 64, 64), stage(conv_op, 64, 128),
                                      stage(conv_op, 128, 256), stage(conv_op, 256, 384))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(384, num_classes)
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(self.features(x)).flatten(1))
# END SOLUTION


default_cnn_model = SimpleNet

# ================================================================================= 3.2 vision transformers


class Attention(nn.Module):
    """Multi-head self-attention over all H x W tokens: B,H,W,C -> B,H,W,C. Assignment 3.2.1, (2) and (3)."""

    def __init__(self, dim, num_heads=8, qkv_bias=True):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"Attention: {num_heads} heads do not divide {dim} channels")
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        # BEGIN SOLUTION attention
        B, H, W, C = x.shape
        qkv = self.qkv(x).reshape(B, H * W, 3, self.num_heads, C // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, nh, H*W, C/nh)
        if q.dtype == torch.bfloat16 and q.device.type == "cpu":  # the fused kernel's backward pass is slow here
            x = (q * self.scale @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        else:  # fused kernel: does not store the (H*W)^2 matrix
            x = F.scaled_dot_product_attention(q, k, v, scale=self.scale)  # (B, nh, H*W, C/nh)
        return self.proj(x.transpose(1, 2).reshape(B, H, W, C))
        # END SOLUTION
        # STARTER: raise NotImplementedError("3.2.1: write multi-head self-attention")


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: B,H,W,C -> B,H,W,C, any H and W.

    `window_size` 0 is global attention; w > 0 is attention within w x w windows (zero-padded at the right and the
    bottom where w does not divide the size).
    `drop_path` is the probability of dropping each of the two residual branches (stochastic depth).
    """

    def __init__(self, dim, num_heads, mlp_ratio=4.0, qkv_bias=True, drop_path=0.0, norm_layer=nn.LayerNorm,
                 act_layer=nn.GELU, window_size=0):
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = Attention(dim, num_heads=num_heads, qkv_bias=qkv_bias)
        self.drop_path = DropPath(drop_path)
        self.norm2 = norm_layer(dim)
        self.mlp = MLP(in_features=dim, hidden_features=int(dim * mlp_ratio), act_layer=act_layer)
        self.window_size = window_size

    def attend(self, x: Tensor) -> Tensor:
        # BEGIN SOLUTION block
        if self.window_size == 0:
            return self.attn(x)
        windows, pad_hw = window_partition(x, self.window_size)  # (B*nW, w, w, C)
        return window_unpartition(self.attn(windows), self.window_size, pad_hw, x.shape[1:3])
        # END SOLUTION
        # STARTER: raise NotImplementedError("3.2.1: attend globally, or inside windows")

    def forward(self, x: Tensor) -> Tensor:
        # BEGIN SOLUTION block
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))
        # END SOLUTION
        # STARTER: raise NotImplementedError("3.2.1: write the transformer block")


class SimpleViT(nn.Module):
    """A vision transformer with interleaved window and global attention: N,in_chans,H,W -> N,num_classes.

    Patch embedding, a learned position embedding of shape 1,H/P,W/P,C, `depth` blocks, mean over the tokens,
    linear head (Dosovitskiy et al. 2021; windows as in Li et al. 2022). The blocks in
    `window_block_indexes` attend within windows of `window_size`, the others globally. `drop_path_rate` grows
    linearly over the blocks. Images of another size than `img_size` get an interpolated position embedding.
    Raises ValueError if a size is not a multiple of the patch size.
    """

    def __init__(self, img_size=128, num_classes=100, patch_size=16, in_chans=3, embed_dim=192, depth=4, num_heads=4,
                 mlp_ratio=4.0, qkv_bias=True, drop_path_rate=0.1, norm_layer=nn.LayerNorm, act_layer=nn.GELU,
                 use_abs_pos=True, window_size=4, window_block_indexes=(0, 2)):
        super().__init__()
        # BEGIN SOLUTION
        self.patch_size = patch_size
        self.window_size = window_size if any(i in window_block_indexes for i in range(depth)) else 0
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self._check_size(height, width)
        self.patch_embed = PatchEmbed((patch_size, patch_size), (patch_size, patch_size), in_chans=in_chans,
                                      embed_dim=embed_dim)
        grid = 1, height // patch_size, width // patch_size, embed_dim
        self.pos_embed = nn.Parameter(trunc_normal_(torch.empty(grid), std=0.02)) if use_abs_pos else None
        drop_rates = torch.linspace(0, drop_path_rate, depth).tolist()
        self.blocks = nn.ModuleList(
            TransformerBlock(embed_dim, num_heads, mlp_ratio, qkv_bias, drop_rates[i], norm_layer, act_layer,
                             window_size if i in window_block_indexes else 0) for i in range(depth))
        self.norm = norm_layer(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        self.apply(self._init_weights)
        # END SOLUTION
        # STARTER: raise NotImplementedError("3.2.2: build the vision transformer")

    # BEGIN SOLUTION
    def _check_size(self, height: int, width: int) -> None:
        if height % self.patch_size or width % self.patch_size or min(height, width) < self.patch_size:
            raise ValueError(f"SimpleViT: an image of {height}x{width} pixels cannot be cut into patches of "
                             f"{self.patch_size}x{self.patch_size}")

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def _positions(self, height: int, width: int) -> Tensor:
        """The position embedding, interpolated to `height` x `width` tokens."""
        if self.pos_embed.shape[1:3] == (height, width):
            return self.pos_embed
        grid = F.interpolate(self.pos_embed.permute(0, 3, 1, 2), (height, width), mode="bicubic")
        return grid.permute(0, 2, 3, 1)

    def _in_window_order(self, x: Tensor) -> Tensor:
        """Reorder tokens B,H,W,C window by window: B,H*W/w,w,C (as Hiera, Ryali et al. 2023).

        Window blocks then partition without a copy, and global blocks do not depend on the order.
        """
        B, H, W, C = x.shape
        if self.window_size == 0 or H % self.window_size or W % self.window_size:
            return x
        return window_partition(x, self.window_size)[0].view(B, -1, self.window_size, C)
    # END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        # BEGIN SOLUTION
        self._check_size(*x.shape[2:])
        x = self.patch_embed(x)  # (N, H/P, W/P, C)
        if self.pos_embed is not None:
            x = x + self._positions(*x.shape[1:3])
        x = self._in_window_order(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean((1, 2)))
        # END SOLUTION
        # STARTER: raise NotImplementedError("3.2.2: write the forward pass of the vision transformer")


default_vit_model = SimpleViT

# ========================================================================================= data augmentation


# Explicit, since the stock helper code otherwise picks a random interpolation, in validation too.
BILINEAR_144 = transforms.Scale(144, interpolations=[cv2.INTER_LINEAR])


def _to_input(normalize) -> list:
    return [transforms.ToTensor(), normalize or transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]


def get_train_transforms(normalize=None) -> transforms.Compose:
    """The assignment's augmentation: H,W,3 uint8 RGB -> normalised 3,128,128. main.py until 2023 passes `normalize`."""
    return transforms.Compose([BILINEAR_144, transforms.RandomHorizontalFlip(), transforms.RandomColor(0.15),
                               transforms.RandomRotate(15), transforms.RandomSizedCrop(128), *_to_input(normalize)])


def get_val_transforms(normalize=None) -> transforms.Compose:
    """Deterministic: scale, centre crop."""
    return transforms.Compose([BILINEAR_144, transforms.CenterCrop(128), *_to_input(normalize)])


# ==================================================================================== 3.3 adversarial samples


# BEGIN SOLUTION
@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without parameter gradients, so that attacks leave BatchNorm statistics and `.grad` alone.

    Restores every module's mode and every parameter's `requires_grad`, also after an error.
    Also makes attacks faster: the custom convolution skips its weight gradient.
    """
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
# END SOLUTION


class PGDAttack:
    """Projected gradient descent in an L-inf ball (Madry et al. 2018) towards the least confident label.

    Each of `num_steps` steps decreases the loss of the label that is least likely at the current iterate (3.3).
    `step_size` and `epsilon` are in normalised units: 0.1 is about 6 of 255 pixel levels.
    """

    def __init__(self, loss_fn, num_steps=10, step_size=0.01, epsilon=0.1):
        self.loss_fn, self.num_steps, self.step_size, self.epsilon = loss_fn, num_steps, step_size, epsilon

    def perturb(self, model: nn.Module, input: Tensor) -> Tensor:
        """N,C,H,W -> adversarial N,C,H,W, detached. `input` and `model` are not changed."""
        # BEGIN SOLUTION
        origin = input.detach()
        lower, upper = origin - self.epsilon, origin + self.epsilon
        adversarial = origin.clone()
        with frozen(model), torch.enable_grad():
            for _ in range(self.num_steps):
                adversarial.requires_grad_(True)
                logits = model(adversarial)
                loss = self.loss_fn(logits, logits.argmin(dim=1))
                # With respect to the input only: parameters get no gradient, and the graph is freed.
                # Times the batch size, as the mean's gradient can underflow in 16 bit; the sign is the same.
                gradient, = torch.autograd.grad(loss * len(origin), adversarial)
                adversarial = adversarial.detach() - self.step_size * gradient.sign()
                adversarial = adversarial.clamp(lower, upper)
        return adversarial.detach()
        # END SOLUTION
        # STARTER: raise NotImplementedError("3.3: write projected gradient descent")


default_attack = PGDAttack


class AdvSimpleNet(SimpleNet):
    """SimpleNet with adversarial training (bonus of 3.3); in evaluation mode it is a SimpleNet.

    The assignment recommends fewer PGD steps than for an attack, e.g. five.
    """

    def __init__(self, conv_op=nn.Conv2d, num_classes=100):
        super().__init__(conv_op, num_classes)
        # BEGIN SOLUTION
        self.attack = PGDAttack(nn.CrossEntropyLoss(), num_steps=5)
        # END SOLUTION
        # STARTER: pass

    def forward(self, x: Tensor) -> Tensor:
        # BEGIN SOLUTION
        # No recursion: the attack runs the network in evaluation mode, in which `forward` does not attack.
        if self.training:
            x = self.attack.perturb(self, x)
        return super().forward(x)
        # END SOLUTION
        # STARTER: raise NotImplementedError("3.3, bonus: attack the input while training")


# ================================================================================================== saliency


class GradAttention:
    """Saliency: the gradient of the predicted label's loss with respect to each pixel (Simonyan et al. 2014)."""

    def __init__(self, loss_fn):
        self.loss_fn = loss_fn

    def explain(self, model: nn.Module, input: Tensor) -> Tensor:
        """N,C,H,W -> N,1,H,W: the gradient's magnitude, maximum over channels. `model` is not changed."""
        # BEGIN SOLUTION saliency
        images = input.detach().clone().requires_grad_(True)
        with frozen(model), torch.enable_grad():
            logits = model(images)
            gradient, = torch.autograd.grad(self.loss_fn(logits, logits.argmax(dim=1)) * len(images), images)
        return gradient.abs().amax(dim=1, keepdim=True)
        # END SOLUTION
        # STARTER: raise NotImplementedError("saliency: write the gradient of the loss by the input")


default_attention = GradAttention


def _pixels(images: Tensor) -> Tensor:
    """Normalised N,3,H,W -> denormalised images in [0, 1], on the CPU."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.detach().float().cpu() * std + mean).clamp(0, 1)


def vis_grid(input: Tensor, n_rows: int = 10) -> Tensor:
    """Normalised N,3,H,W -> one 3,H',W' mosaic in [0, 1], `n_rows` images to a row."""
    return make_grid(_pixels(input), nrow=n_rows)


def vis_grad_attention(input: Tensor, vis_alpha: float = 2.0, n_rows: int = 10, vis_output: Tensor | None = None):
    """The mosaic of `vis_grid`, overlaid in red with saliency maps N,1,H,W (`vis_output`).

    `vis_alpha` is the weight of the overlay; each map is scaled by its 99th percentile, which ignores outlier
    pixels.
    """
    images = _pixels(input)
    if vis_output is not None:
        heat = F.avg_pool2d(vis_output.detach().float().cpu(), 5, stride=1, padding=2)
        loud = heat.flatten(1).quantile(0.99, dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
        weight = (0.4 * vis_alpha * heat / loud).clamp(0, 0.8)
        images = (1 - weight) * images + weight * torch.tensor([1.0, 0.1, 0.0]).view(3, 1, 1)
    return make_grid(images, nrow=n_rows)


default_visfunction = vis_grad_attention
