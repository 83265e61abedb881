"""Checkpoints of this scaffold and of the stock one, whole or not there."""

import math
import os
import random
from collections import OrderedDict

import pytest
import torch
from conftest import same
from torch import nn

from libs import checkpoint
from libs.networks import name_of, resnet18
from student_code import SimpleNet, SimpleViT
from utils import BadInput


def test_round_trip(tmp_path):
    model = SimpleNet(num_classes=3)
    checkpoint.save(tmp_path, {"epoch": 2, "state_dict": model.state_dict(), "best_acc1": 12.5}, is_best=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [checkpoint.LAST, checkpoint.BEST]
    loaded = checkpoint.load(tmp_path / checkpoint.BEST)
    other = SimpleNet(num_classes=3)
    checkpoint.load_weights(other, loaded["state_dict"], "x")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
    assert loaded["epoch"] == 2


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, {"state_dict": {}, "epoch": 1}, is_best=False)

    def half(state, path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(checkpoint.Unwritable, match="No space"):
        checkpoint.save(tmp_path, {"state_dict": {}, "epoch": 2}, is_best=False)
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.LAST]
    assert checkpoint.load(tmp_path / checkpoint.LAST)["epoch"] == 1


class PowerCut(BaseException):
    pass


def test_a_power_cut_between_any_two_operations_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    """And a best model that is not older than it."""
    left = [math.inf]

    def counted(real):
        def operation(*arguments, **named):
            left[0] -= 1
            if left[0] < 0:
                raise PowerCut
            return real(*arguments, **named)
        return operation

    for place, name in ((os, "replace"), (os, "fsync"), (os, "link"), (torch, "save"), (checkpoint.shutil, "copyfile")):
        monkeypatch.setattr(place, name, counted(getattr(place, name)))
    for operations in range(99):
        folder = tmp_path / str(operations)
        left[0] = math.inf
        checkpoint.save(folder, {"state_dict": {}, "epoch": 1}, is_best=True)
        left[0] = operations
        try:
            checkpoint.save(folder, {"state_dict": {}, "epoch": 2}, is_best=True)
        except PowerCut:
            last, best = (checkpoint.load(folder / name)["epoch"] for name in (checkpoint.LAST, checkpoint.BEST))
            assert (last, best) in ((1, 1), (1, 2), (2, 2))
        else:
            break
    assert operations >= 8
    assert [checkpoint.load(folder / name)["epoch"] for name in (checkpoint.BEFORE, checkpoint.LAST)] == [1, 2]


def test_a_flipped_bit_is_found(tmp_path):
    """torch writes checksums, but does not compare them."""
    path, generator = tmp_path / checkpoint.LAST, random.Random(0)
    checkpoint.save(tmp_path, {"state_dict": nn.Linear(50, 50).state_dict(), "epoch": 1}, is_best=False)
    checkpoint.save(tmp_path, {"state_dict": nn.Linear(50, 50).state_dict(), "epoch": 2}, is_best=False)
    whole, truth = path.read_bytes(), checkpoint.load(path)
    refused = 0
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            assert same(checkpoint.load(path), truth), "it was read, and wrong"
        except BadInput as error:
            refused += 1
            assert f"This one is whole: {tmp_path / checkpoint.BEFORE}" in str(error)
    assert refused > 80, "the others were in the gaps between the tensors"


@pytest.mark.slow
def test_every_bit_of_a_small_checkpoint(tmp_path):
    """A flag that makes torch take a tensor for a folder is not under any checksum: it returned unset memory."""
    path, truth = tmp_path / checkpoint.LAST, {"weight": torch.arange(10.0)}
    torch.save({"state_dict": truth, "epoch": 3}, path)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        torch.full((10,), math.nan)  # what unset memory would have
        try:
            assert same(dict(checkpoint.load(path)["state_dict"]), truth), bit
        except BadInput:
            continue


def stock(year: int) -> dict:
    """What the stock scaffold wrote: more keys over the years."""
    model = SimpleNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    state = {"epoch": 60, "model_arch": "simplenet", "state_dict": model.state_dict(), "best_acc1": torch.tensor(44.9)}
    if year == 2019:
        state["state_dict"] = OrderedDict((f"module.{k}", v) for k, v in model.state_dict().items())
    if year >= 2022:
        state["optimizer"] = optimizer.state_dict()
    if year >= 2024:
        state["scheduler"] = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100).state_dict()
    return state


@pytest.mark.parametrize("year", [2019, 2021, 2022, 2023, 2024, 2025])
def test_stock_checkpoints_of_every_year(tmp_path, year):
    path = tmp_path / "model_best.pth.tar"
    torch.save(stock(year), path)
    loaded = checkpoint.load(path)
    assert loaded["best_acc1"] == pytest.approx(44.9)
    checkpoint.load_weights(SimpleNet(), loaded["state_dict"], path)


def test_stock_files_tell_their_model_by_their_tensors():
    """They say "simplenet" whatever the network was."""
    for make, name in ((SimpleNet, "simplenet"), (resnet18, "resnet18"), (lambda: SimpleViT(32), "vit")):
        assert name_of({"model_arch": "simplenet", "state_dict": make().state_dict()}) == name
    assert name_of({"model_arch": "msn", "state_dict": {}, "settings": {}}) == "msn"


def test_a_damaged_file_of_the_format_before_2020(tmp_path):
    path = tmp_path / "old.pth.tar"
    torch.save({"state_dict": {"w": torch.zeros(3)}}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    assert checkpoint.load(path)["state_dict"]["w"].shape == (3,)
    for cut in range(1, len(whole) - 40, 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(BadInput, match="cannot be read"):
            checkpoint.load(path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_what_is_no_checkpoint(tmp_path, content):
    path = tmp_path / "checkpoint.pth.tar"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"checkpoint\.pth\.tar: cannot be read.*take the other one"):
        checkpoint.load(path)


def test_a_checkpoint_that_is_cut_off(tmp_path):
    checkpoint.save(tmp_path, {"state_dict": SimpleNet().state_dict()}, is_best=False)
    path = tmp_path / checkpoint.LAST
    path.write_bytes(path.read_bytes()[:500_000])
    with pytest.raises(BadInput, match="cannot be read"):
        checkpoint.load(path)


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_nothing_in_a_checkpoint_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth.tar")
    with pytest.raises(BadInput, match="cannot be read"):
        checkpoint.load(tmp_path / "evil.pth.tar")
    assert not (tmp_path / "pwned").exists()


def test_other_files_of_tensors_are_named_for_what_they_are(tmp_path):
    torch.save(SimpleNet().state_dict(), tmp_path / "bare.pth")
    with pytest.raises(BadInput, match=r"no 'state_dict'.*--weights"):
        checkpoint.load(tmp_path / "bare.pth")
    with pytest.raises(BadInput, match="there is no such file"):
        checkpoint.load(tmp_path / "nothing")


def test_weights_that_do_not_fit_are_named():
    with pytest.raises(BadInput, match=r"fc\.weight is 100x512 in the file and 10x512 in the model.*number of classes"):
        checkpoint.load_weights(SimpleNet(num_classes=10), SimpleNet().state_dict(), "x.pth.tar")
    with pytest.raises(BadInput, match=r"weight is not in the file.*features\.0\.weight is not in the model"):
        checkpoint.load_weights(nn.Linear(2, 2, bias=False), {"features.0.weight": torch.zeros(1)}, "x.pth.tar")
