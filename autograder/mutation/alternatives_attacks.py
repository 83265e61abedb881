"""Right attacks and adversarial trainings, written by hand in ways that students choose, for `rewrites` to vary."""

from autograder.mutation.alternatives import Alternative

START = """
class PGDAttack:
    def __init__(self, loss_fn, num_steps=10, step_size=0.01, epsilon=0.1):
        self.loss_fn, self.num_steps, self.step_size, self.epsilon = loss_fn, num_steps, step_size, epsilon

    def perturb(self, model, input):
"""
KEEP = """
        kept = [(parameter, parameter.grad) for parameter in model.parameters()]
        for parameter, _ in kept:
            parameter.grad = None
"""
RESTORE = """
        for parameter, gradient in kept:
            parameter.grad = gradient
"""
ATTACKS = {
    "backward, gradients restored": START + KEEP + """
        output = input.clone().detach()
        for _ in range(self.num_steps):
            output.requires_grad_(True)
            logits = model(output)
            self.loss_fn(logits, logits.argmin(dim=1)).backward()
            with torch.no_grad():
                output = output - self.step_size * output.grad.sign()
                output = torch.minimum(torch.maximum(output, input - self.epsilon), input + self.epsilon)
""" + RESTORE + """
        return output.detach()
""",
    "autograd.grad, perturbation clipped": START + """
        output = input.detach().clone()
        for _ in range(self.num_steps):
            output = output.detach().requires_grad_(True)
            logits = model(output)
            loss = self.loss_fn(logits, logits.min(dim=1).indices)
            gradient = torch.autograd.grad(loss, output)[0]
            moved = output.detach() - self.step_size * torch.sign(gradient)
            output = input + torch.clamp(moved - input, min=-self.epsilon, max=self.epsilon)
        return output.detach()
""",
    "the perturbation as the leaf": START + """
        delta = torch.zeros_like(input)
        for _ in range(self.num_steps):
            delta.requires_grad_(True)
            logits = model(input + delta)
            loss = self.loss_fn(logits, logits.argmin(dim=1))
            gradient, = torch.autograd.grad(loss, [delta])
            delta = (delta.detach() - self.step_size * gradient.sign()).clamp(-self.epsilon, self.epsilon)
        return (input + delta).detach()
""",
    "torch.func.grad": START + """
        def loss_of(images, labels):
            return self.loss_fn(model(images), labels)

        output = input.detach().clone()
        for _ in range(self.num_steps):
            with torch.no_grad():
                labels = model(output).argmin(dim=1)
            gradient = torch.func.grad(loss_of)(output, labels)
            output = output - self.step_size * gradient.sign()
            output = torch.clamp(output, input - self.epsilon, input + self.epsilon)
        return output.detach()
""",
    "a deep copy of the network": START + """
        import copy
        twin = copy.deepcopy(model)
        output = input.clone()
        for _ in range(self.num_steps):
            output = output.detach().requires_grad_()
            logits = twin(output)
            loss = self.loss_fn(logits, torch.argmin(logits, dim=1))
            twin.zero_grad()
            loss.backward()
            output = output - self.step_size * output.grad.sign()
            output = torch.max(torch.min(output, input + self.epsilon), input - self.epsilon)
        return output.detach()
""",
    "image by image": START + """
        results = []
        for image in input.split(1):
            output = image.detach().clone()
            for _ in range(self.num_steps):
                output.requires_grad_(True)
                logits = model(output)
                loss = self.loss_fn(logits, logits.argmin(dim=1))
                gradient, = torch.autograd.grad(loss, output)
                output = output.detach() - self.step_size * gradient.sign()
                output = output.clamp(image - self.epsilon, image + self.epsilon)
            results.append(output)
        return torch.cat(results)
""",
    "two halves of the batch": START + """
        pieces = []
        for piece in torch.split(input, (len(input) + 1) // 2):
            output = piece.detach().clone()
            for _ in range(self.num_steps):
                output.requires_grad_(True)
                logits = model(output)
                gradient = torch.autograd.grad(self.loss_fn(logits, logits.argmin(dim=1)), output)[0]
                with torch.no_grad():
                    output = output - self.step_size * gradient.sign()
                    output = torch.clamp(output, min=piece - self.epsilon, max=piece + self.epsilon)
            pieces.append(output)
        return torch.cat(pieces, dim=0)
""",
    "clean logits before and attacked ones after": START + """
        with torch.no_grad():
            clean = model(input).argmax(dim=1)
        output = input.detach().clone()
        for _ in range(self.num_steps):
            output.requires_grad_(True)
            logits = model(output)
            gradient, = torch.autograd.grad(self.loss_fn(logits, logits.argmin(dim=1)), output)
            output = output.detach() - self.step_size * gradient.sign()
            output = output.clamp(input - self.epsilon, input + self.epsilon)
        with torch.no_grad():
            self.fooled = (model(output).argmax(dim=1) != clean).float().mean().item()
        return output
""",
}
RANDOM_START = ATTACKS["autograd.grad, perturbation clipped"].replace(
    "input.detach().clone()", "input.detach() + self.epsilon * (2 * torch.rand_like(input) - 1)")

ADV = """
class AdvSimpleNet(SimpleNet):
    def __init__(self, conv_op=nn.Conv2d, num_classes=100):
        super().__init__(conv_op, num_classes)
        self.attacker = PGDAttack(nn.CrossEntropyLoss(), num_steps=5, step_size=0.02, epsilon=0.1)
"""
TRAININGS = {
    "modes of all modules restored": ADV + """
    def forward(self, x):
        if self.training:
            modes = [module.training for module in self.modules()]
            self.eval()
            x = self.attacker.perturb(self, x)
            for module, mode in zip(self.modules(), modes):
                module.training = mode
        return super().forward(x)
""",
    "evaluation first": ADV + """
    def forward(self, images):
        if not self.training:
            return super().forward(images)
        self.train(False)
        with torch.enable_grad():
            images = self.attacker.perturb(self, images).detach()
        self.train(True)
        return super().forward(images)
""",
    "a copy of the network is attacked": ADV + """
    def forward(self, x):
        if self.training:
            import copy
            twin = copy.deepcopy(self).eval()
            x = self.attacker.perturb(twin, x)
        return self.fc(self.avgpool(self.features(x)).flatten(1))
""",
    "the attack is made in forward": """
class AdvSimpleNet(SimpleNet):
    def forward(self, x):
        if self.training:
            attack = default_attack(nn.CrossEntropyLoss(), num_steps=3, step_size=0.05, epsilon=0.1)
            self.eval()
            x = attack.perturb(self, x)
            self.train()
        return super().forward(x)
""",
    "the layers as a network of their own": ADV + """
    def classify(self, x):
        return self.fc(self.avgpool(self.features(x)).flatten(1))

    def forward(self, x):
        if self.training:
            x = self.attacker.perturb(nn.Sequential(self.features, self.avgpool, nn.Flatten(), self.fc), x)
        return self.classify(x)
""",
    "an attack of its own": """
class AdvSimpleNet(SimpleNet):
    def attacked(self, images, steps=4, size=0.03, epsilon=0.1):
        result = images.detach().clone()
        for _ in range(steps):
            result.requires_grad_(True)
            logits = super().forward(result)
            loss = F.cross_entropy(logits, logits.argmin(dim=1))
            gradient, = torch.autograd.grad(loss, result)
            result = (result - size * gradient.sign()).detach()
            result = torch.clamp(result, images - epsilon, images + epsilon)
        return result

    def forward(self, images):
        return super().forward(self.attacked(images) if self.training else images)
""",
    "a flag instead of the mode": ADV + """
        self.busy = False

    def forward(self, x):
        if self.training and not self.busy:
            self.busy = True
            try:
                x = self.attacker.perturb(self, x)
            finally:
                self.busy = False
        return super().forward(x)
""",
}

ATTACKING = [*(Alternative("pgd", name, source) for name, source in ATTACKS.items()),
             Alternative("pgd", "random start", RANDOM_START, free=True),
             *(Alternative("adversarial", name, source) for name, source in TRAININGS.items())]
