"""What a network looks at: saliency, class activation maps, feature maps, filters. Arrays, not pictures.

Images are normalised N,C,H,W. The network is bit for bit what it was afterwards, hooks and modes included, also after
an error.
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
    """N,1,H,W: how much each label's logit reacts to each pixel, the largest over the channels (Simonyan et al. 2014).

    `labels` N are the predicted ones by default. `GradAttention`, the sheet's, takes the loss of the prediction
    instead: its map is fainter, the surer the network is.
    """
    images = images.detach().clone().requires_grad_(True)
    with frozen(model), torch.enable_grad():
        logits = model(images)
        gradient, = torch.autograd.grad(_of_labels(logits, labels).sum(), images)
    return gradient.abs().amax(dim=1, keepdim=True)


def _of_labels(logits: Tensor, labels: Tensor | None) -> Tensor:
    labels = logits.argmax(1) if labels is None else labels
    return logits.gather(1, labels[:, None])[:, 0]


# ------------------------------------------------------------------------------------------ looking inside


@contextmanager
def recorded(modules: Iterable[nn.Module], take: Callable = lambda given, out: out) -> Iterator[dict]:
    """{module: what `take(inputs, output)` makes of its last call}; the hooks come off when the block ends.

    An in-place layer behind a module would change what was recorded, so tensors are copied; the copy keeps its place in
    the graph of gradients.
    """
    seen: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, given: tuple, out) -> None:
        tensor = take(given, out)
        if isinstance(tensor, Tensor):
            seen[module] = tensor.clone()

    hooks = [module.register_forward_hook(note) for module in dict.fromkeys(modules)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def convolutions(model: nn.Module) -> dict[str, nn.Module]:
    """The layers with a weight Co,Ci,K,K, by name, in the order in which they were made: nn.Conv2d and our own."""
    return {name: module for name, module in model.named_modules()
            if isinstance(weight := getattr(module, "weight", None), Tensor) and weight.dim() == 4}


def at_depths(names: Sequence[str], count: int = 3) -> list[str]:
    """`count` of the names at even distances, the first and the last among them."""
    places = torch.linspace(0, len(names) - 1, min(count, len(names))).round().long().tolist()
    return [names[place] for place in places]


def feature_maps(model: nn.Module, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """{layer: N,C,h,w}, the output of each of the layers, which are names of modules.

    Raises BadInput for a name that the model does not have, or a layer whose output is no N,C,h,w.
    """
    modules = dict(model.named_modules())
    if missing := [name for name in layers if name not in modules]:
        some = ", ".join(at_depths([*modules][1:], 8))
        raise BadInput(f"the network has no layer {missing[0]}; some that it has: {some}")
    with frozen(model), torch.no_grad(), recorded(modules[name] for name in layers) as seen:
        model(images)
    maps = {name: seen.get(modules[name]) for name in layers}
    for name, found in maps.items():
        if found is None or found.dim() != 4:
            raise BadInput(f"layer {name} gives no feature maps N,C,h,w, but "
                           f"{'nothing: it is not run' if found is None else tuple(found.shape)}; "
                           f"convolutions are {', '.join(at_depths([*convolutions(model)], 5))}")
    return maps


def most_different(maps: Tensor, count: int) -> list[int]:
    """Channels of C,h,w to look at, always the same ones: that with the largest spread first, then in turn the one that
    is least like those chosen before."""
    flat = maps.flatten(1).float()
    flat = flat - flat.mean(1, keepdim=True)
    norm = flat.norm(dim=1)
    alike = (F.normalize(flat, dim=1) @ F.normalize(flat, dim=1).t()).abs()
    chosen = [int(norm.argmax())]
    while len(chosen) < min(count, len(maps)):
        worst = alike[chosen].amax(0)
        worst[norm < 1e-3 * norm.max()] = 2.0  # dead channels last
        worst[chosen] = 3.0
        chosen.append(int(worst.argmin()))
    return chosen


def first_filters(model: nn.Module) -> Tensor:
    """The first layer's filters, N,3,K,K in [0, 1]: each stretched to its own full contrast, over all of its channels.

    Sheet 002, problem 3: the smallest value becomes 0 and the largest 1. Raises BadInput without a layer that sees RGB.
    """
    weights = [layer.weight for layer in convolutions(model).values() if layer.weight.shape[1] == 3]
    if not weights:
        raise BadInput(f"{type(model).__name__} has no convolution with three input channels, so no filters in RGB")
    return stretched(weights[0].detach().float())


def stretched(maps: Tensor) -> Tensor:
    """N,... -> the same, each of the N with its smallest value at 0 and its largest at 1; a constant one becomes 0."""
    flat = maps.flatten(1) - maps.flatten(1).amin(1, keepdim=True)
    return (flat / flat.amax(1, keepdim=True).clamp_min(1e-12)).view_as(maps)


# -------------------------------------------------------------------------------- class activation maps


def class_activation_maps(model: nn.Module, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Maps N,h,w and labels N: where in the image the evidence for each label lies (CAM, Zhou et al. 2016).

    For networks that end in feature maps, their means over the image, and one linear layer, as SimpleNet, torchvision's
    ResNets and MultiScaleNet do, whose four scales are brought to the finest and added up. Then the mean of a map plus
    the label's bias *is* its logit. `labels` are the predicted ones by default. Raises BadInput for other networks.
    """
    linear, features, logits = _last_maps(model, images)
    labels = logits.argmax(1) if labels is None else labels
    size = features[0].shape[2:]
    maps = torch.zeros(len(images), *size, device=images.device)
    for feature, weights in zip(features, linear.weight.detach()[labels].split([f.shape[1] for f in features], dim=1)):
        part = torch.einsum("nc,nchw->nhw", weights, feature)
        maps += _grown(part, size)
    return maps, labels


def _grown(maps: Tensor, size: Sequence[int]) -> Tensor:
    """N,h,w at another size, each with the mean it had."""
    grown = F.interpolate(maps[:, None], size=tuple(size), mode="nearest")[:, 0]
    return grown + (maps.mean((1, 2)) - grown.mean((1, 2)))[:, None, None]


def _last_maps(model: nn.Module, images: Tensor) -> tuple[nn.Linear, list[Tensor], Tensor]:
    """The last linear layer, the feature maps whose means it sees, the finest first, and the logits.

    They are found by what they are, not by name: going from the output back, the modules whose outputs' means make up
    the layer's input.
    """
    modules = list(model.modules())
    linear = next((module for module in reversed(modules) if isinstance(module, nn.Linear)), None)
    with (frozen(model), torch.no_grad(), recorded(modules) as outputs,
          recorded([linear] if linear else [], lambda given, _: given[0]) as inputs):
        logits = model(images)
    maps = [out for module, out in outputs.items() if out.dim() == 4 and min(out.shape[2:]) > 1 and module is not model]
    found, rest = [], inputs.get(linear)
    while rest is not None and rest.dim() == 2 and rest.shape[1]:
        fits = [m for m in maps if m.shape[1] <= rest.shape[1]
                and torch.allclose(m.mean((2, 3)), rest[:, -m.shape[1] :], rtol=1e-3, atol=1e-4)]
        if not fits:
            break
        found.insert(0, fits[-1])
        rest = rest[:, : -fits[-1].shape[1]]
    if rest is None or rest.dim() != 2 or rest.shape[1]:
        raise BadInput(f"{type(model).__name__} has no class activation maps: they need one linear layer on the means "
                       "of feature maps, as in SimpleNet, MultiScaleNet and ResNet; take saliency instead")
    return linear, found, logits


# -------------------------------------------------------------------------------- vision transformers


def token_saliency(model: nn.Module, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """N,h,w: how much each label's logit reacts to each token, as the length of the gradient by its embedding.

    No attention rollout: that would follow the attention weights, and says nothing of what the values carry. Needs a
    network with a PatchEmbed, whose output is the grid of tokens; BadInput without.
    """
    embed = next((module for module in model.modules() if isinstance(module, PatchEmbed)), None)
    if embed is None:
        raise BadInput(f"{type(model).__name__} has no PatchEmbed, so no tokens; take saliency")
    tokens: list[Tensor] = []

    def keep(module: nn.Module, given: tuple, out: Tensor) -> Tensor:
        tokens.append(out.detach().requires_grad_(True))
        return tokens[-1]

    hook = embed.register_forward_hook(keep)
    try:
        with frozen(model), torch.enable_grad():
            gradient, = torch.autograd.grad(_of_labels(model(images), labels).sum(), tokens)
    finally:
        hook.remove()
    return gradient.norm(dim=-1)
