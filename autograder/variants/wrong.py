"""Typical mistakes. `reason` is a regular expression for the expected feedback, so that it names the right cause."""

from autograder.variants import Variant, attacks_wrong, changed, textbook
from autograder.variants.wrong_invariants import INVARIANTS

C, A, B, V, P, T = "convolution", "attention", "block", "vit", "pgd", "adversarial"
OUT = "        output = fold(out, (Ho, Wo), kernel_size=1)\n"


def attacking(name: str, reason: str, *changes: tuple[str, str]) -> Variant:
    """Adversarial training with the textbook PGD, which does not change the network's mode."""
    return Variant(name, T, textbook.PGD + changed(T, *changes), reason)


def wrong(part: str, name: str, reason: str, *changes: tuple[str, str], allowed: str = "") -> Variant:
    return Variant(name, part, changed(part, *changes), reason, allowed=allowed)


CONVOLUTION = [
    wrong(C, "no bias crashes", "no bias.*|NoneType", ("        if bias is not None:\n            out = out + bias.view(1, Co, 1)",
                                                       "        out = out + bias.view(1, Co, 1)")),
    wrong(C, "square output assumed", "forward.*H=|raises RuntimeError", ("(Ho, Wo), kernel_size=1", "(Ho, Ho), kernel_size=1")),
    wrong(C, "stride not passed to unfold", "stride", (
        "kernel_size=K, padding=padding, stride=stride)\n        w_rows", "kernel_size=K, padding=padding)\n        w_rows")),
    wrong(C, "padding not passed to unfold", "padding", (
        "kernel_size=K, padding=padding, stride=stride)\n        w_rows", "kernel_size=K, stride=stride)\n        w_rows")),
    wrong(C, "kernel size hard-coded", "K=|raises RuntimeError", ("Co, _, K, _ = weight.shape", "Co, K = weight.shape[0], 3")),
    wrong(C, "kernel flipped, true convolution", "kernel flipped", (
        "weight.reshape(Co, -1)\n        out", "weight.flip(2, 3).reshape(Co, -1)\n        out")),
    wrong(C, "bias ignored", "bias is not added", ("out = out + bias.view(1, Co, 1)", "pass")),
    wrong(C, "bias along the positions", "raises RuntimeError|bias is added along|wrong in", ("bias.view(1, Co, 1)", "bias.view(1, 1, Co)")),
    wrong(C, "height and width swapped in fold", "raises RuntimeError|swapped|wrong in", ("(Ho, Wo), kernel_size=1", "(Wo, Ho), kernel_size=1")),
    wrong(C, "kernel transposed", "height and width swapped", (
        "weight.reshape(Co, -1)\n        out", "weight.transpose(2, 3).reshape(Co, -1)\n        out")),
    wrong(C, "weight gradient averaged over the batch", "averaged over the images", (
        "cols.transpose(1, 2)).sum(dim=0)", "cols.transpose(1, 2)).mean(dim=0)")),
    wrong(C, "weight gradient of the first image", "first image only", (
        "cols.transpose(1, 2)).sum(dim=0)", "cols.transpose(1, 2))[0]")),
    wrong(C, "padding cropped with [p:-p]", "gradient of the input|raises", (
        "grad_input = fold(grad_cols, (H, W), kernel_size=K, padding=padding, stride=stride)",
        "wide = fold(grad_cols, (H + 2 * padding, W + 2 * padding), kernel_size=K, stride=stride)\n"
        "            grad_input = wide[:, :, padding:-padding, padding:-padding]")),
    wrong(C, "padding not cropped", "shape|padded input", (
        "grad_input = fold(grad_cols, (H, W), kernel_size=K, padding=padding, stride=stride)",
        "grad_input = fold(grad_cols, (H + 2 * padding, W + 2 * padding), kernel_size=K, stride=stride)")),
    wrong(C, "fold without padding", "raises RuntimeError|gradient of the input", (
        "fold(grad_cols, (H, W), kernel_size=K, padding=padding, stride=stride)",
        "fold(grad_cols, (H, W), kernel_size=K, stride=stride)")),
    wrong(C, "fold without stride", "raises RuntimeError|gradient of the input", (
        "fold(grad_cols, (H, W), kernel_size=K, padding=padding, stride=stride)",
        "fold(grad_cols, (H, W), kernel_size=K, padding=padding)")),
    wrong(C, "kernel positions before channels", "wrong order", (
        "w_rows = weight.reshape(Co, -1)", "w_rows = weight.permute(0, 2, 3, 1).reshape(Co, -1)")),
    wrong(C, "weight gradient in the wrong order", "wrong order", (
        "grad_weight = grad_weight.view(Co, Ci, K, K)", "grad_weight = grad_weight.view(Co, K, K, Ci).permute(0, 3, 1, 2)")),
    wrong(C, "three gradients returned", "five|incorrect number", (
        "return grad_input, grad_weight, grad_bias, None, None", "return grad_input, grad_weight, grad_bias")),
    wrong(C, "convolution in backward", "uses a convolution function", (
        "grad_input = fold(grad_cols, (H, W), kernel_size=K, padding=padding, stride=stride)",
        "grad_input = torch.nn.grad.conv2d_input((len(grad_output), Ci, H, W), weight, grad_output, stride, padding)")),
    wrong(C, "the output is a view", "ReLU\\(inplace=True\\)", (OUT, "        output = out.view(N, Co, Ho, Wo)\n")),
    wrong(C, "bias gradient summed over images only", "gradient of the bias|raises RuntimeError|shape", (
        "grad_bias = grad_output.sum((0, 2, 3))", "grad_bias = grad_output.sum(0)")),
    wrong(C, "bias gradient averaged", "averaged", ("grad_output.sum((0, 2, 3))", "grad_output.mean((0, 2, 3)) * grad_output.shape[0]")),
    wrong(C, "the weight is not transposed in backward", "raises RuntimeError", (
        "weight.reshape(Co, -1).t().matmul(grad_rows)", "weight.reshape(Co, -1).matmul(grad_rows)")),
    wrong(C, "output size rounded up", "raises|shape", ("Ho = (H + 2 * padding - K) // stride + 1",
                                                        "Ho = -(-(H + 2 * padding - K) // stride) + 1")),
    wrong(C, "backward assumes a square input", "gradient of the input|raises", (
        "fold(grad_cols, (H, W), kernel", "fold(grad_cols, (H, H), kernel")),
]
ATTENTION = [
    wrong(A, "scale missing", "not divided by the square root", (" * self.scale", "")),
    wrong(A, "divided by the scale", "multiplied by the square root", (" * self.scale", " / self.scale")),
    wrong(A, "scaled by the full dimension", "square root of all channels", ("head_dim ** -0.5", "dim ** -0.5")),
    wrong(A, "scaled by D, not its root", "not by its square root", ("head_dim ** -0.5", "head_dim ** -1.0")),
    wrong(A, "softmax over the queries", "softmax is over the queries", ("attn.softmax(dim=-1)", "attn.softmax(dim=-2)")),
    wrong(A, "softmax over the heads", "output of Attention", ("attn.softmax(dim=-1)", "attn.softmax(dim=0)")),
    wrong(A, "heads merged without permute", "permute before the reshape", ("x = x.permute(0, 2, 3, 1, 4)", "pass")),
    wrong(A, "no projection", "projection is missing", ("x = self.proj(x)", "pass")),
    wrong(A, "one head only", "single.head", ("self.num_heads = num_heads\n        head_dim = dim // num_heads",
                                              "self.num_heads = 1\n        head_dim = dim")),
    wrong(A, "no softmax", "output of Attention", ("attn = attn.softmax(dim=-1)", "pass")),
    wrong(A, "bias always on", "has a bias|no parameter|raises|output", ("bias=qkv_bias", "bias=True")),
    wrong(A, "weights detached", "gradient of the input", ("attn = attn.softmax(dim=-1)", "attn = attn.softmax(dim=-1).detach()")),
]
BLOCK = [
    wrong(B, "post-norm", "post-norm", ("        x = self.norm1(x)\n", ""), (
        "        x = shortcut + self.drop_path(x)\n        x = x + self.drop_path(self.mlp(self.norm2(x)))",
        "        x = self.norm1(shortcut + self.drop_path(x))\n        x = self.norm2(x + self.drop_path(self.mlp(x)))")),
    wrong(B, "shortcut after the norm", "first shortcut starts after", (
        "        shortcut = x\n        x = self.norm1(x)", "        x = self.norm1(x)\n        shortcut = x")),
    wrong(B, "first shortcut missing", "first shortcut is missing", ("x = shortcut + self.drop_path(x)", "x = self.drop_path(x)")),
    wrong(B, "second shortcut missing", "second shortcut is missing", (
        "x = x + self.drop_path(self.mlp(self.norm2(x)))", "x = self.drop_path(self.mlp(self.norm2(x)))")),
    wrong(B, "second norm missing", "norm before the MLP is missing", ("self.mlp(self.norm2(x))", "self.mlp(x)")),
    wrong(B, "second shortcut carries the input", "adds the block's input", (
        "x = x + self.drop_path(self.mlp(self.norm2(x)))", "x = shortcut + self.drop_path(self.mlp(self.norm2(x)))")),
    wrong(B, "one norm used twice", "norm is used twice", ("self.mlp(self.norm2(x))", "self.mlp(self.norm1(x))")),
    wrong(B, "windows never used", "windows are not used", ("self.window_size = window_size", "self.window_size = 0")),
    wrong(B, "windows cut, padding kept", "shape|raises RuntimeError", ("pad_hw, (H, W))", "pad_hw, pad_hw)")),
    wrong(B, "height and width exchanged after the windows", "raises RuntimeError|output of TransformerBlock|shape", (
        "pad_hw, (H, W))", "pad_hw, (W, H))")),
    wrong(B, "drop path around the shortcut", "none of the four|is none of", ("shortcut + self.drop_path(x)", "self.drop_path(shortcut + x)")),
    wrong(B, "drop path forgotten", "nothing is dropped", ("DropPath(drop_path) if drop_path > 0.0 else nn.Identity()", "nn.Identity()")),
    wrong(B, "dropout in place of drop path", "none of the four", (
        "DropPath(drop_path) if drop_path > 0.0 else nn.Identity()", "nn.Dropout(drop_path)")),
]
VIT = [
    wrong(V, "position embedding unused", "position embedding is not added", ("x = x + self.pos_embed", "pass")),
    wrong(V, "position embedding always", "do not add positions|raises", ("if use_abs_pos:", "if True:")),
    wrong(V, "windows inverted", "inverted", ("window_size if i in window_block_indexes else 0", "0 if i in window_block_indexes else window_size")),
    wrong(V, "windows everywhere", "window_block_indexes", ("window_size if i in window_block_indexes else 0", "window_size")),
    wrong(V, "windows nowhere", "window_block_indexes", ("window_size if i in window_block_indexes else 0", "0")),
    wrong(V, "constant drop path", "grow with depth", ("drop_path=dpr[i]", "drop_path=drop_path_rate")),
    wrong(V, "drop path not passed on", "drop_path", (" drop_path=dpr[i],", "")),
    wrong(V, "only the first token reaches the head", "patches do not affect", ("x.mean(dim=(1, 2))", "x[:, 0, 0]")),
    wrong(V, "only the first row reaches the head", "patches do not affect", ("x.mean(dim=(1, 2))", "x[:, 0].mean(dim=1)")),
    wrong(V, "depth ignored", "blocks run for depth", ("for i in range(depth):", "for i in range(min(depth, 2)):")),
    wrong(V, "one block used repeatedly", "no gradient reaches|window_block_indexes", ("x = block(x)", "x = self.blocks[0](x)")),
    wrong(V, "mean over the batch", "SimpleViT returns|batch|raises", ("x.mean(dim=(1, 2))", "x.mean(dim=(0, 1))")),
    wrong(V, "100 classes hard-coded", "classes", ("nn.Linear(embed_dim, num_classes)", "nn.Linear(embed_dim, 100)")),
    wrong(V, "MLP ratio not passed on", "mlp_ratio", (" mlp_ratio=mlp_ratio,", "")),
    wrong(V, "softmax before the loss, and no logits of tokens", "raises|SimpleViT returns", (
        "x = x.mean(dim=(1, 2))\n        return self.head(x)", "return self.head(x)")),
]
STEP = "output - self.step_size * output.grad.sign()"
BOX = "output = torch.max(torch.min(output, input + self.epsilon), input - self.epsilon)"
PGD = [
    wrong(P, "climbs", "climbs the loss of the least confident", (STEP, STEP.replace(" - ", " + "))),
    wrong(P, "untargeted", "untargeted", ("pred.argmin(dim=1)", "pred.argmax(dim=1)"), (STEP, STEP.replace(" - ", " + "))),
    wrong(P, "towards the most confident label", "more confident", ("pred.argmin(dim=1)", "pred.argmax(dim=1)")),
    wrong(P, "label of the wrong axis", "label is|raises", ("pred.argmin(dim=1)", "pred.argmin(dim=0)[:len(pred)]")),
    wrong(P, "no projection", "leaves the box", (BOX, "pass")),
    wrong(P, "box around the previous iterate", "around the input itself", (
        "                " + STEP.join(["output = ", ""]) + "\n                " + BOX,
        "                last = output.detach()\n                output = " + STEP
        + "\n                output = torch.max(torch.min(output, last + self.epsilon), last - self.epsilon)")),
    wrong(P, "projected only at the end", "not only at the end", (BOX, "pass"), (
        "        return output", "        return torch.max(torch.min(output, input + self.epsilon), input - self.epsilon)")),
    wrong(P, "clamped to 0..1", "normalised images", (BOX, BOX + "\n                output = output.clamp(0, 1)")),
    wrong(P, "sign missing", "take its sign|raises|moves|no attack|box", ("output.grad.sign()", "output.grad")),
    wrong(P, "gradients summed over the steps", "sum of all gradients", ("        for _ in range(self.num_steps):\n", "        total = 0\n        for _ in range(self.num_steps):\n"), (
        "                output = " + STEP, "                total = total + output.grad\n                output = output - self.step_size * total.sign()")),
    wrong(P, "one step only", "moved in 1 steps", ("range(self.num_steps)", "range(1)")),
    wrong(P, "one step too many", "steps", ("range(self.num_steps)", "range(self.num_steps + 1)")),
    wrong(P, "model left in training mode", "training mode", ("        return output", "        model.train()\n        return output")),
    wrong(P, "model called in training mode", "training mode", ("        output = input.clone().detach()", "        output = input.clone().detach()\n        model.train()"), (
        "        return output", "        model.eval()\n        return output")),
    wrong(P, "parameters left frozen", "leaves parameters frozen", ("param.requires_grad = want", "pass")),
    wrong(P, "gradients left on the parameters", "leaves gradients on the parameters", ("param.requires_grad = False", "pass")),
    wrong(P, "input changed", "modifies its input images", ("input.clone().detach()", "input.detach()"), (
        "                output = " + STEP + "\n                " + BOX,
        "                origin = output.detach().clone() if _ == 0 else origin\n"
        "                input.copy_(torch.max(torch.min(output - self.step_size * output.grad.sign(),\n"
        "                                                origin + self.epsilon), origin - self.epsilon))\n"
        "                output = input.detach()")),
    wrong(P, "result keeps its graph", "autograd graph", ("        return output", "        output.requires_grad = True\n        return output")),
    wrong(P, "epsilon hard-coded", "box|epsilon", (BOX, BOX.replace("self.epsilon", "0.1"))),
    wrong(P, "step size taken for epsilon", "steps are not|moves|box", ("self.step_size * output", "self.epsilon * output")),
    wrong(P, "graph grows over the steps", "graph grows", (
        "            output.requires_grad = True\n", ""), ("input.clone().detach()", "input.clone().detach().requires_grad_(True)"), (
        "            loss.backward()\n            with torch.no_grad():\n                output = " + STEP + "\n                " + BOX + "\n            output = output.detach()\n",
        "            grad = torch.autograd.grad(loss, output, retain_graph=True)[0]\n            output = output - self.step_size * grad.sign()\n            " + BOX + "\n"), (
        "        return output", "        return output.detach()")),
]
ADVERSARIAL = [
    attacking("recurses", "attack only if|Attack only if|recursion", ("            self.eval()\n", "")),
    attacking("attacks in evaluation too", "evaluation mode it attacks|recursion", ("        if self.training:\n", "        if not getattr(self, 'busy', False):\n            self.busy = True\n"), (
        "            self.eval()\n", ""), ("            self.train()\n", "            self.busy = False\n")),
    attacking("needs targets that main.py never passes", "without labels", ("def forward(self, x):", "def forward(self, x, target=None):"), (
        "if self.training:", "if self.training and target is not None:")),
    attacking("leaves evaluation mode on", "in evaluation mode", ("            self.train()\n", "")),
    attacking("attacks, but the loss uses the clean images", "clean images", ("x = self.attacker.perturb(self, x)", "adversarial = self.attacker.perturb(self, x)")),
    attacking("learns nothing", "gradient reaches|raises RuntimeError", ("        x = self.features(x)\n", "        with torch.no_grad():\n            x = self.features(x)\n")),
    attacking("no attack at all", "no adversarial sample", (
        "            self.eval()\n            x = self.attacker.perturb(self, x)\n            self.train()\n", "            pass\n")),
]
WRONG = [*CONVOLUTION, *ATTENTION, *BLOCK, *VIT, *PGD, *ADVERSARIAL, *INVARIANTS, *attacks_wrong.WRONG]
