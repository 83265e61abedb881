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

# Of these families some weight files differ from what the model loads; torchvision converts them as it reads them.
CONVERTED = ("googlenet", "inception", "densenet", "vit", "regnet_y_")


@dataclass
class Pretrained:
    """A classifier of images in [0, 1], its preprocessing and its categories."""

    title: str
    model: nn.Module  # N,3,H,W in [0, 1] -> N,1000; normalises inside
    crop: transforms.Compose  # PIL image -> 3,H,W in [0, 1], resized and cropped as for the weights
    categories: list[str]

    def image(self, path: str | Path) -> Tensor:
        """3,H,W in [0, 1]. Raises BadInput for a file that is missing or no image."""
        return self.crop(Image.fromarray(load_image(path)))

    def index(self, category: str) -> int:
        """The number of a category, given by number or by name. Raises BadInput if there is none."""
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
    """`model` for pixels in [0, 1]."""

    def __init__(self, model: nn.Module, mean, std):
        super().__init__()
        self.model = model
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model((pixels - self.mean) / self.std)


def add_flags(made: argparse.ArgumentParser) -> None:
    made.add_argument("--network", default="resnet18", metavar="NAME", help="a classifier of torchvision "
                      "(default: resnet18)")
    made.add_argument("--weights", metavar="FILE", help="its ImageNet weights from disk, without a network")


def open_network(args: argparse.Namespace) -> Pretrained:
    """The network of --network with ImageNet weights. Raises BadInput, which says what to download."""
    if args.network not in list_models(torchvision.models):
        raise BadInput(f"--network {args.network}: torchvision has no such classifier; some are resnet18, resnet50, "
                       "vgg16, mobilenet_v3_small, convnext_tiny")
    known = get_model_weights(args.network)
    weights, title = known.DEFAULT, f"{args.network} ({known.DEFAULT})"
    if args.weights:
        if args.network.startswith(CONVERTED):
            raise BadInput(f"--weights does not go with {args.network}, whose files torchvision changes as it reads "
                           "them; take a resnet, vgg, mobilenet, shufflenet, efficientnet or convnext")
        weights = next((one for one in known if Path(one.url).name == Path(args.weights).name), weights)
        title = f"{args.network}, {Path(args.weights).name}, images as for {weights.name}"
        model = get_model(args.network)
        checkpoint.load_weights(model, read_pretrained(args.weights, weights.url), args.weights)
    else:
        try:
            model = get_model(args.network, weights=weights, progress=False)
        except (URLError, OSError) as error:
            raise BadInput(f"the ImageNet weights of {args.network} cannot be downloaded ({error}). Fetch {weights.url}"
                           " where there is a network, and pass the file with --weights "
                           f"{Path(weights.url).name}") from None
    preset = weights.transforms()
    crop = transforms.Compose([transforms.Resize(preset.resize_size, preset.interpolation, antialias=True),
                               transforms.CenterCrop(preset.crop_size), transforms.ToTensor()])
    wrapped = Normalized(model, preset.mean, preset.std).to(args.device).eval()
    return Pretrained(title, wrapped, crop, weights.meta["categories"])
