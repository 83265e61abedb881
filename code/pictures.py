"""What -v shows while -e or -a goes over the validation images: grids, the attack close up, saliency."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import figures
from run_folder import RunFolder
from utils import image_grid

GRID = 100  # images to a grid
CLOSE_UP = 6  # images in the figures that show single ones


class Pictures:
    """An `on_batch` for `engine.evaluate`: every `every`-th batch as grids, the first one also close up.

    Writes Image/Org_Image, Image/Adv_Image (where there is a view "adversarial") and Image/Image_Atten (where
    there is an `explain`) to TensorBoard and images/, and attack.png and saliency.png to the run folder.
    `overlay` draws N,1,H,W saliency over N,3,H,W images and joins `n_rows` of them to a line.
    """

    def __init__(self, folder: RunFolder, model: nn.Module, names: Sequence[str], every: int,
                 explain: Callable | None = None, overlay: Callable | None = None):
        self.folder, self.model, self.names, self.every = folder, model, names, every
        self.explain, self.overlay = explain, overlay

    def __call__(self, batch: int, seen: dict[str, Tensor], logits: dict[str, Tensor], labels: Tensor) -> None:
        if not self.folder.active or batch % self.every:
            return
        original = seen["image"][:GRID]
        self.folder.image("Org_Image", image_grid(original), batch)
        if "adversarial" in seen:
            self.folder.image("Adv_Image", image_grid(seen["adversarial"][:GRID]), batch)
        saliency = self._saliency(original)
        if saliency is not None:
            self.folder.image("Image_Atten", self.overlay(original, vis_output=saliency), batch)
        if batch == 0:
            self._close_up(seen, logits, labels, saliency)

    def _saliency(self, images: Tensor) -> Tensor | None:
        if self.explain is None:
            return None
        with torch.enable_grad():  # a student's explanation expects to find gradients switched on
            return self.explain(self.model, images).detach()

    def _close_up(self, seen: dict, logits: dict, labels: Tensor, saliency: Tensor | None) -> None:
        some = spread(labels[:GRID], CLOSE_UP)
        images, truth = seen["image"][some], [self.names[i] for i in labels[some]]
        captions = [f"true: {name}\n{guess}" for name, guess in zip(truth, self._captions(logits["image"][some]))]
        if "adversarial" in seen:
            after = self._captions(logits["adversarial"][some])
            self.folder.figure("attack", figures.attack_rows(images, seen["adversarial"][some], captions, after))
        if saliency is not None:
            overlay = torch.stack([self.overlay(images[i : i + 1], vis_output=saliency[some][i : i + 1])
                                   for i in range(len(images))])
            self.folder.figure("saliency", figures.overlay_rows(images, saliency[some], overlay, captions))

    def _captions(self, logits: Tensor) -> list[str]:
        confidence, guess = logits.softmax(dim=1).max(dim=1)
        return [f"seen: {self.names[i]} {p:.0%}" for i, p in zip(guess.tolist(), confidence.tolist())]


def spread(labels: Tensor, count: int) -> Tensor:
    """Indices of up to `count` items, of as many different labels as there are: the first of each, then the rest."""
    nth = [(labels[:i] == label).sum().item() for i, label in enumerate(labels)]
    return torch.tensor(sorted(range(len(labels)), key=lambda i: (nth[i], i))[:count], device=labels.device)
