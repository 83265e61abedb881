"""A ResNet for CIFAR-10, and class activation maps. CNN Homework 3, deliverables 3 and 5. Needs nothing but torch.

The text does not give the network of its figure 3; this one follows the text (o: channels, s: stride):

    conv 3x3 o=32 s=1    block o=64 s=2    block o=128 s=2    block o=256 s=2    average pool 4x4    linear -> 10

A block is two 3x3 convolutions, the first with the stride, and a 1x1 convolution as shortcut. Every convolution has no
bias and is followed by BatchNorm; ReLU follows the first convolution's, and the sum of body and shortcut.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn


def he_init(model: nn.Module) -> None:
    """He initialisation (He et al. 2015) of convolutions and linear layers; biases zero."""
    # BEGIN SOLUTION
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")  # no ReLU follows
            nn.init.zeros_(module.bias)
    # END SOLUTION
    # STARTER: raise NotImplementedError("he_init: He initialisation of each layer")


class Block(nn.Module):
    """Residual block that changes channels and size, so its shortcut is a 1x1 convolution (He et al. 2016)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        # BEGIN SOLUTION
        self.body = nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
                                  nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True),
                                  nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
                                  nn.BatchNorm2d(out_channels))
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                                      nn.BatchNorm2d(out_channels))
        self.relu = nn.ReLU(inplace=True)
        # END SOLUTION
        # STARTER: raise NotImplementedError("Block.__init__: two 3x3 convolutions and the shortcut, with BatchNorm")

    def forward(self, x: Tensor) -> Tensor:
        # BEGIN SOLUTION
        return self.relu(self.body(x) + self.shortcut(x))
        # END SOLUTION
        # STARTER: raise NotImplementedError("Block.forward: ReLU of body plus shortcut")


class ResNet(nn.Module):
    """Logits N,num_classes of images N,3,32,32; `features` gives the maps N,256,4,4 before the pool, `fc` is linear."""

    def __init__(self, num_classes: int = 10, widths=(32, 64, 128, 256)):
        super().__init__()
        # BEGIN SOLUTION
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]),
                                  nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(*(Block(a, b, 2) for a, b in pairwise(widths)))
        self.pool = nn.AvgPool2d(4)
        self.fc = nn.Linear(widths[-1], num_classes)
        he_init(self)
        # END SOLUTION
        # STARTER: raise NotImplementedError("ResNet.__init__: the layers of the table at the top, with he_init")

    def features(self, x: Tensor) -> Tensor:
        """The last feature maps: N,3,32,32 -> N,256,4,4."""
        # BEGIN SOLUTION
        return self.blocks(self.stem(x))
        # END SOLUTION
        # STARTER: raise NotImplementedError("ResNet.features: first convolution and blocks")

    def forward(self, x: Tensor) -> Tensor:
        # BEGIN SOLUTION
        return self.fc(self.pool(self.features(x)).flatten(1))
        # END SOLUTION
        # STARTER: raise NotImplementedError("ResNet.forward: the features, pooled, through fc")


def class_activation_maps(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Maps N,h,w of `labels` N: the feature maps, summed with the label's weights of `fc` (Zhou et al. 2016).

    Neither rectified nor normalised: the mean of a map, plus the label's bias, is the label's logit. Without gradients,
    in evaluation mode.
    """
    # BEGIN SOLUTION
    model.eval()
    with torch.no_grad():
        return torch.einsum("nc,nchw->nhw", model.fc.weight[labels], model.features(images))
    # END SOLUTION
    # STARTER: raise NotImplementedError("class_activation_maps: sum_c fc.weight[label, c] * features[:, c]")
