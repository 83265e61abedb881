"""Evaluate (-e) and attack (-a) a checkpoint on the validation images: tables, results.json, images."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from libs import networks, plots
from libs.attack_monitor import AttackMonitor
from libs.engine import evaluate, horizontal_flip, identity
from libs.metrics import summarize
from libs.run import Run
from libs.run_folder import RunFolder
from utils import ASSIGNMENT_ATTACK, BadInput, image_grid, spread


def evaluate_model(run: Run) -> None:
    """-e: top-1 and top-5 without and with horizontal-flip test-time augmentation, and the same at --view."""
    alone, averaged = with_and_without_flip(run, "val", saver(run))
    table = {"single view": alone, "with horizontal flip averaged": averaged}
    results = {"alone": alone, "averaged_with_mirror_image": averaged}
    if run.args.view:
        alone_there, averaged_there = with_and_without_flip(run, "view")
        table |= {f"at {run.args.view} pixels": alone_there,
                  f"at {run.args.view} pixels, flip averaged": averaged_there}
        results["view"] = {"pixels": run.args.view, "alone": alone_there, "averaged_with_mirror_image": averaged_there}
    print_table(run, table)
    run.say(f"single view: mean per-class accuracy {alone['mean_class_accuracy']:.2f} %, mAP {alone['mAP']:.2f} %, "
            f"loss {alone['loss']:.3f}")
    run.folder.scalars(run.saved["epoch"], {f"{k}_accuracy/val": alone[k] for k in ("top1", "top5")})
    run.folder.class_report(alone, run.class_names)
    save_results(run, results)


def with_and_without_flip(run: Run, split: str, on_batch: Callable | None = None) -> tuple[dict, dict]:
    """`summarize` of the images alone, and of the mean of their probabilities and those of their mirror images."""
    views = {"image": identity, "flipped": horizontal_flip}
    logits, labels = evaluate(run.model, run.progress("evaluate", split), run.hardware, views, on_batch)
    averaged = sum(logits[view].softmax(dim=1) for view in views).log()
    return summarize(logits["image"], labels), summarize(averaged, labels)


def attack_model(run: Run) -> None:
    """-a: top-1 and top-5 on clean and on adversarial images, and the difference."""
    given = {name: getattr(run.args, name) for name in ASSIGNMENT_ATTACK if name in run.args.given}
    attack = networks.from_student("default_attack")(nn.CrossEntropyLoss(), **given)
    monitor = AttackMonitor(attack, run.model)

    def perturb(images: Tensor) -> Tensor:
        with run.hardware.autocast("attack"):
            return monitor.perturb(images)

    views = {"image": identity, "adversarial": perturb}
    logits, labels = evaluate(run.model, run.progress("attack", "val"), run.hardware, views, saver(run))
    clean, adversarial = (summarize(logits[view], labels) for view in views)
    difference = {k: adversarial[k] - clean[k] for k in ("top1", "top5")}
    print_table(run, {"clean": clean, "adversarial": adversarial, "difference": difference})
    changed = 100 * (logits["image"].argmax(1) != logits["adversarial"].argmax(1)).float().mean().item()
    run.say(f"predictions changed: {changed:.2f} %; loss {clean['loss']:.3f} -> {adversarial['loss']:.3f}")
    if changed < 5:
        run.say("hardly any: a barely trained network is hard to fool; try a larger --epsilon and --step-size")
    for note in monitor.report():
        run.say(note)
    run.folder.scalars(run.saved["epoch"], {f"{k}_accuracy/{name}": summary[k] for k in ("top1", "top5") for
                                            name, summary in (("val", clean), ("adversarial", adversarial))})
    settings = {name: getattr(attack, name, None) for name in ASSIGNMENT_ATTACK}
    results = {"attack": {"name": type(attack).__name__, **settings}, "notes": monitor.report(), "clean": clean,
               "adversarial": adversarial, "difference": difference, "predictions_changed": changed}
    if run.args.self_check and run.hardware.is_main:
        results["self_check"] = self_check(run, settings)
    save_results(run, results)


def self_check(run: Run, settings: dict) -> list[dict]:
    """--self-check: run, print and return the checks of the student's attack."""
    extra = networks.import_extra("self_check", "--self-check")
    settings = {name: ASSIGNMENT_ATTACK[name] if value is None else value for name, value in settings.items()}
    images, labels = extra.sample(run.validation)
    make = partial(networks.from_student("default_attack"), nn.CrossEntropyLoss())
    checks = extra.SelfCheck(make, **settings, model=run.model, images=run.hardware.images(images),
                             labels=run.hardware.labels(labels), autocast=partial(run.hardware.autocast, "attack"))
    run.say(f"self-check on {len(images)} images, {settings['num_steps']} steps of {settings['step_size']:g}, epsilon "
            f"{settings['epsilon']:g}")
    results = []
    for check in checks.run():
        run.say(str(check))
        results.append(vars(check))
    run.say(f"{sum(check['passed'] for check in results)} of {len(results)} passed")
    return results


def print_table(run: Run, rows: dict[str, dict]) -> None:
    run.say(f"{'':32}  top-1   top-5")
    for name, summary in rows.items():
        run.say(f"{name:32}{summary['top1']:7.2f} {summary['top5']:7.2f}")


def save_results(run: Run, results: dict) -> None:
    run.folder.json("results", {"mode": run.args.mode, "model": run.args.model, "checkpoint": str(run.args.resume),
                                "data": Path(run.args.data).name, "classes": run.class_names,
                                "left_out": run.left_out(), **results})
    if run.hardware.is_main:
        run.say(f"results: {run.folder.path / 'results.json'}" + (", images beside it" if run.args.vis else ""))


# ------------------------------------------------------------------------------------------------ images

GRID = 100  # images in a mosaic
CLOSE_UP = 6  # images in attack.png and saliency.png


def saver(run: Run) -> "ImageSaver | None":
    """For -v, with saliency if the student's file has what it takes."""
    if not run.args.vis:
        return None
    try:
        explain = networks.from_student("default_attention")(nn.CrossEntropyLoss()).explain
        overlay = networks.from_student("default_visfunction")
    except BadInput as missing:
        run.say(f"note: no saliency maps: {missing}")
        explain = overlay = None
    return ImageSaver(run.folder, run.model, run.class_names, run.args.print_freq, explain, overlay)


class ImageSaver:
    """An `on_batch` of `engine.evaluate`: mosaics of every `every`-th batch, and single images of the first one.

    Logs Image/Org_Image, Image/Adv_Image (if there is a view "adversarial") and Image/Image_Atten (if there is an
    `explain`), also under images/, and saves attack.png and saliency.png. `overlay` blends saliency N,1,H,W into
    images N,3,H,W and arranges them in a mosaic.
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
        try:
            with torch.enable_grad():  # a student's explanation expects gradients to be enabled
                return self.explain(self.model, images).detach()
        except NotImplementedError as hole:
            print(f"note: no saliency maps: {hole}", flush=True)
            self.explain = None
            return None

    def _close_up(self, seen: dict, logits: dict, labels: Tensor, saliency: Tensor | None) -> None:
        some = spread(labels[:GRID], CLOSE_UP)
        images, truth = seen["image"][some], [self.names[i] for i in labels[some]]
        captions = [f"true: {name}\n{guess}" for name, guess in zip(truth, self._captions(logits["image"][some]))]
        if "adversarial" in seen:
            after = self._captions(logits["adversarial"][some])
            self.folder.figure("attack", plots.attack_rows(images, seen["adversarial"][some], captions, after))
        if saliency is not None:
            overlay = torch.stack([self.overlay(images[i : i + 1], vis_output=saliency[some][i : i + 1])
                                   for i in range(len(images))])
            self.folder.figure("saliency", plots.overlay_rows(images, saliency[some], overlay, captions))

    def _captions(self, logits: Tensor) -> list[str]:
        confidence, guess = logits.softmax(dim=1).max(dim=1)
        return [f"predicted: {self.names[i]} {p:.0%}" for i, p in zip(guess.tolist(), confidence.tolist())]
