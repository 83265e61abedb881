"""torchvision's classifiers with ImageNet weights, downloaded or from a file, and their preprocessing."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.models import get_model, get_model_weights, list_models

from libs import checkpoint
from libs.networks import read_pretrained
from utils import BadInput, load_image

# Families with weight files whose keys or layers torchvision converts on loading.
CONVERTED = ("googlenet", "inception", "densenet", "vit", "regnet_y_")


@dataclass
class Pretrained:
    """A classifier of images in [0, 1], with preprocessing and categories."""

    title: str
    model: nn.Module  # N,3,H,W in [0, 1] -> N,1000; normalises inside
    crop: transforms.Compose  # PIL image -> 3,H,W in [0, 1], resized and cropped as for the weights
    categories: list[str]

    def image(self, path: str | Path) -> Tensor:
        """3,H,W in [0, 1]. Raises BadInput for a file that is missing or no image."""
        return self.crop(Image.fromarray(load_image(path)))

    def index(self, category: str) -> int:
        """Index of a category, given by index or name. Raises BadInput if it is unknown or ambiguous."""
        if category.isdecimal() and int(category) < len(self.categories):
            return int(category)
        wanted = category.replace("_", " ")
        found = [i for i, name in enumerate(self.categories) if name == wanted] or \
                [i for i, name in enumerate(self.categories) if name.lower() == wanted.lower()]
        if len(found) > 1:  # Cardigan, the dog, and cardigan
            raise BadInput(f"{category}: {self.title} has this category {len(found)} times; give its number: "
                           f"{' or '.join(map(str, found))}")
        if not found:
            near = [name for name in self.categories if category.lower().split("_")[0] in name.lower()][:5]
            raise BadInput(f"{category}: no category of {self.title}, which has {len(self.categories)}"
                           + (f"; near it are {', '.join(near)}" if near else "; give its number"))
        return found[0]


class Normalized(nn.Module):
    """`model` on pixels in [0, 1]: normalises first."""

    def __init__(self, model: nn.Module, mean, std):
        super().__init__()
        self.model = model
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model((pixels - self.mean) / self.std)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--network", default="resnet18", metavar="NAME", help="a classifier of torchvision "
                      "(default: resnet18)")
    parser.add_argument("--weights", metavar="FILE", help="its ImageNet weights from disk instead of a download")


def open_network(args: argparse.Namespace) -> Pretrained:
    """The network of --network with ImageNet weights. Raises BadInput with the URL if they cannot be downloaded."""
    if args.network not in list_models(torchvision.models):
        raise BadInput(f"--network {args.network}: torchvision has no such classifier; some are resnet18, resnet50, "
                       "vgg16, mobilenet_v3_small, convnext_tiny")
    available = get_model_weights(args.network)
    weights, title = available.DEFAULT, f"{args.network} ({available.DEFAULT})"
    if args.weights:
        if args.network.startswith(CONVERTED):
            raise BadInput(f"--weights does not go with {args.network}, whose weights torchvision converts on "
                           "loading; take a resnet, vgg, mobilenet, shufflenet, efficientnet or convnext")
        weights = next((one for one in available if Path(one.url).name == Path(args.weights).name), weights)
        title = f"{args.network}, {Path(args.weights).name}, images as for {weights.name}"
        model = get_model(args.network)
        checkpoint.load_weights(model, read_pretrained(args.weights, weights.url), args.weights)
    else:
        try:
            model = get_model(args.network, weights=weights, progress=False)
        except (URLError, OSError) as error:
            raise BadInput(f"the ImageNet weights of {args.network} cannot be downloaded ({error}). Fetch {weights.url}"
                           " elsewhere, and pass the file with --weights "
                           f"{Path(weights.url).name}") from None
    preset = weights.transforms()
    crop = transforms.Compose([transforms.Resize(preset.resize_size, preset.interpolation, antialias=True),
                               transforms.CenterCrop(preset.crop_size), transforms.ToTensor()])
    wrapped = Normalized(model, preset.mean, preset.std).to(args.device).eval()
    return Pretrained(title, wrapped, crop, weights.meta["categories"])
