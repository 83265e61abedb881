"""One row per image: original, ten times the noise, adversarial image, saliency, class activation map.

The picture at the top of the README. The images are ones that the network classifies correctly and the attack fools.
"""

import argparse

import torch
import torch.nn.functional as F
from matplotlib import colormaps
from torch import Tensor, nn

from extras import explain
from labs import common
from labs.cs771 import noise
from labs.trained import Trained, open_trained
from libs import networks, plots
from utils import BadInput, denormalize, spread

HEADS = "original", "10 x noise", "adversarial", "saliency", "class activation map"


def get_args_parser() -> argparse.ArgumentParser:
    return noise.get_args_parser("gallery", __doc__, count=2)


def run(args: argparse.Namespace) -> None:
    threat = common.threat_of(args)
    network, = open_trained(args, [args.resume])
    adversarial, attacker = network.adversarial(threat, args.reference)
    before, after = network.logits().softmax(1), network.logits(adversarial).softmax(1)
    fooled = ((before.argmax(1) == network.labels) & (after.argmax(1) != network.labels)).nonzero()[:, 0]
    if not len(fooled):
        raise BadInput(f"{args.resume}: the attack fools none of the {len(before)} images that the network classifies "
                       "correctly; take a larger --epsilon and --step-size")
    fooled = fooled[before[fooled].amax(1).argsort(descending=True)]  # the most confident come first
    chosen = fooled[spread(network.labels[fooled], args.count)]
    images, noisy = network.images[chosen], adversarial[chosen]
    columns = pictures(network, images, noisy)
    names = [[f"{network.class_names[p.argmax()]} {p.max():.0%}" for p in probabilities[chosen]]
             for probabilities in (before, after)]
    rows = [{"true": network.class_names[label], "before": b, "after": a}
            for label, b, a in zip(network.labels[chosen], *names)]
    change = 255 * (columns[2] - columns[0]).abs().flatten(1).amax(1)
    captions = [(b, f"at most {c:.0f} of 255 levels", a, "", "") for b, a, c in zip(*names, change)]
    figure = plots.photo_rows(list(zip(*columns)), captions, HEADS)
    common.publish(args, "gallery", rows, {"gallery": figure}, threat=vars(threat), attacked_by=attacker)


def pictures(network: Trained, images: Tensor, adversarial: Tensor) -> list[Tensor]:
    """The five columns, each N,3,H,W in [0, 1]."""
    clean, attacked = denormalize(images), denormalize(adversarial)
    inputs = network.hardware.images(images)
    saliency = networks.from_student("default_attention")(nn.CrossEntropyLoss()).explain(network.model, inputs).cpu()
    overlay = networks.from_student("default_visfunction")
    salient = torch.stack([overlay(x[None], vis_output=m[None]) for x, m in zip(images, saliency)])
    maps = explain.class_activation_maps(network.model, inputs)[0][:, None].cpu()
    maps = F.interpolate(maps, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    heat = torch.from_numpy(colormaps["magma"](explain.stretched(maps).numpy())[..., :3]).permute(0, 3, 1, 2).float()
    return [clean, (0.5 + 10 * (attacked - clean)).clamp(0, 1), attacked, salient, 0.5 * clean + 0.5 * heat]
