"""Evaluate (-e) and attack (-a) a trained network on the validation images: tables, results.json, pictures."""

from functools import partial

import torch
from torch import nn

import models
from building import Run
from engine import evaluate, identity, mirrored
from hardware import Hardware
from metrics import summarize
from pictures import Pictures
from utils import BadInput, of_the_solution

SHEETS = {"num_steps": 10, "step_size": 0.01, "epsilon": 0.1}  # what an attack of the student's does by default

def evaluate_model(run: Run) -> None:
    """-e: top-1 and top-5 of the image alone, and of probabilities averaged with those of its mirror image."""
    views = {"image": identity, "mirrored": mirrored}
    logits, labels = evaluate(run.model, run.progress("evaluate", "val"), run.exact, views, pictures(run))
    alone = summarize(logits["image"], labels)
    averaged = summarize(sum(logits[view].softmax(dim=1) for view in views).log(), labels)
    table(run, {"the image alone": alone, "averaged with its mirror image": averaged})
    run.say(f"image alone: mean per-class accuracy {alone['mean_class_accuracy']:.2f} %, mAP {alone['mAP']:.2f} %, "
            f"loss {alone['loss']:.3f}")
    run.folder.scalars(run.args.saved["epoch"], {f"{k}_accuracy/val": alone[k] for k in ("top1", "top5")})
    run.folder.class_report(alone, run.names)
    save_results(run, {"alone": alone, "averaged_with_mirror_image": averaged})


def attack_model(run: Run) -> None:
    """-a: top-1 and top-5 on clean and on adversarial images, and the difference."""
    given = {name: getattr(run.args, name) for name in SHEETS if name in run.args.given}
    attack = models.from_student("default_attack")(nn.CrossEntropyLoss(), **given)

    def perturb(images: torch.Tensor) -> torch.Tensor:
        with attack_machine(run).autocast():
            return attack.perturb(run.model, images)

    views = {"image": identity, "adversarial": perturb}
    logits, labels = evaluate(run.model, run.progress("attack", "val"), run.exact, views, pictures(run))
    clean, attacked = (summarize(logits[view], labels) for view in views)
    difference = {k: attacked[k] - clean[k] for k in ("top1", "top5")}
    table(run, {"clean": clean, "adversarial": attacked, "difference": difference})
    changed = 100 * (logits["image"].argmax(1) != logits["adversarial"].argmax(1)).float().mean().item()
    run.say(f"predictions changed: {changed:.2f} %; loss {clean['loss']:.3f} -> {attacked['loss']:.3f}")
    if changed < 5:
        run.say("hardly any: a network that has learnt little is hard to fool; try a larger --epsilon and --step-size")
    run.folder.scalars(run.args.saved["epoch"], {f"{k}_accuracy/{name}": figures_[k] for k in ("top1", "top5") for
                                                 name, figures_ in (("val", clean), ("adversarial", attacked))})
    settings = {name: getattr(attack, name, None) for name in SHEETS}
    results = {"attack": {"name": type(attack).__name__, **settings}, "clean": clean, "adversarial": attacked,
               "difference": difference, "predictions_changed": changed}
    if run.args.self_check and run.machine.is_main:
        results["self_check"] = check_attack(run, settings)
    save_results(run, results)


def check_attack(run: Run, settings: dict) -> list[dict]:
    """--self-check: the table, printed and returned."""
    checking = of_the_solution("self_check", "--self-check")
    settings = {name: SHEETS[name] if value is None else value for name, value in settings.items()}
    images, labels = checking.sample(run.loaders["val"].dataset)
    make = partial(models.from_student("default_attack"), nn.CrossEntropyLoss())
    check = checking.SelfCheck(make, **settings, model=run.model, images=run.machine.images(images),
                               labels=run.machine.labels(labels), autocast=attack_machine(run).autocast)
    run.say(f"self-check on {len(images)} images, {settings['num_steps']} steps of {settings['step_size']:g}, epsilon "
            f"{settings['epsilon']:g}")
    lines = []
    for line in check.run():
        run.say(str(line))
        lines.append(vars(line))
    run.say(f"{sum(line['passed'] for line in lines)} of {len(lines)} passed")
    return lines


def attack_machine(run: Run) -> Hardware:
    """What an attack computes in: the signs of gradients need no fp32 (benchmarks/bench_attack.py), but in fp16 small
    ones would be zero."""
    return run.exact if run.machine.amp == "fp16" else run.machine


def pictures(run: Run) -> Pictures | None:
    """The -v part, as far as the student's file has what it takes."""
    if not run.args.vis:
        return None
    try:
        explain = models.from_student("default_attention")(nn.CrossEntropyLoss()).explain
        overlay = models.from_student("default_visfunction")
    except BadInput as missing:
        run.say(f"note: no saliency maps: {missing}")
        explain = overlay = None
    return Pictures(run.folder, run.model, run.names, run.args.print_freq, explain, overlay)


def table(run: Run, rows: dict[str, dict]) -> None:
    run.say(f"{'':32}  top-1   top-5")
    for name, figures_ in rows.items():
        run.say(f"{name:32}{figures_['top1']:7.2f} {figures_['top5']:7.2f}")


def save_results(run: Run, results: dict) -> None:
    run.folder.json("results", {"mode": run.args.mode, "model": run.args.model, "checkpoint": str(run.args.resume),
                                "data": str(run.args.data), "classes": run.names, **results})
    if run.machine.is_main:
        run.say(f"results: {run.folder.path / 'results.json'}" + (", pictures beside it" if run.args.vis else ""))
