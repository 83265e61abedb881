"""The loop and the learning rate, fault by fault of the stock scaffold."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import CODE
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from libs.engine import evaluate, horizontal_flip, identity, train_one_epoch
from libs.hardware import Hardware, Precision, pick_device, pick_memory_format, pick_precision
from libs.metrics import confusion_matrix, mean_average_precision, per_class_accuracy, summarize, top_k
from libs.progress import Progress, clock
from libs.training_state import WarmupCosine
from utils import AverageMeter, BadInput

CPU = Hardware(torch.device("cpu"))


def rates(epochs, warmup, steps=10, **state):
    schedule = WarmupCosine(epochs, warmup, steps)
    vars(schedule).update(state)
    return [schedule(step) for step in range(epochs * steps)]


def test_warm_up_then_cosine():
    """The 2019 report, equations (4) and (5)."""
    r = rates(20, 5)
    assert r[:50] == pytest.approx([(i + 1) / 50 for i in range(50)])
    assert r[50:] == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 150)) for i in range(150)])
    assert WarmupCosine(20, 5, 10)(200) == 0


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 5), (1, 0), (2, 5), (90, 0), (3, 0.5)])
def test_every_length_peaks_at_the_rate_and_no_step_is_zero(epochs, warmup):
    """Fault 4: --warmup 0 stayed at 1e-8 for ever, --epochs 1 peaked at 0.018, the first step had rate 0."""
    r = rates(epochs, warmup)
    assert max(r) == pytest.approx(1, abs=0.03)
    assert min(r) > 0
    top = int(np.argmax(r))
    assert r[:top] == sorted(r[:top])
    assert r[top:] == sorted(r[top:], reverse=True)


@pytest.mark.parametrize("longer", [40, 15])
def test_another_length_never_lets_the_rate_climb(longer):
    """Fault 3: resuming with another --epochs let the learning rate climb again."""
    schedule = WarmupCosine(20, 5, 10)
    before = [schedule(step) for step in range(50, 120)]
    schedule.retarget(12, longer)
    after = [schedule(step) for step in range(120, longer * 10)]
    assert after[0] == pytest.approx(before[-1], rel=0.05)
    assert before + after == sorted(before + after, reverse=True)
    assert after[-1] < 0.01


@pytest.mark.parametrize("length", [4, 6, 15, 40])
def test_another_length_while_still_warming_up(length):
    """The rate still peaks once and ends at zero."""
    schedule = WarmupCosine(20, 5, 10)
    schedule.retarget(3, length)
    after = [schedule(step) for step in range(30, length * 10)]
    top = int(np.argmax(after))
    assert after[0] > 0.5
    assert after[:top] == sorted(after[:top])
    assert after[top:] == sorted(after[top:], reverse=True)
    assert after[-1] < 0.03


class Polluter(nn.Linear):
    """Leaves gradients on its own parameters while it runs forward, as an attack written by a student may."""

    def forward(self, x):
        if torch.is_grad_enabled() and self.training:
            with torch.enable_grad():
                super().forward(x).sum().backward()
        return super().forward(x)


def one_epoch(model, batches, **settings):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = LambdaLR(optimizer, lambda step: 1.0)
    return train_one_epoch(model, nn.CrossEntropyLoss(), optimizer, scheduler, Progress("t", batches, show=False), CPU,
                           CPU.scaler(), **settings)


def test_gradients_left_by_the_forward_pass_do_not_enter_the_update():
    """Fault 5: zero_grad() came before the forward pass."""
    batches = [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1])) for _ in range(3)]
    clean, polluted = nn.Linear(3, 2), Polluter(3, 2)
    polluted.load_state_dict(clean.state_dict())
    one_epoch(clean, batches), one_epoch(polluted, batches)
    assert torch.equal(clean.weight, polluted.weight)


def test_clipping_bounds_the_step():
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    one_epoch(model, [(1000 * torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))], clip_grad=0.5)
    assert (model.weight - before).norm() <= 0.1 * 0.5 + 1e-6


def test_a_diverged_run_ends_with_a_sentence():
    with pytest.raises(BadInput, match=r"the loss is nan after 1 batches: the training has diverged.*--lr"):
        one_epoch(nn.Linear(3, 2), [(torch.full((4, 3), math.nan), torch.tensor([0, 1, 0, 1]))])


def test_reports_every_few_batches_and_at_the_end():
    seen = []
    batches = [(torch.randn(2, 3), torch.tensor([0, 1]))] * 7
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_one_epoch(model, nn.CrossEntropyLoss(), optimizer, LambdaLR(optimizer, lambda step: 1 / (step + 1)),
                    Progress("t", batches, print_freq=3, show=False), CPU, CPU.scaler(),
                    on_report=lambda batch, loss, rate: seen.append((batch, rate)))
    assert seen == [(3, pytest.approx(0.1 / 3)), (6, pytest.approx(0.1 / 6)), (7, pytest.approx(0.1 / 7))]


def test_evaluate_gives_every_view_in_order_and_keeps_the_model_still():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 3)).train()
    batches = [(torch.randn(n, 3, 2, 2), torch.arange(n) % 3) for n in (4, 4, 1)]
    buffers = {k: v.clone() for k, v in model.state_dict().items()}
    logits, labels = evaluate(model, Progress("e", batches, show=False), CPU,
                              {"image": identity, "flipped": horizontal_flip})
    images = torch.cat([b[0] for b in batches])
    assert torch.equal(labels, torch.cat([b[1] for b in batches]))
    torch.testing.assert_close(logits["flipped"], model.eval()(images.flip(-1)).detach())
    assert all(torch.equal(v, buffers[k]) for k, v in model.state_dict().items())


def test_a_model_of_nan_is_not_evaluated():
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, math.nan)
    with pytest.raises(BadInput, match="not all finite numbers: its training has diverged"):
        evaluate(model, Progress("e", [(torch.randn(2, 3), torch.tensor([0, 1]))], show=False), CPU)


def test_a_view_may_use_gradients_as_students_do():
    def step(images):
        images = images.detach()
        images.requires_grad = True
        model(images).sum().backward()
        return images + images.grad

    model = nn.Linear(3, 2)
    logits, _ = evaluate(model, Progress("e", [(torch.randn(2, 3), torch.tensor([0, 1]))], show=False), CPU,
                         {"image": identity, "adversarial": step})
    assert not torch.equal(*logits.values())


# ---------------------------------------------------------------------------------------------- measures

SCORES = torch.tensor([[9.0, 1, 0], [8, 9, 0], [0, 8, 9], [9, 8, 0]])
LABELS = torch.tensor([0, 0, 2, 1])


def test_measures_by_hand():
    assert top_k(SCORES, LABELS, 1).item() == 50
    assert top_k(SCORES, LABELS, 2).item() == 100
    assert top_k(SCORES, LABELS, 5).item() == 100  # top-min(5, classes)
    assert confusion_matrix(SCORES, LABELS).tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert per_class_accuracy(confusion_matrix(SCORES, LABELS)).tolist() == [50, 0, 100]


def test_average_precision_by_hand():
    """Class 0 is ranked 9, 9, 8, 0 with its images first, third: (1 + 2/3) / 2, with ties counted together."""
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.7], [0.7, 0.2], [0.1, 0.6]])
    labels = torch.tensor([0, 1, 0, 1])
    zero, one = (1 / 1 + 2 / 3) / 2, (1 / 1 + 2 / 2) / 2
    assert mean_average_precision(scores, labels) == pytest.approx(100 * (zero + one) / 2)
    assert mean_average_precision(scores[:1], labels[:1]) == pytest.approx(100)


def test_summary_of_a_class_without_images():
    summary = summarize(SCORES[:3], LABELS[:3])
    assert summary["class_accuracy"] == [50, None, 100]
    assert summary["mean_class_accuracy"] == pytest.approx(75)
    assert sum(map(sum, summary["confusion"])) == 3


def test_average_meter():
    meter = AverageMeter()
    assert meter.avg == 0
    meter.update(1.0, 3), meter.update(torch.tensor(5.0), 1)
    assert (meter.val, meter.sum, meter.count, float(meter.avg)) == (5, 8, 4, 2)


def test_clock():
    assert [clock(s) for s in (0, 59.9, 125, 4000)] == ["0:00", "0:59", "2:05", "1:06:40"]


def test_waiting_for_data_is_measured():
    import time

    def slow():
        for _ in range(4):
            time.sleep(0.02)
            yield 0

    class Loader:
        def __iter__(self):
            return slow()

        def __len__(self):
            return 4

    progress = Progress("w", Loader(), show=False)
    for _ in progress:
        time.sleep(0.005)
        progress.update(8, loss=1.0)
    assert 0.5 < progress.data_wait < 1
    assert 0 < progress.images_per_second < 32 / 0.08


# ------------------------------------------------------------------------------------------- the machine


def test_devices():
    assert pick_device(-1) == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match=r"--gpu 7: this machine has no CUDA GPU.*--gpu -1"):
            pick_device(7)
    if not torch.backends.mps.is_available():
        with pytest.raises(BadInput, match="--use-mps"):
            pick_device(None, use_mps=True)


def test_precision_is_decided_for_each_purpose():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert pick_precision("off", cpu) == Precision("off", "off", "off")
    assert pick_precision("bf16", cpu) == Precision("bf16", "bf16", "bf16")
    assert pick_precision("auto", cpu) in (Precision(), Precision("bf16", "bf16", "off"))
    assert pick_precision("auto", cpu, measured="bf16") == Precision("bf16", "bf16", "off")
    assert pick_precision("auto", cuda, measured="fp16") == Precision("fp16", "off", "off"), "small gradients"
    with pytest.raises(BadInput, match="--amp fp16 needs a CUDA GPU"):
        pick_precision("fp16", cpu)


def test_channels_last_only_for_models_that_take_it():
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x).view(len(x), -1)

    cpu, images = torch.device("cpu"), torch.randn(2, 3, 8, 8)
    assert pick_memory_format(Views(), images, cpu) is torch.contiguous_format
    assert pick_memory_format(nn.Conv2d(3, 4, 3), images, cpu) is torch.channels_last
    assert pick_memory_format(nn.Flatten(), images, cpu) is torch.contiguous_format


def test_freed_memory_is_kept():
    """In a process of its own: a second large tensor gets the pages of the first."""
    if sys.platform != "linux":
        pytest.skip("Linux only")
    script = f"""import sys; sys.path.insert(0, {str(CODE)!r})
import resource, torch
from libs import hardware
hardware.keep_memory()
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24).sum()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*faults)"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    faults = [int(word) for word in done.stdout.split()]
    assert faults[0] > 10_000  # 64 MB in pages of 4 kB
    assert faults[-1] < 1000  # the second may still have had to lie elsewhere
