"""Transfer learning: a linear classifier on the features of a trained network. CS 5787 Homework 2, problem 2.

The features are the L2-normalised inputs of the last layer. The classifier is a logistic regression whose C is chosen
by cross-validation on the training images. Features are cached in --logs. Data: Oxford-IIIT Pet (torchvision's folder)
or any folder in MiniPlaces' layout; network: torchvision's with ImageNet weights, or with --resume one of main.py's.
"""

import argparse
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Subset

from custom_dataloader import MiniPlacesLoader, open_split
from extras import attacks, explain
from labs import common
from labs.cs5787 import imagenet
from libs import checkpoint, networks, plots
from libs.arguments import number
from libs.decoded_cache import key_of
from libs.hardware import Hardware
from libs.loaders import make_loader
from libs.metrics import summarize
from libs.run import build_model
from utils import BadInput, spaced, writing


@dataclass
class CropArray:
    """Transform of an H,W,3 array; a class, since lambdas cannot be pickled for worker processes."""

    crop: Callable

    def __call__(self, image):
        return self.crop(Image.fromarray(image))


def open_feature_extractor(args) -> tuple[nn.Module, object, str]:
    """The network, its transform of an H,W,3 array, and a name that identifies its weights."""
    if args.resume:
        saved, transform = checkpoint.load(args.resume), networks.student_transforms("val")
        if networks.lab_of(saved):
            raise BadInput(f"{args.resume}: was trained by a lab ({saved['model_arch']}); --resume takes main.py's")
        name = networks.name_of(saved)
        classes = next(reversed([value for key, value in saved["state_dict"].items() if key.endswith("bias")])).shape[0]
        example = transform(open_split(args.data, "val")[0][0][0])[None]
        model = build_model(name, classes, example, saved=saved, path=args.resume).to(args.device)
        file = Path(args.resume)
    else:
        network = imagenet.open_network(args)
        model, name, file = network.model, args.network, Path(args.weights) if args.weights else None
        transform = CropArray(network.crop)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file else "imagenet"
    return model, transform, f"{name}-{digest}"


def extract_features(args, model: nn.Module, transform, split: str) -> tuple[Tensor, Tensor, list[str]]:
    """L2-normalised features N,D, labels N, class names."""
    dataset, names = open_split(args.data, split, transform)
    if getattr(dataset, "check_images", None):
        dataset.check_images()
    if args.quick:
        dataset = Subset(dataset, spaced(len(dataset), 200))
    # SqueezeNet ends in a convolution and global average pooling, so its features are pooled here.
    last = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    hw, features, labels = Hardware(args.device), [], []
    with attacks.frozen(model), torch.no_grad(), explain.record_activations([last], lambda x, _: x[0]) as inputs:
        for images, truth in make_loader(dataset, args.batch_size, workers=args.workers):
            model(hw.images(images))
            pooled = inputs[last] if isinstance(last, nn.Linear) else inputs[last].mean((2, 3))
            features.append(F.normalize(pooled.flatten(1).float(), dim=1).cpu())
            labels.append(truth)
    return torch.cat(features), torch.cat(labels), names


def transform_settings(transform) -> list:
    """Names and settings of a transform, for the cache key; its repr may contain memory addresses."""
    steps = getattr(transform, "transforms", [transform])
    return [(type(step).__name__, sorted(getattr(step, "__dict__", {}).items())) for step in steps]


def cached_features(args, model, transform, name: str, split: str) -> tuple[Tensor, Tensor, list[str]]:
    """`extract_features`, cached in --logs."""
    dataset, _ = open_split(args.data, split)
    images = key_of(dataset) if isinstance(dataset, MiniPlacesLoader) else Path(args.data).resolve()
    key = hashlib.sha256(f"{images} {transform_settings(transform)} {args.quick}".encode()).hexdigest()[:12]
    file = args.logs / f"features-{name}-{key}-{split}.pt"
    if file.exists():
        return tuple(checkpoint.read(file, "Delete it to recompute it").values())
    found = extract_features(args, model, transform, split)
    file.parent.mkdir(parents=True, exist_ok=True)
    with writing(file) as part:
        torch.save(dict(zip(("features", "labels", "names"), found)), part)
    return found


def fit(features: Tensor, labels: Tensor):
    """Logistic regression, C chosen by cross-validation. Raises BadInput for too few images or classes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    folds = min(3, int(labels.bincount()[labels.unique()].min()))
    if len(labels.unique()) < 2:
        raise BadInput("transfer: all training images are of one class; a classifier needs two")
    if folds < 2:
        raise BadInput("transfer: a class has only one training image; cross-validation needs two of each")
    grid = {"C": [1.0, 10.0, 100.0, 1000.0, 10000.0]}
    return GridSearchCV(LogisticRegression(max_iter=2000), grid, cv=folds).fit(features.numpy(), labels.numpy())


def get_args_parser() -> argparse.ArgumentParser:
    parser = common.parser("transfer", __doc__)
    imagenet.add_flags(parser)
    parser.add_argument("--resume", metavar="PATH", help="features of this checkpoint of main.py, instead of --network")
    parser.add_argument("-b", "--batch-size", type=common.COUNT, default=64, metavar="N",
                        help="images per batch (default: 64)")
    parser.add_argument("-j", "--workers", type=number(int, 0), default=2, metavar="N",
                        help="worker processes of the data loader (default: 2)")
    parser.add_argument("--quick", action="store_true", help="200 images of each split")
    parser.add_argument("--logs", type=Path, default=common.ROOT / "logs/labs", metavar="DIR",
                        help="folder of the cached features (default: logs/labs)")
    return parser


def run(args: argparse.Namespace) -> None:
    model, transform, name = open_feature_extractor(args)
    train, val = (cached_features(args, model, transform, name, split) for split in ("train", "val"))
    search = fit(*train[:2])
    scores = torch.full((len(val[1]), len(train[2])), -1e9)
    scores[:, search.classes_] = torch.from_numpy(search.best_estimator_.predict_log_proba(val[0].numpy())).float()
    metrics = summarize(scores, val[1])
    rows = [{"network": name.rpartition("-")[0], "features": train[0].shape[1], "training images": len(train[1]),
             "test images": len(val[1]), "classes": len(train[2]), "C": search.best_params_["C"],
             "cross-validated": 100 * search.best_score_, "top-1": metrics["top1"],
             "mean per-class accuracy": metrics["mean_class_accuracy"], "mAP": metrics["mAP"]}]
    picture = plots.confusion(metrics["confusion"], val[2])
    common.publish(args, "transfer", rows, {"transfer_confusion": picture},
                   class_accuracy=dict(zip(val[2], metrics["class_accuracy"])))
