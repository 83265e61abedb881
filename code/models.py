"""Networks by name, and whatever else the driver takes from `student_code`, whichever year that file is from."""

import inspect
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import torch
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18

import custom_transforms as transforms
import student_code
from checkpoint import load_weights, read
from utils import IMAGENET_MEAN, IMAGENET_STD, BadInput, of_the_solution

# Name of --model -> name in student_code.
STUDENT_MODELS = {"simplenet": "SimpleNet", "adv-simplenet": "AdvSimpleNet", "customnet": "CustomNet",
                  "msn": "MultiScaleNet", "vit": "default_vit_model", "default-cnn": "default_cnn_model"}
MODEL_NAMES = (*STUDENT_MODELS, "resnet18")
RESNET18_FILE = Path(ResNet18_Weights.DEFAULT.url).name


def from_student(name: str):
    """A name of the student's file. Raises BadInput if that file, of another year perhaps, does not have it."""
    try:
        return getattr(student_code, name)
    except AttributeError:
        raise BadInput(f"{student_code.__file__}: has no {name}, which is needed here") from None


def default_model_name() -> str:
    """The name of what `default_cnn_model` is; "default-cnn" for a network of the student's own."""
    chosen = from_student("default_cnn_model")
    return next(name for name, student in STUDENT_MODELS.items() if getattr(student_code, student, None) is chosen)


def name_of(saved: dict) -> str:
    """The model of a checkpoint. The stock scaffold calls all networks "simplenet": its files tell by their tensors."""
    if "settings" in saved and saved["model_arch"] in MODEL_NAMES:
        return saved["model_arch"]
    if "pos_embed" in saved["state_dict"]:
        return "vit"
    return "resnet18" if "layer4.1.bn2.running_var" in saved["state_dict"] else default_model_name()


def build(name: str, num_classes: int, image_size: tuple[int, int], custom_conv: str | None = None,
          pretrained: bool = False, weights: str | None = None) -> nn.Module:
    """Make the network `name`, one of MODEL_NAMES.

    `custom_conv` builds it from the student's convolution ("unfold") or from ours ("flat"). `pretrained` starts a
    resnet18 from ImageNet, from the file `weights` if given, else from torchvision's download. Raises BadInput if
    something is missing.
    """
    if name == "resnet18":
        return build_resnet18(num_classes, pretrained, weights)
    make = from_student(STUDENT_MODELS[name])
    if name == "vit":
        return make(**accepted(make, img_size=image_size[0] if len(set(image_size)) == 1 else image_size,
                               num_classes=num_classes))
    return make(conv_op=conv_op(custom_conv), num_classes=num_classes)


CUSTOM_CONVS = ("unfold", "flat")


def conv_op(custom_conv: str | None) -> type[nn.Module]:
    """The convolution that --use-custom-conv names; nn.Conv2d without it."""
    if custom_conv == "unfold":
        return from_student("CustomConv2d")
    if custom_conv == "flat":
        return of_the_solution("flat_conv", "--use-custom-conv flat").FlatConv2d
    return nn.Conv2d


def build_resnet18(num_classes: int, pretrained: bool, weights: str | None) -> nn.Module:
    """torchvision's ResNet18, its last layer new for `num_classes`. Needs no download unless `pretrained`."""
    model = resnet18()
    if weights is not None:
        load_weights(model, read_pretrained(weights), weights)
    elif pretrained:
        try:
            model.load_state_dict(ResNet18_Weights.DEFAULT.get_state_dict(progress=False, check_hash=True))
        except (URLError, OSError) as error:
            raise BadInput(f"the ImageNet weights of ResNet18 cannot be downloaded ({error}). Fetch "
                           f"{ResNet18_Weights.DEFAULT.url} where there is a network, and pass the file "
                           f"with --weights {RESNET18_FILE}") from None
    model.fc = nn.Linear(model.fc.in_features, num_classes)
    return model


def read_pretrained(path: str, url: str = ResNet18_Weights.DEFAULT.url) -> dict:
    """A bare state_dict from disk, without unpickling objects; `url` is where there is one."""
    state = read(path, f"Download {url} and give its path with --weights")
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BadInput(f"--weights {path}: holds no bare state_dict; a checkpoint of this scaffold goes with --resume")
    return state


def accepted(make: Callable, **keywords) -> dict:
    """Those keywords that `make` takes: a student's network may have dropped some."""
    parameters = inspect.signature(make).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return keywords
    return {name: value for name, value in keywords.items() if name in {p.name for p in parameters}}


def student_transforms(split: str) -> Callable:
    """`get_train_transforms()` or `get_val_transforms()`; files until 2023 want the normalisation handed in."""
    make = from_student(f"get_{split}_transforms")
    wants_normalize = any(p.default is p.empty for p in inspect.signature(make).parameters.values())
    return make(transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)) if wants_normalize else make()
