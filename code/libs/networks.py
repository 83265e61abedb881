"""Networks by name, and everything else that main.py takes from `student_code`, whichever year that file is from."""

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import torch
from torch import nn
from torchvision.models import ResNet18_Weights, resnet18

import custom_transforms as transforms
import student_code
from libs.checkpoint import load_weights, read
from utils import IMAGENET_MEAN, IMAGENET_STD, BadInput

# All networks by the name that --model takes and checkpoints hold -> module:attribute. Those of a lab are trained by
# that lab; its module has build(name, num_classes) and VAL, its validation transform.
NETWORKS = {
    "simplenet": "student_code:SimpleNet", "adv-simplenet": "student_code:AdvSimpleNet",
    "customnet": "student_code:CustomNet", "msn": "student_code:MultiScaleNet", "residual": "student_code:ResidualNet",
    "vit": "student_code:default_vit_model", "default-cnn": "student_code:default_cnn_model",
    "resnet18": "torchvision.models:resnet18",
    "cifar-resnet": "labs.cnn_hw3.cifar_resnet:build", "mish-plain": "labs.cs5787.mish_cnn:build",
    "mish-batchnorm": "labs.cs5787.mish_cnn:build", "mish-better": "labs.cs5787.mish_cnn:build"}
MODEL_NAMES = tuple(name for name, place in NETWORKS.items() if not place.startswith("labs."))
RESNET18_FILE = Path(ResNet18_Weights.DEFAULT.url).name


# --------------------------------------------------------------------- student_code, and what may be missing


def from_student(name: str):
    """An attribute of student_code. Raises BadInput if that file, perhaps of another year, does not have it."""
    for known in (name, *FORMER_NAMES.get(name, ())):
        if hasattr(student_code, known):
            return getattr(student_code, known)
    raise BadInput(f"{student_code.__file__}: has no {name}, which is needed here")


FORMER_NAMES = {"default_cnn_model": ("default_model",)}  # in files of 2019 to 2021


def import_extra(module: str, flag: str) -> ModuleType:
    """A module of extras/, which the starter does not have. Raises BadInput naming the `flag` that needs it."""
    try:
        return importlib.import_module(f"extras.{module}")
    except ModuleNotFoundError as error:
        if error.name not in ("extras", f"extras.{module}"):
            raise
        raise BadInput(f"{flag} needs extras/{module}.py, which belongs to the reference solution, not to the "
                       "starter") from None


def student_transforms(split: str) -> Callable:
    """`get_train_transforms()` or `get_val_transforms()`; files until 2023 are given the normalisation.

    Files of 2019 to 2021 have no validation transforms: their driver resized to 160x160, without a crop.
    """
    normalize = transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)
    if split == "val" and not hasattr(student_code, "get_val_transforms") and hasattr(student_code, "default_model"):
        return transforms.Compose([transforms.Scale((160, 160)), transforms.ToTensor(), normalize])
    make = from_student(f"get_{split}_transforms")
    wants_normalize = any(p.default is p.empty for p in inspect.signature(make).parameters.values())
    return make(normalize) if wants_normalize else make()


def resized_view(pixels: int) -> Callable:
    """The student's validation transforms with the image resized to `pixels`, without a margin to crop off.

    Raises BadInput if they do not end with the ToTensor and Normalize of custom_transforms.
    """
    steps = getattr(student_transforms("val"), "transforms", [])[-2:]
    if [type(step) for step in steps] != [transforms.ToTensor, transforms.Normalize]:
        raise BadInput(f"--view {pixels}: get_val_transforms of {student_code.__file__} has to end with ToTensor and "
                       "Normalize")
    return transforms.Compose([transforms.Scale(pixels), transforms.CenterCrop(pixels), *steps])


# ---------------------------------------------------------------------------------------------- names


def _student_class(name: str) -> str | None:
    module, attribute = NETWORKS[name].split(":")
    return attribute if module == "student_code" else None


def default_model_name() -> str:
    """The name of student_code's `default_cnn_model`; "default-cnn" for a class that has no name of its own."""
    chosen = from_student("default_cnn_model")
    named = (name for name in MODEL_NAMES
             if (attribute := _student_class(name)) and getattr(student_code, attribute, None) is chosen)
    return next(named, "default-cnn")


def name_of(saved: dict) -> str:
    """The network of a checkpoint. The stock scaffold writes "simplenet" for all; its tensors tell them apart."""
    if "settings" in saved and saved["model_arch"] in NETWORKS:
        return saved["model_arch"]
    if "pos_embed" in saved["state_dict"]:
        return "vit"
    return "resnet18" if "layer4.1.bn2.running_var" in saved["state_dict"] else default_model_name()


def lab_of(saved: dict) -> ModuleType | None:
    """The lab that trained a checkpoint; None if it was main.py."""
    module = NETWORKS.get(saved["model_arch"], "").partition(":")[0]
    return importlib.import_module(module) if module.startswith("labs.") else None


def convolution_of(settings: dict) -> str | None:
    """--use-custom-conv of a checkpoint's settings; older files have True for what is called "unfold" now."""
    return {True: "unfold", False: None}.get(settings.get("use_custom_conv"), settings.get("use_custom_conv"))


# ------------------------------------------------------------------------------------------ construction


def build(name: str, num_classes: int, image_size: tuple[int, int], custom_conv: str | None = None,
          pretrained: bool = False, weights: str | None = None) -> nn.Module:
    """Construct the network `name`, one of MODEL_NAMES, for images of `image_size` (height, width).

    `custom_conv` replaces its convolutions: "unfold" by the student's, "flat" by extras/flat_conv.py. `pretrained`
    starts a resnet18 from ImageNet weights: the file `weights`, or torchvision's download. Raises BadInput.
    """
    if name == "resnet18":
        return build_resnet18(num_classes, pretrained, weights)
    make = from_student(_student_class(name))
    if name == "vit":
        return make(**accepted(make, img_size=image_size[0] if len(set(image_size)) == 1 else image_size,
                               num_classes=num_classes))
    return make(conv_op=conv_op(custom_conv), num_classes=num_classes)


CUSTOM_CONVS = ("unfold", "flat")


def conv_op(custom_conv: str | None) -> type[nn.Module]:
    """The convolution of --use-custom-conv; nn.Conv2d without it."""
    if custom_conv == "unfold":
        return from_student("CustomConv2d")
    if custom_conv == "flat":
        return import_extra("flat_conv", "--use-custom-conv flat").FlatConv2d
    return nn.Conv2d


def build_resnet18(num_classes: int, pretrained: bool, weights: str | None) -> nn.Module:
    """torchvision's ResNet18 with a new last layer of `num_classes`. Downloads only if `pretrained` without `weights`.

    Raises BadInput if the weights cannot be had.
    """
    model = resnet18()
    if weights is not None:
        load_weights(model, read_pretrained(weights), weights)
    elif pretrained:
        try:
            model.load_state_dict(ResNet18_Weights.DEFAULT.get_state_dict(progress=False, check_hash=True))
        except (URLError, OSError) as error:
            raise BadInput(f"the ImageNet weights of ResNet18 cannot be downloaded ({error}). Download "
                           f"{ResNet18_Weights.DEFAULT.url} elsewhere, and pass the file with --weights "
                           f"{RESNET18_FILE}") from None
    model.fc = nn.Linear(model.fc.in_features, num_classes)
    return model


def read_pretrained(path: str, url: str = ResNet18_Weights.DEFAULT.url) -> dict:
    """A plain state_dict from disk. Raises BadInput, naming `url`."""
    state = read(path, f"Download {url} and give its path with --weights")
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BadInput(f"--weights {path}: is not a plain state_dict; a checkpoint of this scaffold goes with --resume")
    return state


def accepted(make: Callable, **keywords) -> dict:
    """Those keywords that `make` accepts: a student's constructor may lack some."""
    parameters = inspect.signature(make).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return keywords
    return {name: value for name, value in keywords.items() if name in {p.name for p in parameters}}
