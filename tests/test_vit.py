"""Attention, blocks, windows and the whole transformer, by what they do."""

import pytest
import torch
from torch import nn

import custom_blocks
from custom_blocks import DropPath, drop_path, window_partition, window_unpartition
from student_code import Attention, SimpleViT, TransformerBlock


def test_attention_is_equation_3_head_by_head():
    layer = Attention(12, num_heads=3).double()
    for p in layer.parameters():
        nn.init.normal_(p, std=0.3)
    x = torch.randn(2, 3, 5, 12, dtype=torch.float64)
    tokens = x.view(2, 15, 12)
    q, k, v = (tokens @ layer.qkv.weight.T + layer.qkv.bias).split(12, dim=-1)
    heads = []
    for h in range(3):
        s = slice(4 * h, 4 * h + 4)
        weights = torch.softmax(q[..., s] @ k[..., s].transpose(1, 2) / 2, dim=-1)  # sqrt(4) = 2
        heads.append(weights @ v[..., s])
    expected = layer.proj(torch.cat(heads, dim=-1)).view(2, 3, 5, 12)
    torch.testing.assert_close(layer(x), expected)


def test_attention_agrees_with_torchs_own():
    ours, theirs = Attention(16, num_heads=4), nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict({"in_proj_weight": ours.qkv.weight, "in_proj_bias": ours.qkv.bias,
                            "out_proj.weight": ours.proj.weight, "out_proj.bias": ours.proj.bias})
    x = torch.randn(2, 4, 6, 16)
    tokens = x.view(2, 24, 16)
    torch.testing.assert_close(ours(x).view(2, 24, 16), theirs(tokens, tokens, tokens)[0])


def test_attention_members_and_its_refusal():
    layer = Attention(12, num_heads=3, qkv_bias=False)
    assert layer.scale == pytest.approx(0.5)
    assert layer.qkv.bias is None
    with pytest.raises(ValueError, match="5 heads do not divide 12"):
        Attention(12, num_heads=5)


@pytest.mark.parametrize(("H", "W", "w"), [(8, 8, 4), (7, 10, 4), (3, 2, 4), (5, 5, 1)])
def test_windows_and_back(H, W, w):
    x = torch.randn(2, H, W, 3)
    windows, pad_hw = window_partition(x, w)
    assert windows.shape[1:] == (w, w, 3)
    assert len(windows) == 2 * (pad_hw[0] // w) * (pad_hw[1] // w)
    assert torch.equal(windows[0][: min(w, H), : min(w, W)], x[0, :w, :w])
    assert torch.equal(window_unpartition(windows, w, pad_hw, (H, W)), x)


@pytest.mark.parametrize("window_size", [0, 4])
def test_a_window_block_sees_its_window_only(window_size):
    block = TransformerBlock(8, 2, window_size=window_size).eval()
    x = torch.randn(1, 10, 6, 8)
    changed = x.clone()
    changed[0, 0, 0] += torch.randn(8)  # LayerNorm takes a constant out
    reached = (block(changed) - block(x)).abs().sum(-1)[0] > 1e-7
    if window_size:
        assert reached[:4, :4].all()
        assert not reached[4:].any()
        assert not reached[:, 4:].any()
    else:
        assert reached.all()


def test_a_block_is_pre_norm_with_two_residuals():
    block = TransformerBlock(8, 2).eval()
    nn.init.zeros_(block.attn.proj.weight), nn.init.zeros_(block.attn.proj.bias)
    nn.init.zeros_(block.mlp.fc2.weight), nn.init.zeros_(block.mlp.fc2.bias)
    x = torch.randn(1, 3, 4, 8)
    assert torch.equal(block(x), x)
    block = TransformerBlock(8, 2).eval()
    middle = x + block.attn(block.norm1(x))
    torch.testing.assert_close(block(x), middle + block.mlp(block.norm2(middle)))


def test_drop_path_drops_samples_and_keeps_the_mean():
    x = torch.ones(4000, 2, 2)
    out = drop_path(x, 0.25, training=True)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (out.flatten(1).amin(1) == out.flatten(1).amax(1)).all()
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert drop_path(x, 0.25, training=False) is x or torch.equal(drop_path(x, 0.25, training=False), x)
    assert not drop_path(x, 1.0, training=True).isnan().any()
    assert torch.equal(DropPath(0.5).eval()(x), x)


@pytest.mark.parametrize(("size", "classes"), [(128, 100), (64, 7), ((96, 160), 5)])
def test_vit_shapes(size, classes):
    height, width = (size, size) if isinstance(size, int) else size
    network = SimpleViT(size, classes).eval()
    assert network.pos_embed.shape == (1, height // 16, width // 16, 192)
    assert network(torch.randn(2, 3, height, width)).shape == (2, classes)


def test_vit_takes_other_sizes_than_it_was_made_for():
    network = SimpleViT(64, 5).eval()
    assert network(torch.randn(1, 3, 96, 48)).shape == (1, 5)
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(network._positions(4, 4), network.pos_embed)
    assert network(images).isfinite().all()


@pytest.mark.parametrize("size", [(100, 128), (128, 8)])
def test_vit_names_a_size_it_does_not_allow(size):
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} pixels cannot be cut into patches of 16x16"):
        SimpleViT(size)
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} pixels"):
        SimpleViT(128)(torch.randn(1, 3, *size))


def test_every_patch_and_its_place_matter():
    network = SimpleViT(64, 5, drop_path_rate=0).eval()
    nn.init.normal_(network.pos_embed, std=0.5)
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    network(images).sum().backward()
    by_patch = images.grad.abs().sum(1).view(4, 16, 4, 16).sum((1, 3))
    assert (by_patch > 0).all()
    moved = torch.cat([images[..., 32:], images[..., :32]], dim=-1)
    assert not torch.allclose(network(moved), network(images), atol=1e-4)


def test_windows_where_asked_and_drop_path_grows():
    network = SimpleViT(window_size=4, window_block_indexes=(0, 2), drop_path_rate=0.3)
    assert [block.window_size for block in network.blocks] == [4, 0, 4, 0]
    assert [block.drop_path.drop_prob for block in network.blocks] == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(("window_size", "moved"), [(4, True), (2, True), (3, False), (0, False)])
def test_window_order_changes_nothing_but_the_order(monkeypatch, window_size, moved):
    model = SimpleViT(num_classes=5, window_size=window_size, drop_path_rate=0.0).eval()
    images = torch.randn(2, 3, 128, 128)
    tokens = torch.arange(64.0).view(1, 8, 8, 1)
    ordered = model._in_window_order(tokens)
    assert (ordered.shape != tokens.shape) == moved
    assert ordered.flatten().unique().numel() == 64
    fast = model(images)
    monkeypatch.setattr(SimpleViT, "_in_window_order", lambda self, x: x)
    assert torch.allclose(fast, model(images), atol=1e-5)


def test_windows_in_window_order_are_not_copied():
    block = TransformerBlock(12, 2, window_size=4)
    seen = []
    block.attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 16, 4, 12)
    block.attend(x)
    assert seen[0].data_ptr() == x.data_ptr()


def test_drop_path_still_drops_whole_images(monkeypatch):
    """In window order an image stays one sample."""
    model, seen = SimpleViT(num_classes=5, drop_path_rate=0.5).train(), []
    for block in model.blocks:
        block.drop_path.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    model(torch.randn(3, 3, 128, 128))
    assert set(seen) == {3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ways_to_attend_agree(dtype):
    """In 16 bit on a CPU the formula is written out; in fp32 the kernel runs."""
    layer = Attention(24, num_heads=3)
    x = torch.randn(2, 4, 5, 24)
    exact = layer(x)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        assert torch.allclose(layer(x).float(), exact, atol=0.02)


def test_every_vit_parameter_learns():
    network = SimpleViT(32, 5, drop_path_rate=0)
    network(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_the_helper_block_of_2022_computes_the_same():
    """Student files until 2023 import Attention and TransformerBlock from custom_blocks; their checkpoints fit."""
    ours, helper = (make(8, 2, window_size=2).eval() for make in (TransformerBlock, custom_blocks.TransformerBlock))
    helper.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 3, 8)
    torch.testing.assert_close(helper(x), ours(x))
