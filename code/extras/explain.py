"""Saliency, class activation maps, feature maps and filters, as tensors.

Images are normalised N,C,H,W. Modes and hooks of the network are restored, also after an error.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from custom_blocks import PatchEmbed
from extras.attacks import frozen
from utils import BadInput


def saliency(model: nn.Module, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """N,1,H,W: magnitude of the input gradient of each label's logit, maximum over channels (Simonyan et al. 2014).

    `labels` N are the predicted ones by default. The assignment's `GradAttention` takes the gradient of the loss, which
    vanishes as the prediction becomes confident.
    """
    images = images.detach().clone().requires_grad_(True)
    with frozen(model), torch.enable_grad():
        logits = model(images)
        gradient, = torch.autograd.grad(_label_logits(logits, labels).sum(), images)
    return gradient.abs().amax(dim=1, keepdim=True)


def _label_logits(logits: Tensor, labels: Tensor | None) -> Tensor:
    labels = logits.argmax(1) if labels is None else labels
    return logits.gather(1, labels[:, None])[:, 0]


# ----------------------------------------------------------------------------------- activations and filters


@contextmanager
def record_activations(modules: Iterable[nn.Module], select: Callable = lambda inputs, output: output
                       ) -> Iterator[dict]:
    """{module: `select(inputs, output)` of its last call}, filled by forward hooks until the block ends.

    The tensors are clones, since a following in-place layer would change them; they stay in the autograd graph.
    """
    activations: dict[nn.Module, Tensor] = {}

    def record(module: nn.Module, inputs: tuple, output) -> None:
        tensor = select(inputs, output)
        if isinstance(tensor, Tensor):
            activations[module] = tensor.clone()

    hooks = [module.register_forward_hook(record) for module in dict.fromkeys(modules)]
    try:
        yield activations
    finally:
        for hook in hooks:
            hook.remove()


def convolutions(model: nn.Module) -> dict[str, nn.Module]:
    """{name: layer} of all layers with a weight Co,Ci,K,K: nn.Conv2d and own convolutions, in definition order."""
    return {name: module for name, module in model.named_modules()
            if isinstance(weight := getattr(module, "weight", None), Tensor) and weight.dim() == 4}


def evenly_spaced(names: Sequence[str], count: int = 3) -> list[str]:
    """`count` evenly spaced names, the first and the last included."""
    places = torch.linspace(0, len(names) - 1, min(count, len(names))).round().long().tolist()
    return [names[place] for place in places]


def feature_maps(model: nn.Module, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """{layer: N,C,h,w}: outputs of the modules named in `layers`.

    Raises BadInput for an unknown name, or a layer whose output is not N,C,h,w.
    """
    modules = dict(model.named_modules())
    if missing := [name for name in layers if name not in modules]:
        some = ", ".join(evenly_spaced([*modules][1:], 8))
        raise BadInput(f"the network has no layer {missing[0]}; some of its layers: {some}")
    with frozen(model), torch.no_grad(), record_activations(modules[name] for name in layers) as outputs:
        model(images)
    maps = {name: outputs.get(modules[name]) for name in layers}
    for name, output in maps.items():
        if output is None or output.dim() != 4:
            raise BadInput(f"layer {name} does not output feature maps N,C,h,w, but "
                           f"{'nothing: it is not run' if output is None else tuple(output.shape)}; "
                           f"convolutions are {', '.join(evenly_spaced([*convolutions(model)], 5))}")
    return maps


def diverse_channels(maps: Tensor, count: int) -> list[int]:
    """Up to `count` channels of C,h,w: the one of largest variance, then always the least correlated with those chosen.
    """
    flat = maps.flatten(1).float()
    flat = flat - flat.mean(1, keepdim=True)
    norm = flat.norm(dim=1)
    correlation = (F.normalize(flat, dim=1) @ F.normalize(flat, dim=1).t()).abs()
    chosen = [int(norm.argmax())]
    while len(chosen) < min(count, len(maps)):
        highest = correlation[chosen].amax(0)
        highest[norm < 1e-3 * norm.max()] = 2.0  # dead channels last
        highest[chosen] = 3.0
        chosen.append(int(highest.argmin()))
    return chosen


def first_filters(model: nn.Module) -> Tensor:
    """The first layer's filters, N,3,K,K, each min-max normalised to [0, 1] (CS 5787 Homework 2, problem 3).

    Raises BadInput if no layer has three input channels.
    """
    weights = [layer.weight for layer in convolutions(model).values() if layer.weight.shape[1] == 3]
    if not weights:
        raise BadInput(f"{type(model).__name__} has no convolution with three input channels, so no filters in RGB")
    return stretched(weights[0].detach().float())


def stretched(maps: Tensor) -> Tensor:
    """N,... -> N,..., each of the N min-max normalised to [0, 1]; a constant one becomes 0."""
    flat = maps.flatten(1) - maps.flatten(1).amin(1, keepdim=True)
    return (flat / flat.amax(1, keepdim=True).clamp_min(1e-12)).view_as(maps)


# -------------------------------------------------------------------------------- class activation maps


def class_activation_maps(model: nn.Module, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """CAMs N,h,w and their labels N, by default the predicted ones (Zhou et al. 2016).

    For networks that end in global average pooling and one linear layer: SimpleNet, torchvision's ResNets, and
    MultiScaleNet, whose four scales are upsampled to the finest and added. The mean of a map plus the label's bias is
    the label's logit. Raises BadInput for other networks.
    """
    linear, features, logits = _pooled_features(model, images)
    labels = logits.argmax(1) if labels is None else labels
    size = features[0].shape[2:]
    maps = torch.zeros(len(images), *size, device=images.device)
    for feature, weights in zip(features, linear.weight.detach()[labels].split([f.shape[1] for f in features], dim=1)):
        part = torch.einsum("nc,nchw->nhw", weights, feature)
        maps += _upsample(part, size)
    return maps, labels


def _upsample(maps: Tensor, size: Sequence[int]) -> Tensor:
    """N,h,w at `size`, each map with its mean unchanged."""
    larger = F.interpolate(maps[:, None], size=tuple(size), mode="nearest")[:, 0]
    return larger + (maps.mean((1, 2)) - larger.mean((1, 2)))[:, None, None]


def _pooled_features(model: nn.Module, images: Tensor) -> tuple[nn.Linear, list[Tensor], Tensor]:
    """The last linear layer, the feature maps whose spatial means are its input, the finest first, and the logits.

    Found by value, from the last module back: the outputs whose means match the remaining part of the layer's input.
    """
    modules = list(model.modules())
    linear = next((module for module in reversed(modules) if isinstance(module, nn.Linear)), None)
    with (frozen(model), torch.no_grad(), record_activations(modules) as outputs,
          record_activations([linear] if linear else [], lambda inputs, _: inputs[0]) as linear_inputs):
        logits = model(images)
    maps = [out for module, out in outputs.items() if out.dim() == 4 and min(out.shape[2:]) > 1 and module is not model]
    features, pooled = [], linear_inputs.get(linear)
    while pooled is not None and pooled.dim() == 2 and pooled.shape[1]:
        matches = [m for m in maps if m.shape[1] <= pooled.shape[1]
                   and torch.allclose(m.mean((2, 3)), pooled[:, -m.shape[1] :], rtol=1e-3, atol=1e-4)]
        if not matches:
            break
        features.insert(0, matches[-1])
        pooled = pooled[:, : -matches[-1].shape[1]]
    if pooled is None or pooled.dim() != 2 or pooled.shape[1]:
        raise BadInput(f"{type(model).__name__} has no class activation maps: they need global average pooling and one "
                       "linear layer, as in SimpleNet, MultiScaleNet and ResNet; take saliency instead")
    return linear, features, logits


# -------------------------------------------------------------------------------- vision transformers


def token_saliency(model: nn.Module, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """N,h,w: L2 norm of the gradient of each label's logit with respect to each token embedding.

    Unlike attention rollout it takes the values into account, not only the attention weights. Raises BadInput for a
    network without PatchEmbed.
    """
    embed = next((module for module in model.modules() if isinstance(module, PatchEmbed)), None)
    if embed is None:
        raise BadInput(f"{type(model).__name__} has no PatchEmbed, so no tokens; take saliency instead")
    tokens: list[Tensor] = []

    def make_leaf(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        tokens.append(output.detach().requires_grad_(True))
        return tokens[-1]

    hook = embed.register_forward_hook(make_leaf)
    try:
        with frozen(model), torch.enable_grad():
            gradient, = torch.autograd.grad(_label_logits(model(images), labels).sum(), tokens)
    finally:
        hook.remove()
    return gradient.norm(dim=-1)
