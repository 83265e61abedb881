"""PGD and adversarial training: right solutions of other forms than those of right.py."""

from autograder.variants import Variant, textbook

P, T = "pgd", "adversarial"


def attack_class(perturb: str, base: str = "") -> str:
    """Source of a PGDAttack with this body of perturb."""
    body = "\n".join(f"        {line}" if line else "" for line in perturb.strip("\n").splitlines())
    return (f"class PGDAttack{base}:\n    def __init__(self, loss_fn, num_steps=10, step_size=0.01, epsilon=0.1):\n"
            f"        super().__init__()\n        self.loss_fn, self.n, self.s, self.e = loss_fn, num_steps, step_size, "
            f"epsilon\n\n    def perturb(self, model, input):\n{body}\n")


FUNC_GRAD = attack_class('''
x, image = input.detach(), input.detach().clone()
objective = lambda z: (lambda logits: self.loss_fn(logits, logits.detach().argmin(1)))(model(z))
for _ in range(self.n):
    image = (image - self.s * torch.func.grad(objective)(image).sign()).clamp(x - self.e, x + self.e)
return image.detach()
''')
VMAP = attack_class('''
x = input.detach()
def objective(z):
    logits = model(z[None])
    return self.loss_fn(logits, logits.argmin(1))
slope, image = torch.func.vmap(torch.func.grad(objective)), x.clone()
for _ in range(self.n):
    image = (image - self.s * slope(image).sign()).clamp(x - self.e, x + self.e)
return image.detach()
''')
FUNCTIONAL_CALL = attack_class('''
weights = {k: v.detach() for k, v in model.named_parameters()} | dict(model.named_buffers())
image = input.detach().clone()
for _ in range(self.n):
    image.requires_grad_()
    logits = torch.func.functional_call(model, weights, (image,))
    slope = torch.autograd.grad(self.loss_fn(logits, logits.min(1).indices), image)[0]
    image = image.detach().sub(slope.sign(), alpha=self.s)
    image = torch.minimum(torch.maximum(image, input - self.e), input + self.e).detach()
return image
''')
HALVES = attack_class('''
def half(x):
    delta = torch.zeros_like(x)
    for _ in range(self.n):
        delta.requires_grad_()
        logits = model(x + delta)
        slope, = torch.autograd.grad(self.loss_fn(logits, logits.argmin(1)) * len(x), delta)
        delta = (delta.detach() - self.s * slope.sign()).clamp(-self.e, self.e)
    return x + delta.detach()
middle = len(input) // 2
return torch.cat([half(part) for part in (input[:middle], input[middle:]) if len(part)]) if middle else half(input.detach())
''')
ONE_BY_ONE = attack_class('''
images = []
for x in input.detach().split(1):
    image = x.clone()
    for _ in range(self.n):
        image = image.detach().requires_grad_()
        logits = model(image)
        slope, = torch.autograd.grad(self.loss_fn(logits, logits.argmin(1)), image)
        image = torch.where((image - self.s * slope.sign() - x).abs() > self.e, x - self.e * slope.sign(), image - self.s * slope.sign())
        image = torch.clamp(image, min=x - self.e, max=x + self.e)
    images.append(image.detach())
return torch.cat(images)
''')
DEEP_COPY = attack_class('''
import copy
net = copy.deepcopy(model).eval()
image = input.clone().detach()
for _ in range(self.n):
    image.requires_grad = True
    logits = net(image)
    self.loss_fn(logits, logits.argmin(1)).backward()
    image = torch.clip(image.detach() - self.s * image.grad.sign(), input - self.e, input + self.e).detach()
return image
''')
CLEAN_AT_THE_END = attack_class('''
image = input.clone().detach()
for _ in range(self.n):
    image.requires_grad_(True)
    logits = model(image)
    slope, = torch.autograd.grad(self.loss_fn(logits, logits.argmin(1)), image)
    image = torch.clamp(image.detach() - self.s * slope.sign(), input.detach() - self.e, input.detach() + self.e)
with torch.no_grad():
    self.dropped = (model(input).argmax(1) != model(image).argmax(1)).float().mean().item()
return image
''')
LABEL_FIRST = attack_class('''
image = input.clone().detach()
for _ in range(self.n):
    with torch.no_grad():
        label = model(image).softmax(1).topk(1, largest=False).indices[:, 0]
    image.requires_grad_(True)
    loss = self.loss_fn(model(image), label)
    loss.backward(inputs=[image])
    with torch.no_grad():
        image = image - self.s * torch.sign(image.grad)
        image = input + (image - input).clamp_(-self.e, self.e)
return image.detach()
''')
SMALL_START = attack_class('''
image = input.detach() + 0.001 * torch.randn_like(input)
image = torch.clamp(image, input - self.e, input + self.e).detach()
for _ in range(self.n):
    image.requires_grad_(True)
    logits = model(image)
    slope, = torch.autograd.grad(self.loss_fn(logits, logits.argmin(1)), image)
    image = torch.clamp(image.detach() - self.s * slope.sign(), input.detach() - self.e, input.detach() + self.e)
return image.detach()
''')
NUMPY_START = "import numpy as np\n\n\n" + SMALL_START.replace("0.001 * torch.randn_like(input)", "torch.from_numpy(np.random.default_rng().uniform("
                                  "-self.e, self.e, input.shape)).to(input)")
FIXED_POINT = attack_class('''
image, done = input.clone().detach(), 0
while done < self.n:
    image.requires_grad_(True)
    logits = model(image)
    slope, = torch.autograd.grad(self.loss_fn(logits, logits.argmin(1)), image)
    before, image = image.detach(), torch.clamp(image.detach() - self.s * slope.sign(), input.detach() - self.e, input.detach() + self.e)
    if torch.equal(before, image):
        break
    done += 1
return image.detach()
''')
IN_PLACE = attack_class('''
was = model.training
model.eval()
image = input.detach().clone().requires_grad_()
with torch.enable_grad():
    for step in range(self.n):
        logits = model(image)
        self.loss_fn(logits, torch.min(logits, dim=1)[1]).backward()
        with torch.no_grad():
            image -= self.s * image.grad.sign()
            image.clamp_(input - self.e, input + self.e)
        image.grad.zero_()
model.zero_grad()
model.train(was)
return image.detach()
''')
COMPILED = attack_class('''
net = torch.compile(model)
image = input.clone().detach()
for _ in range(self.n):
    image.requires_grad_(True)
    logits = net(image)
    slope, = torch.autograd.grad(self.loss_fn(logits, logits.argmin(1)), image)
    image = torch.clamp(image.detach() - self.s * slope.sign(), input.detach() - self.e, input.detach() + self.e)
return image.detach()
''')
PIXELS = attack_class('''
mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
low, high = torch.max(input - self.e, -mean / std).detach(), torch.min(input + self.e, (1 - mean) / std).detach()
image = input.clone().detach()
for _ in range(self.n):
    image.requires_grad_(True)
    logits = model(image)
    slope, = torch.autograd.grad(self.loss_fn(logits, logits.argmin(1)).sum(), image, retain_graph=False)
    image = (image.detach().double() - self.s * slope.double().sign()).clamp(low.double(), high.double()).float()
return image.detach()
''', "(nn.Module)")
NEGATIVE = attack_class('''
image = input.clone().detach().requires_grad_(True)
optimizer = torch.optim.SGD([image], lr=self.s, maximize=True)
for _ in range(self.n):
    optimizer.zero_grad()
    logits = model(image)
    (-self.loss_fn(logits, logits.argmin(1))).backward(inputs=[image])
    image.grad.sign_()
    optimizer.step()
    image.data = torch.clamp(image.data, input.data - self.e, input.data + self.e)
return image.data.clone()
''')
PGD_RIGHT = [Variant(name, P, source) for name, source in [
    ("torch.func.grad", FUNC_GRAD), ("torch.func.vmap of grad", VMAP), ("functional_call", FUNCTIONAL_CALL),
    ("halves of a batch", HALVES), ("images one by one", ONE_BY_ONE), ("a deep copy of the network", DEEP_COPY),
    ("clean and attacked logits asked at the end", CLEAN_AT_THE_END), ("a forward pass for the label at each step", LABEL_FIRST),
    ("a small random start", SMALL_START), ("a random start that no seed repeats", NUMPY_START),
    ("stops where no pixel moves", FIXED_POINT), ("in place, with zero_grad", IN_PLACE), ("torch.compile", COMPILED),
    ("an nn.Module that keeps to the range of pixels", PIXELS), ("ascent on the negative loss by SGD", NEGATIVE),
    ("reference PGD", "")]]


def network_class(forward: str, init: str = "", base: str = "SimpleNet") -> str:
    """Source of an AdvSimpleNet with this body of forward, and lines for __init__."""
    lines = [f"        {line}" if line else "" for text in (init, forward) for line in [*text.strip("\n").splitlines(), "#"]]
    cut = lines.index("        #")
    start = "super().__init__(conv_op, num_classes)" if base == "SimpleNet" else "super().__init__()"
    return (f"class AdvSimpleNet({base}):\n    def __init__(self, conv_op=nn.Conv2d, num_classes=100):\n        {start}\n"
            + "\n".join(lines[:cut]) + "\n\n    def forward(self, x):\n" + "\n".join(lines[cut + 1:-1]) + "\n")


FAST = '''
if self.training:
    self.eval()
    with torch.enable_grad():
        image = (x + torch.empty_like(x).uniform_(-0.1, 0.1)).detach().requires_grad_()
        logits = super().forward(image)
        slope, = torch.autograd.grad(nn.functional.cross_entropy(logits, logits.argmin(1)), image)
    x = (x + (image - 0.125 * slope.sign() - x).clamp(-0.1, 0.1)).detach()
    self.train()
return super().forward(x)
'''
ADVERSARIAL_RIGHT = [Variant(name, T, source) for name, source in [
    ("reference adversarial training", ""),
    ("a deep copy is attacked", network_class('''
import copy
if self.training:
    x = self.attack.perturb(copy.deepcopy(self).eval(), x)
return super().forward(x)
''', "self.attack = PGDAttack(nn.CrossEntropyLoss(), 4, 0.02, 0.1)")),
    ("the attack is made in forward, when it is needed", textbook.PGD + network_class('''
if self.training:
    if not hasattr(self, "attack"):
        self.attack = PGDAttack(loss_fn=nn.CrossEntropyLoss(), num_steps=3, epsilon=0.2, step_size=0.1)
    self.eval()
    x = self.attack.perturb(self, x)
    self.train()
return super().forward(x)
''')),
    ("one random step with a loss of its own", network_class(FAST)),
    ("the parent's forward is attacked", textbook.PGD.replace("wanted = [param.requires_grad for param in model.parameters()]", "net, model = model, model.forward_clean\n        wanted = [param.requires_grad for param in net.parameters()]")
     .replace("in model.parameters()", "in net.parameters()").replace("zip(model.parameters()", "zip(net.parameters()") + network_class('''
if self.training:
    x = self.attack.perturb(self, x)
return self.forward_clean(x)
''', "self.attack = PGDAttack(nn.CrossEntropyLoss(), num_steps=5)\nself.forward_clean = super().forward")),
    ("a function in place of the network", textbook.PGD.replace("        for param in model.parameters():\n            param.requires_grad = False\n", "").replace(
        "        wanted = [param.requires_grad for param in model.parameters()]\n", "").replace(
        "        for param, want in zip(model.parameters(), wanted):\n            param.requires_grad = want\n", "").replace(
        "loss.backward()", "loss.backward(inputs=[output])") + network_class('''
if self.training:
    x = self.attack.perturb(lambda images: SimpleNet.forward(self, images), x)
return SimpleNet.forward(self, x)
''', "self.attack = PGDAttack(nn.CrossEntropyLoss(), num_steps=5)")),
    ("a flag against the recursion", textbook.PGD + network_class('''
if self.training and not self.busy:
    self.busy = True
    try:
        x = self.attack.perturb(self, x)
    finally:
        self.busy = False
return super().forward(x)
''', "self.busy, self.attack = False, PGDAttack(nn.CrossEntropyLoss(), num_steps=2, step_size=0.05)")),
    ("only the network's own flag is switched", textbook.PGD + network_class('''
if self.training:
    self.training = False
    x = self.attack.perturb(self, x)
    self.training = True
return super().forward(x)
''', "self.attack = default_attack(nn.CrossEntropyLoss(), num_steps=5)")),
    ("clean accuracy is logged", network_class('''
if not self.training:
    return super().forward(x)
logits = super().forward(self.attack.perturb(self, x))
with torch.no_grad():
    self.clean = super().forward(x).argmax(1)
return logits
''', "self.attack = PGDAttack(nn.CrossEntropyLoss(), num_steps=5)")),
    ("halves of the batch", network_class('''
if self.training:
    x = torch.cat([self.attack.perturb(self, part) for part in x.split((len(x) + 1) // 2)])
    return torch.cat([super(AdvSimpleNet, self).forward(part) for part in x.split(2)])
return super().forward(x)
''', "self.attack = PGDAttack(nn.CrossEntropyLoss(), num_steps=5)")),
    ("with layer norm and dropout", network_class('''
if self.training:
    x = self.attack.perturb(self, x)
return self.fc(self.more(self.avgpool(self.features(x)).flatten(1)))
''', "self.more = nn.Sequential(nn.LayerNorm(512), nn.Dropout(0.1))\n"
     "self.attack = PGDAttack(nn.CrossEntropyLoss(), num_steps=5)")),
    ("a network inside a module", network_class('''
if self.training:
    x = self.attack.perturb(self.net, x)
return self.net(x)
''', "self.net = SimpleNet(conv_op, num_classes)\nself.attack = PGDAttack(nn.CrossEntropyLoss(), num_steps=5)", "nn.Module")),
    ("a larger epsilon", network_class('''
if self.training:
    x = self.attack.perturb(self, x)
return super().forward(x)
''', "self.attack = PGDAttack(nn.CrossEntropyLoss(), 7, 0.05, 0.3)")),
    ("attached to SimpleNet, AdvSimpleNet not written", textbook.ADVERSARIAL.replace("class AdvSimpleNet(SimpleNet):", "class _Attacked(SimpleNet):") + '''

class AdvSimpleNet(SimpleNet):
    def forward(self, x):
        raise NotImplementedError("3.3, bonus: attack the input while training")


SimpleNet = _Attacked
'''),
    ("an attack with an argument more", '''
class PGDAttack(default_attack):
    def __init__(self, *arguments, random_start=True, **settings):
        super().__init__(*arguments, **settings)
        self.random_start = random_start

    def perturb(self, model, input, label=None):
        return super().perturb(model, input + 1e-3 * self.random_start * torch.randn_like(input))

''' + network_class('''
if self.training:
    assert self.attack.random_start is False
    x = self.attack.perturb(self, x, label=None)
return super().forward(x)
''', "self.attack = PGDAttack(nn.CrossEntropyLoss(), num_steps=5, random_start=False)")),
]]
RIGHT = [*PGD_RIGHT, *ADVERSARIAL_RIGHT]
