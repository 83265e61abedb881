"""Student files of 2019-2025 under our driver, and our student file under what a stock driver imports."""

import shutil
import subprocess
import sys
import textwrap

import pytest
from autograder.variants import textbook
from conftest import CODE, write_scenes

pytestmark = pytest.mark.slow

# Small files written for this test in the shape of each year: what they import, define and take.
CONVOLUTION = """
    import torch
    import torch.nn as nn
    from torch.nn.functional import fold, unfold
    from utils import resize_image
    import custom_transforms as transforms

    class CustomConv2d(nn.Module):
        def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1,
                     bias=True):
            super().__init__()
            self.stride, self.padding, self.K = stride, padding, kernel_size
            self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size) * 0.05)
            self.bias = nn.Parameter(torch.zeros(out_channels))

        def forward(self, x):
            H = (x.shape[2] + 2 * self.padding - self.K) // self.stride + 1
            columns = unfold(x, self.K, padding=self.padding, stride=self.stride)
            return (self.weight.view(len(self.weight), -1) @ columns + self.bias.view(-1, 1)).view(len(x), -1, H, H)

    class SimpleNet(nn.Module):
        def __init__(self, conv_op=nn.Conv2d, num_classes=100):
            super().__init__()
            self.conv = conv_op(3, 8, kernel_size=7, stride=8, padding=3)
            self.fc = nn.Linear(8, num_classes)

        def forward(self, x):
            return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

    default_cnn_model = SimpleNet

    class PGDAttack:
        def __init__(self, loss_fn, num_steps=10, step_size=0.01, epsilon=0.1):
            self.loss_fn, self.num_steps, self.step_size, self.epsilon = loss_fn, num_steps, step_size, epsilon

        def perturb(self, model, input):
            output = input.clone()
            for _ in range(self.num_steps):
                output = output.detach()
                output.requires_grad = True
                logits = model(output)
                self.loss_fn(logits, logits.argmin(1)).backward()
                output = output.detach() - self.step_size * output.grad.sign()
                output = torch.min(torch.max(output, input - self.epsilon), input + self.epsilon)
            return output

    default_attack = PGDAttack
"""
VIT = """
    class SimpleViT(nn.Module):
        def __init__(self, img_size=128, num_classes=100, patch_size=16, in_chans=3, embed_dim=32, depth=2, num_heads=4,
                     window_size=4, window_block_indexes=(0,)):
            super().__init__()
            self.patch_embed = PatchEmbed((patch_size, patch_size), (patch_size, patch_size), in_chans=in_chans,
                                          embed_dim=embed_dim)
            self.pos_embed = nn.Parameter(torch.zeros(1, img_size // patch_size, img_size // patch_size, embed_dim))
            trunc_normal_(self.pos_embed, std=0.02)
            self.blocks = nn.ModuleList([TransformerBlock(
                dim=embed_dim, num_heads=num_heads, drop_path=0.1 * i,
                window_size=window_size if i in window_block_indexes else 0) for i in range(depth)])
            self.head = nn.Linear(embed_dim, num_classes)

        def forward(self, x):
            x = self.patch_embed(x) + self.pos_embed
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean((1, 2)))

    default_vit_model = SimpleViT
"""
SALIENCY = """
    class GradAttention:
        def __init__(self, loss_fn):
            self.loss_fn = loss_fn

        def explain(self, model, input):
            input = input.detach()
            input.requires_grad = True
            logits = model(input)
            self.loss_fn(logits, logits.argmax(1)).backward()
            return input.grad.abs().max(1, keepdim=True)[0]

    default_attention = GradAttention

    def vis_grad_attention(input, vis_alpha=2.0, n_rows=10, vis_output=None):
        from torchvision.utils import make_grid
        return make_grid((input.cpu() * 0.2 + 0.5).clamp(0, 1) + 0 * vis_output.cpu(), nrow=n_rows)

    default_visfunction = vis_grad_attention
"""
ATTENTION, BLOCK = (textwrap.indent(text, "    ") for text in (textbook.ATTENTION, textbook.BLOCK))
TRANSFORMS = """
    def get_train_transforms({parameter}):
        return transforms.Compose([transforms.Scale(144), transforms.RandomHorizontalFlip(),
                                   transforms.RandomColor(0.15), transforms.RandomRotate(15),
                                   transforms.RandomSizedCrop(128), transforms.ToTensor(), {normalize}])

    def get_val_transforms({parameter}):
        return transforms.Compose([transforms.Scale(144), transforms.CenterCrop(128), transforms.ToTensor(),
                                   {normalize}])
"""
HANDED_IN = TRANSFORMS.format(parameter="normalize", normalize="normalize")
OWN = TRANSFORMS.format(parameter="", normalize="transforms.Normalize(mean=[0.485, 0.456, 0.406], "
                                                "std=[0.229, 0.224, 0.225])")
HELPER_BLOCK = "    from custom_blocks import PatchEmbed, TransformerBlock, trunc_normal_\n"
HELPER_MLP = ("    from custom_blocks import (PatchEmbed, window_partition, window_unpartition, DropPath, {}, "
              "trunc_normal_)\n")
# Files of 2019 to 2021 name their network default_model, and leave validation to the driver.
OLDEST = (CONVOLUTION.replace("default_cnn_model", "default_model") + HANDED_IN.split("    def get_val_transforms")[0]
          + SALIENCY)
YEARS = {
    2019: OLDEST,
    2022: CONVOLUTION + HELPER_BLOCK + VIT + HANDED_IN + SALIENCY,
    2023: CONVOLUTION + HELPER_MLP.format("Mlp") + "    from custom_blocks import Attention, TransformerBlock\n" + VIT
    + HANDED_IN + SALIENCY,
    2024: CONVOLUTION + HELPER_MLP.format("MLP") + ATTENTION + BLOCK + VIT + OWN,
    2025: CONVOLUTION + HELPER_MLP.format("MLP") + ATTENTION + BLOCK + VIT + OWN,
}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("few"), 8, 4)


TRAIN_THEN_ATTACK = """
import pathlib, sys
import main
data, model = sys.argv[1:]
settings = ["-j", "0", "--gpu", "-1", "--logs", "logs"]
main.main([data, "--epochs", "1", "-b", "4", model, *settings])
best, = pathlib.Path("logs").glob("exp_*/models/model_best.pth.tar")
main.main([data, "--resume", str(best), "-a", "-v", *settings])
"""


@pytest.mark.parametrize("year", YEARS)
def test_student_files_of_every_year(year, few, tmp_path):
    folder = tmp_path / "code"
    shutil.copytree(CODE, folder, ignore=shutil.ignore_patterns("__pycache__", "student_code.py"))
    (folder / "student_code.py").write_text(textwrap.dedent(YEARS[year]))
    model = "--use-vit" if year in (2023, 2025) else "--use-custom-conv"
    done = subprocess.run([sys.executable, "-c", TRAIN_THEN_ATTACK, str(few), model], cwd=folder, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 1/1 val" in done.stdout
    assert "difference" in done.stdout
    assert ("no default_attention" in done.stdout) == (year >= 2024)


def test_our_student_file_asks_only_for_what_stock_helpers_have(tmp_path):
    """Beside modules with nothing but the stock names, imported by a driver with nothing but the stock imports."""
    shutil.copy(CODE / "student_code.py", tmp_path)
    names = {
        "custom_transforms.py": "Compose Scale CenterCrop RandomSizedCrop RandomHorizontalFlip RandomColor "
                                "RandomRotate ToTensor Normalize",
        "custom_blocks.py": "PatchEmbed window_partition window_unpartition Mlp DropPath drop_path trunc_normal_",
        "utils.py": "load_image save_image resize_image AverageMeter",
    }
    for file, public in names.items():
        listed = public.split()
        (tmp_path / file).write_text(
            f"import importlib.util\nspec = importlib.util.spec_from_file_location('ours', {str(CODE / file)!r})\n"
            "module = importlib.util.module_from_spec(spec)\n"
            + (f"import sys; sys.path.append({str(CODE)!r})\n" if file == "custom_transforms.py" else "")
            + f"spec.loader.exec_module(module)\nfor name in {listed!r}:\n    globals()[name] = getattr(module, name)\n"
            "del module, spec, name\n")
    (tmp_path / "driver.py").write_text(textwrap.dedent("""
        import numpy as np
        import torch
        import torch.nn as nn
        import custom_transforms as transforms
        from student_code import (CustomConv2d, custom_conv2d, default_cnn_model, default_vit_model, default_attack,
                                  default_attention, default_visfunction, vis_grid, get_train_transforms,
                                  get_val_transforms)
        normalize = transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
        image = np.zeros((150, 200, 3), np.uint8)
        for get in (get_train_transforms, get_val_transforms):
            assert get()(image).shape == get(normalize)(image).shape == (3, 128, 128)
        images = torch.stack([get_val_transforms()(image)] * 2)
        criterion = nn.CrossEntropyLoss()
        for model in (default_cnn_model(), default_cnn_model(conv_op=CustomConv2d, num_classes=100),
                      default_vit_model()):
            assert model.eval()(images).shape == (2, 100)
            attacker = default_attack(criterion, num_steps=2, step_size=0.01, epsilon=0.1)
            assert attacker.perturb(model, images).shape == images.shape
            assert vis_grid(attacker.perturb(model, images)).dim() == 3
            saliency = default_attention(criterion).explain(model, images)
            assert default_visfunction(images, vis_output=saliency).dim() == 3
        print("fine")
    """))
    done = subprocess.run([sys.executable, "driver.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "fine\n", done.stderr
