"""The networks: what they are made of, and that they take any number of classes and any size they allow."""

import pytest
import torch
from torch import nn

import student_code
from libs import networks
from student_code import AdvSimpleNet, CustomConv2d, CustomNet, MultiScaleNet, ResidualNet, SimpleNet, SkipBlock
from utils import BadInput

CNNS = [SimpleNet, AdvSimpleNet, CustomNet, MultiScaleNet, ResidualNet]


def test_simplenet_is_the_stock_architecture():
    network = SimpleNet()
    assert sum(p.numel() for p in network.parameters()) == 365_028
    assert set(network.state_dict()) == {f"features.{i}.{kind}" for i in (0, 3, 5, 7, 10, 12, 14)
                                         for kind in ("weight", "bias")} | {"fc.weight", "fc.bias"}
    assert [tuple(network.features[i].weight.shape) for i in (0, 3, 5, 7, 10, 12, 14)] == [
        (64, 3, 7, 7), (64, 64, 1, 1), (64, 64, 3, 3), (256, 64, 1, 1), (128, 256, 1, 1), (128, 128, 3, 3),
        (512, 128, 1, 1)]
    pools = [network.features[i] for i in (2, 9)]
    assert all((p.kernel_size, p.stride, p.padding) == (3, 2, 1) for p in pools)
    assert all(network.features[i].inplace for i in (1, 4, 6, 8, 11, 13, 15))


def test_default_names():
    assert student_code.default_cnn_model is SimpleNet
    assert student_code.default_vit_model is student_code.SimpleViT
    assert student_code.default_attack is student_code.PGDAttack
    assert student_code.default_attention is student_code.GradAttention
    assert student_code.default_visfunction is student_code.vis_grad_attention


@pytest.mark.parametrize("make", CNNS)
@pytest.mark.parametrize(("classes", "size"), [(100, (128, 128)), (7, (96, 64)), (2, (33, 47))])
def test_any_classes_any_size(make, classes, size):
    network = make(num_classes=classes).eval()
    assert network(torch.randn(2, 3, *size)).shape == (2, classes)


@pytest.mark.parametrize("make", CNNS)
def test_every_parameter_learns(make):
    network = make(num_classes=5)
    network(torch.randn(4, 3, 32, 32)).square().sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not idle


@pytest.mark.parametrize("make", [SimpleNet, CustomNet, MultiScaleNet, ResidualNet])
def test_built_from_the_own_convolution_it_is_the_same_network(make):
    ours, theirs = make(CustomConv2d, 5).eval(), make(num_classes=5).eval()
    assert not any(isinstance(m, nn.Conv2d) for m in ours.modules())
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 40, 36)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


def test_customnet_has_what_the_report_says():
    network = CustomNet()
    assert sum(isinstance(m, SkipBlock) for m in network.modules()) == 4
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == 6
    assert [type(m) for m in network.head] == [nn.Linear, nn.ReLU, nn.BatchNorm1d, nn.Linear]


def test_a_skip_block_skips():
    block = SkipBlock(nn.Conv2d, 8).eval()
    nn.init.zeros_(block.body[-1].weight)
    images = torch.randn(1, 8, 4, 4)
    assert torch.equal(block(images), images)


def test_msn_joins_four_scales_into_2048():
    network = MultiScaleNet()
    assert network.fc.in_features == 2048
    seen = []
    for head in network.heads:
        head.register_forward_hook(lambda module, given, out: seen.append(tuple(given[0].shape[2:])))
    network.eval()(torch.randn(1, 3, 128, 128))
    assert seen == [(64, 64), (32, 32), (16, 16), (8, 8)]
    assert not any(isinstance(m, (nn.MaxPool2d, nn.AvgPool2d)) for m in network.modules())


def test_build_knows_every_name():
    for name in networks.MODEL_NAMES:
        assert networks.build(name, 6, (64, 64)).eval()(torch.randn(1, 3, 64, 64)).shape == (1, 6)


def test_resnet18_from_a_file(tmp_path):
    donor = networks.resnet18()
    torch.save(donor.state_dict(), tmp_path / "weights.pth")
    network = networks.build("resnet18", 7, (64, 64), pretrained=True, weights=str(tmp_path / "weights.pth"))
    assert torch.equal(network.layer4[1].conv2.weight, donor.layer4[1].conv2.weight)
    assert network.fc.out_features == 7


def test_resnet18_without_network_or_file_says_what_to_do(monkeypatch, tmp_path):
    def no_network(*_, **__):
        raise networks.URLError("no network")

    monkeypatch.setattr(type(networks.ResNet18_Weights.DEFAULT), "get_state_dict", no_network)
    with pytest.raises(BadInput, match=r"https://.*resnet18.*--weights"):
        networks.build("resnet18", 7, (64, 64), pretrained=True)
    with pytest.raises(BadInput, match="there is no such file"):
        networks.build("resnet18", 7, (64, 64), weights=str(tmp_path / "nothing.pth"))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(BadInput, match=r"text\.pth: cannot be read"):
        networks.build("resnet18", 7, (64, 64), weights=str(tmp_path / "text.pth"))
