"""PGD and adversarial training: mistakes that came after those of wrong.py."""

from autograder.variants import Variant, changed, textbook

P, T = "pgd", "adversarial"
LOOP = "        for _ in range(self.num_steps):\n"
STEP = "output - self.step_size * output.grad.sign()"
BOX = "output = torch.max(torch.min(output, input + self.epsilon), input - self.epsilon)"
LABEL, LOSS, COPY, END = ("pred.argmin(dim=1)", "self.loss_fn(pred, label)", "output = input.clone().detach()",
                          "        return output")
ATTACK = "            self.eval()\n            x = self.attacker.perturb(self, x)\n            self.train()\n"
HEAD = "        x = self.features(x)\n"


def wrong(name: str, reason: str, *changes: tuple[str, str], allowed: str = "") -> Variant:
    return Variant(name, P, changed(P, *changes), reason, allowed=allowed)


def training(name: str, reason: str, *changes: tuple[str, str]) -> Variant:
    return Variant(name, T, textbook.PGD + changed(T, *changes), reason)


def step(text: str) -> tuple[str, str]:
    return STEP, text


PGD_WRONG = [
    wrong("stops when all images are fooled", "images moved in|step \\d+ of", (
        "            label = ", "            first = pred.argmax(1) if _ == 0 else first\n"
        "            if (pred.argmax(1) != first).all():\n                break\n            label = "), allowed="detach it"),
    wrong("stops when the loss no longer falls", "images moved in|step", (LOOP, "        least = 1e9\n" + LOOP), (
        "            loss.backward()", "            if loss.item() > least:\n                break\n            least = loss.item()\n            loss.backward()"), allowed="detach it"),
    wrong("squeezes a batch of one", "raises", ("pred = model(output)", "pred = model(output).squeeze()")),
    wrong("one direction for the whole batch", "% of the pixels of image", step("output - self.step_size * output.grad.mean(0, keepdim=True).sign()")),
    wrong("one direction for all channels", "% of the pixels of image", step("output - self.step_size * output.grad.sum(1, keepdim=True).sign()")),
    wrong("the first image's label for all", "label is not the least|label is the least confident one: .* most confident", (LABEL, "pred.argmin(dim=1)[:1].expand(len(pred))")),
    wrong("the label of the whole batch's mean", "label is not the least confident one", (LABEL, "pred.mean(0).argmin().expand(len(pred))")),
    wrong("the second least confident label", "label is not the least confident one", (LABEL, "pred.argsort(dim=1)[:, 1]")),
    wrong("the logit nearest zero", "label is not the least confident one", (LABEL, "pred.abs().argmin(dim=1)")),
    wrong("the label of the first step of the first call", "in a later call|alone in a batch|raises", (
        "            label = pred.argmin(dim=1)", "            self.label = label = getattr(self, 'label', pred.argmin(dim=1))")),
    wrong("the result is kept by the batch's size", "in a later call|alone in a batch", ("        return output", "        self.kept = getattr(self, 'kept', {})\n"
                                                                      "        return self.kept.setdefault(input.shape, output)")),
    wrong("the last image is not attacked", "alone in a batch|image", (END, "        output[-1] = input[-1]\n        return output")),
    wrong("the odd image is left out", "is not attacked", (END, "        odd = len(input) // 2 * 2\n        return torch.cat([output[:odd], input[odd:].detach()])")),
    wrong("no lower side of the box", "leaves the box", (BOX, "output = torch.min(output, input + self.epsilon)")),
    wrong("no upper side of the box", "leaves the box", (BOX, "output = torch.max(output, input - self.epsilon)")),
    wrong("half the box", "clip each pixel", (BOX, BOX.replace("epsilon", "epsilon / 2"))),
    wrong("the perturbation is scaled into the box", "clip each pixel", (BOX, "delta = output - input\n                output = input + delta * (self.epsilon / delta.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-9)).clamp(max=1)")),
    wrong("an L2 ball", "leaves the box|clip each pixel|pixel", (BOX, "delta = output - input\n                output = input + delta * (self.epsilon / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1).clamp(min=1e-9)).clamp(max=1)")),
    wrong("random start outside the box", "not the inputs of all forward passes|box", (COPY, "output = input.detach() + 2 * self.epsilon * (2 * torch.rand_like(input) - 1)")),
    wrong("the last step is not clipped", "leaves the box", (BOX, "output = output if _ == self.num_steps - 1 else torch.max(torch.min(output, input + self.epsilon), input - self.epsilon)")),
    wrong("clipped before the step", "leaves the box", ("                output = " + STEP + "\n                " + BOX, "                moved = output.grad.sign()\n                " + BOX + "\n                output = output - self.step_size * moved")),
    wrong("an epsilon of zero is the default", "leaves the box|nothing", ("self.epsilon = epsilon", "self.epsilon = epsilon or 0.1")),
    wrong("clamped to -1..1", "another range", (BOX, BOX + "\n                output = output.clamp(-1, 1)")),
    wrong("softmax before the loss", "% of the pixels of image", (LOSS, "self.loss_fn(pred.softmax(dim=1), label)")),
    wrong("divided by the gradient's norm", "proportional to the gradient", step("output - self.step_size * output.grad / output.grad.norm()")),
    wrong("divided by the gradient's largest value", "proportional to the gradient", step("output - self.step_size * output.grad / output.grad.abs().max()")),
    wrong("steps shrink with their number", "moves a pixel by", step("output - self.step_size / self.num_steps * output.grad.sign()")),
    wrong("steps decay", "moves a pixel by", step("output - self.step_size * 0.9 ** _ * output.grad.sign()")),
    wrong("momentum", "step \\d+", (LOOP, "        total = 0\n" + LOOP), step("output - self.step_size * total.sign()"), (
        "            with torch.no_grad():\n", "            with torch.no_grad():\n                total = 0.9 * total + output.grad\n")),
    wrong("the gradient of the first step", "first point, not at the current", ("            with torch.no_grad():\n", "            with torch.no_grad():\n                first = output.grad if _ == 0 else first\n"), step("output - self.step_size * first.sign()")),
    wrong("the number of steps from epsilon and step size", "steps", ("range(self.num_steps)", "range(int(self.epsilon / self.step_size) if self.step_size else 0)")),
    wrong("noise in every step", "moves a pixel by|step", step("output - self.step_size * output.grad.sign() + 0.002 * torch.randn_like(output)")),
    wrong("every second step climbs", "direction of the gradient|step", step("output - (1 if _ % 2 == 0 else -1) * self.step_size * output.grad.sign()")),
    wrong("the default of num_steps", "num_steps=10", ("num_steps=10", "num_steps=20")),
    wrong("the default of step_size", "step_size=0.01", ("step_size=0.01", "step_size=0.02")),
    wrong("the default of epsilon", "epsilon=0.1", ("epsilon=0.1", "epsilon=0.2")),
    wrong("arguments in another order", "the order is", ("num_steps=10, step_size=0.01, epsilon=0.1", "num_steps=10, epsilon=0.1, step_size=0.01")),
    wrong("a loss of its own", "whatever loss_fn is given", (LOSS, "nn.functional.cross_entropy(pred, label)")),
    wrong("the seed is set", "sets the seed", (COPY, COPY + "\n        torch.manual_seed(0)")),
    wrong("gradients left switched off", "gradient mode", (END, "        torch.set_grad_enabled(False)\n        return output")),
    wrong("anomaly detection left on", "anomaly", (COPY, COPY + "\n        torch.autograd.set_detect_anomaly(True)")),
    wrong("float64 by default from now on", "default dtype", (END, "        torch.set_default_dtype(torch.float64)\n        return output")),
    wrong("a hook left on the network", "hooks", (COPY, COPY + "\n        model.register_forward_hook(lambda *_: None)")),
    wrong("requires_grad left on the input", "requires_grad=True on its input", (COPY, COPY + "\n        input.requires_grad_(True)"), (END, "        return output.detach()")),
    wrong("the input's own memory", "modifies its input|shares memory", (END, "        return input.copy_(output)")),
    wrong("fails without steps", "raises", (END, "        return output if loss >= 0 else output")),
]
ADVERSARIAL_WRONG = [
    training("attacks every second batch", "clean images in step|attack each batch", ("        if self.training:\n", "        self.calls = getattr(self, 'calls', 0) + self.training\n        if self.training and self.calls % 2:\n")),
    training("attacks every third batch", "attack each batch", ("        if self.training:\n", "        self.calls = getattr(self, 'calls', 0) + self.training\n        if self.training and self.calls % 3 == 1:\n")),
    training("attacks until the first evaluation", "attack each batch", ("        if self.training:\n", "        self.done = getattr(self, 'done', False) or not self.training\n        if self.training and not self.done:\n")),
    training("attacks batches of more than one image", "attack each batch", ("if self.training:", "if self.training and len(x) > 1:")),
    training("attacks the first half of the batch", "are not attacked", (ATTACK, ATTACK.replace("x = self.attacker.perturb(self, x)", "x = torch.cat([self.attacker.perturb(self, x[:(len(x) + 1) // 2]), x[(len(x) + 1) // 2:]])"))),
    training("an epsilon of ten", "epsilon is 10", ("num_steps=5", "num_steps=5, step_size=2.0, epsilon=10.0")),
    training("twice the perturbation", "more than an attack with epsilon", (ATTACK, ATTACK.replace("x = self.attacker.perturb(self, x)", "x = x + 8 * (self.attacker.perturb(self, x) - x)"))),
    training("clamped to 0..1", "more than an attack with epsilon", (ATTACK, ATTACK.replace("self.attacker.perturb(self, x)", "self.attacker.perturb(self, x).clamp(0, 1)"))),
    training("climbs", "more confident", (ATTACK, ATTACK.replace("x = self.attacker.perturb(self, x)", "x = 2 * x - self.attacker.perturb(self, x)"))),
    training("random noise", "more confident", (ATTACK, "            x = x + 0.1 * torch.randn_like(x).sign()\n")),
    training("attacks another network", "more confident", (ATTACK, "            x = self.attacker.perturb(SimpleNet(num_classes=self.fc.out_features).eval(), x)\n")),
    training("features detached", "not have been used", (HEAD, "        x = self.features(x).detach()\n")),
    training("the head's weight by its data", "does not reach", ("return self.fc(x)", "return nn.functional.linear(x, self.fc.weight.data, self.fc.bias)")),
    training("half of the gradient", "parameters get", (HEAD, "        x = self.features(x)\n        x = 0.5 * x + 0.5 * x.detach()\n")),
    training("logits of clean and attacked images averaged", "are not the network's own|beside the attacked ones", (
        ATTACK, "            clean = self.fc(self.avgpool(self.features(x)).flatten(1))\n" + ATTACK), (
        "return self.fc(x)", "return (self.fc(x) + clean) / 2 if self.training else self.fc(x)")),
    training("frozen for good", "frozen|no gradient", (ATTACK, ATTACK + "            for parameter in self.parameters():\n                parameter.requires_grad_(False)\n")),
    training("gradients of the attack remain", "leaves gradients", (ATTACK, ATTACK + "            sum(one.sum() for one in self.parameters()).backward()\n")),
    training("training mode after evaluation", "attacks again, without end", ("        x = self.features(x)\n", "        self.train()\n        x = self.features(x)\n")),
    training("the loss's pass in evaluation mode", "attacks again, without end", ("            self.train()\n", ""), ("return self.fc(x)", "self.train(self.training or hasattr(self, 'was'))\n        return self.fc(x)"), (
        "            self.eval()\n", "            self.was = True\n            self.eval()\n")),
    training("the first batch's samples for all of its size", "more than an attack|clean|attack", (ATTACK, "            self.kept = getattr(self, 'kept', {})\n" + ATTACK.replace("x = self.attacker.perturb(self, x)", "x = self.kept.setdefault(len(x), self.attacker.perturb(self, x))"))),
    training("images changed in place", "modifies its input", (ATTACK, ATTACK.replace("x = self.attacker.perturb(self, x)", "x.copy_(self.attacker.perturb(self, x))"))),
    training("an attack of no steps", "no adversarial sample", ("num_steps=5", "num_steps=0")),
    training("the whole network under no_grad", "no_grad", (ATTACK, ATTACK + "            with torch.no_grad():\n                return self.fc(self.avgpool(self.features(x)).flatten(1))\n")),
]
WRONG = [*PGD_WRONG, *ADVERSARIAL_WRONG]
