"""3.1.1: the convolution: forward, backward and module. The seed draws the shapes and values.

Backward passes are judged at geometries for which the student's forward pass is right, if there are any, and where the
forward pass is wrong also as its derivative, so that a mistake in forward does not count again.
"""

from itertools import combinations

import numpy as np

from autograder import oracle
from autograder.checks import check
from autograder.compare import CheckFailed, Remark, expect_close, format_shape, is_close
from autograder.parts.convolution_cases import TENSORS, Case
from autograder.parts.invariants import expect_speed, expect_state, same
from autograder.process import StudentError

GEOMETRIES = ((3, 1, 0), (3, 1, 1), (3, 2, 1), (3, 3, 0), (1, 2, 0), (5, 1, 2), (7, 2, 3))  # K, stride, padding


def forward(ask, case: Case, **settings) -> dict:
    """Raise CheckFailed unless the output is right. Returns the facts."""
    facts, results = case.run(ask, **settings)
    expect_close("the output", results.get("y"), case.y, str(case), case.wrong_outputs(), within=case.tolerance())
    return facts


def is_right(ask, case: Case, **settings) -> bool:
    """Whether the output is right."""
    try:
        return is_close(case.run(ask, **settings)[1]["y"], case.y, within=case.tolerance())
    except StudentError:
        return False


def working_settings(ask, rng) -> dict:
    """Settings of Case for which the student's forward pass is right, if there are any; the basis of other checks.

    A mistake in one feature, such as an optional bias, then fails its own check only.
    """
    for bias in (True, False):
        if is_right(ask, Case(rng, bias=bias, square=True)):
            return {"bias": bias, "square": not is_right(ask, Case(rng, bias=bias, square=False))}
    return {"bias": True, "square": True}


def working_cases(ask, rng, **changes) -> list[Case]:
    """A case for each of GEOMETRIES at which the forward pass is right; if there is none, the plain one."""
    settings = {**working_settings(ask, rng), **changes}
    cases = [Case(rng, K=K, stride=s, padding=p, **settings) for K, s, p in GEOMETRIES]
    return [case for case in cases if is_right(ask, case)] or cases[:1]


def backward(ask, case: Case, name: str, **settings) -> None:
    """Raise CheckFailed unless the gradient `name` is right: the sheet's, or that of the student's own forward pass."""
    _, results = case.run(ask, backward=True, **settings)
    expected, within = case.gradients(), case.gradient_tolerances()[name]
    same_shape, got = results["y"].shape == case.y.shape, results.get(name)
    if same_shape and (got is None or not is_close(got, expected[name], within=within)) and (
            is_close(results["y"], case.y, within=case.tolerance()) or not own_derivative(ask, case, name)):
        expect_close(f"the gradient of the {TENSORS[name]}", results.get(name), expected[name], str(case),
                         case.wrong_gradients(name, expected), within=within)
    if results["y"].shape != case.y.shape and not own_derivative(ask, case, name):
        raise CheckFailed(f"the gradient of the {TENSORS[name]} is not the derivative of your forward pass ({case})")
    if not np.ptp(results["y"]) > 0:
        raise CheckFailed(
            f"the output is constant or not finite ({case}), so that the gradient of the {TENSORS[name]} cannot "
            "be checked"
        )


def own_derivative(ask, case: Case, name: str) -> bool:
    """Whether the gradient `name` is the derivative of the student's own, wrong, forward pass."""
    _, results = ask("convolution_slopes", case.arrays(), stride=case.stride, padding=case.padding)
    return is_close(results[f"{name}.analytic"], results[f"{name}.numeric"], 1e-3)


# ------------------------------------------------------------------------------------------------- forward


@check("convolution", "forward: square images, K 3, the defaults stride 1 and padding 0", weight=2)
def plain(ask, rng):
    settings = {**working_settings(ask, rng), "square": True}
    forward(ask, Case(rng, N=1, **settings))
    forward(ask, Case(rng, **settings))
    forward(ask, Case(rng, **settings), via="defaults")


@check("convolution", "forward: with and without bias", weight=1)
def bias(ask, rng):
    """Where the output is wrong with and without bias, the bias is judged by what it adds."""
    settings = {**working_settings(ask, rng), "square": True}
    if is_right(ask, Case(rng, **settings)):
        forward(ask, Case(rng, **{**settings, "bias": True}))
        forward(ask, Case(rng, **{**settings, "bias": False}))
        return
    case, shift = Case(rng, square=True), np.random.default_rng(0).normal()
    before = case.run(ask)[1]["y"]
    case.b = case.b + np.float32(shift)
    after = case.run(ask)[1]["y"]
    if not is_close(after - before, np.full_like(before, np.float32(shift)), 1e-3):
        raise CheckFailed(f"a bias that is larger by {shift:.3g} does not make the output larger by as much ({case})")


@check("convolution", "forward: images that are not square", weight=1)
def non_square(ask, rng):
    settings = {**working_settings(ask, rng), "square": False}
    other_sizes(ask, rng, [Case(rng, **settings), Case(rng, K=5, **settings)])


@check("convolution", "forward: padding", weight=1)
def padding(ask, rng):
    settings = working_settings(ask, rng)
    other_sizes(ask, rng, [Case(rng, K=K, padding=p, **settings) for K, p in ((3, 1), (5, 2), (3, 4))])


@check("convolution", "forward: stride, also with a remainder", weight=1)
def stride(ask, rng):
    settings = working_settings(ask, rng)
    geometries = [(3, 2, 0), (3, 4, 0), (3, 3, 1), (7, 2, 3)]
    other_sizes(ask, rng, [Case(rng, K=K, stride=s, padding=p, **settings) for K, s, p in geometries])


@check("convolution", "forward: kernel size 1, even, and as large as the image", weight=1)
def kernels(ask, rng):
    settings = working_settings(ask, rng)
    whole = Case(rng, K=5, **settings)
    whole.x = whole.x[:, :, :5, :5]
    whole.y = oracle.convolve(whole.x, whole.w, whole.b)
    other_sizes(ask, rng, [*[Case(rng, K=K, **settings) for K in (1, 2, 4)], whole])


def other_sizes(ask, rng, cases: list[Case]) -> None:
    """Raise CheckFailed unless the outputs are right. Skips cases whose kernel size, padding or stride fails alone, in
    its own check; if the plain output is wrong, only the shape counts."""
    plain_right = any(
        is_right(ask, Case(rng, square=square, bias=bias)) for square in (True, False) for bias in (True, False)
    )
    for case in cases:
        features = {"K": case.K, "padding": case.padding, "stride": case.stride}
        usual = {"K": 3, "padding": 0, "stride": 1}
        others = [name for name in features if features[name] != usual[name]]
        common = {"bias": case.b is not None, "square": case.x.shape[2] == case.x.shape[3]}
        if not plain_right:
            y = case.run(ask)[1]["y"]
            if y.shape != case.y.shape:
                raise CheckFailed(
                    f"the output ({case}) has the shape {format_shape(y)}, expected {format_shape(case.y)}"
                )
        elif len(others) < 2 or all(is_right(ask, Case(rng, **{name: features[name]}, **common)) for name in others):
            forward(ask, case)


# ------------------------------------------------------------------------------------------------ backward


@check("convolution", "backward: input", weight=2)
def gradient_of_input(ask, rng):
    for case in working_cases(ask, rng):
        backward(ask, case, "dx")


@check("convolution", "backward: weight", weight=2)
def gradient_of_weight(ask, rng):
    for case in working_cases(ask, rng, N=3):
        backward(ask, case, "dw")


@check("convolution", "backward: bias, and bias=None", weight=1)
def gradient_of_bias(ask, rng):
    for case in working_cases(ask, rng):
        if case.b is not None:
            backward(ask, case, "db")
    case = Case(rng, **{**working_settings(ask, rng), "bias": False})
    if is_right(ask, case):
        _, results = case.run(ask, backward=True)
        if "dw" not in results:
            raise CheckFailed(f"backward gives no gradient of the weight if bias is None ({case})")


@check("convolution", "backward: frozen input, weight and bias", weight=1)
def frozen(ask, rng):
    """With any of the three frozen, the others' gradients must be there and equal those with none frozen; whether these
    are right is checked elsewhere. A dY that is not contiguous, as no network of the sheet makes it, is a remark."""
    for case in working_cases(ask, rng)[:3]:
        own = {name[1]: gradient for name, gradient in case.run(ask, backward=True)[1].items() if name in TENSORS}
        for wanted in (list(part) for size in (1, 2) for part in combinations(own, size)):
            _, results = case.run(ask, backward=True, requires_grad=wanted)
            for name in wanted:
                frozen_names = " and the ".join(
                    TENSORS[f"d{other}"] for other in "xwb" if other in own and other not in wanted
                )
                expect_close(f"the gradient of the {TENSORS[f'd{name}']}, with the {frozen_names} frozen,",
                             results.get(f"d{name}"), own[name], str(case), tolerance=1e-5)
    remark_on_strides(ask, case, own)


def remark_on_strides(ask, case: Case, own: dict) -> None:
    try:
        _, results = case.run(ask, backward=True, noncontiguous_dy=True)
    except StudentError as error:
        raise Remark(
            f"backward raises {error.kind} for a dY that is not contiguous; no network of the sheet makes one, and "
            "it costs nothing: reshape() works where view() does not"
        ) from None
    if not all(is_close(results.get(f"d{name}", np.zeros(0)), own[name], 1e-5) for name in own):
        raise Remark(
            "backward gives other gradients for a dY that is not contiguous; no network of the sheet makes one, "
            "and it costs nothing"
        )


# ---------------------------------------------------------------------------------------------- invariants


@check("convolution", "CustomConv2d: the module, followed by an in-place ReLU", weight=1)
def module(ask, rng):
    case = working_cases(ask, rng)[-1]
    # An in-place ReLU follows each convolution of SimpleNet; autograd refuses it on a view returned by a Function.
    # Expected here are the output and gradient of the student's Function; other checks judge these.
    _, results = case.run(ask, via="module", inplace_relu=True, backward=results_shape(ask, case))
    expected = np.maximum(results["y"], 0)
    expect_close("the output of CustomConv2d and ReLU(inplace=True)", results.get("relu"), expected, str(case))
    case.dy = case.dy * (results["y"] > 0) if results["y"].shape == case.dy.shape else case.dy
    _, own = case.run(ask, backward=results["y"].shape == case.dy.shape)
    expect_close("the output of CustomConv2d", results["y"], own["y"], str(case), tolerance=1e-5)
    for name in set(own) & set(results) & set(TENSORS):
        expect_close(
            f"the gradient of the {TENSORS[name]} through CustomConv2d and ReLU",
            results[name],
            own[name],
            str(case),
            tolerance=1e-4,
        )


def results_shape(ask, case: Case) -> bool:
    """Whether the output has the shape of dy, so that there is a backward pass to check."""
    return case.run(ask)[1]["y"].shape == case.dy.shape


@check("convolution", "layers do not disturb each other, and calls leave nothing behind", weight=1, beside=True)
def memory(ask, rng):
    """Several layers of a network: all run forward, then all backward. Each must give what it gives alone."""
    cases = working_cases(ask, rng)
    for case in cases:
        if is_right(ask, case) and not is_right(ask, case.other_values()):
            raise CheckFailed(f"for other values of the same shapes, the output is wrong ({case}): something is kept "
                              "between calls")
    cases = [*cases, *[Case(rng, K=cases[0].K, stride=cases[0].stride, padding=cases[0].padding, N=N, square=True,
                            bias=cases[0].b is not None) for N in (1, 3)]]
    alone = [case.run(ask, backward=True)[1] for case in cases]
    arrays = {f"{i}.{name}": array for i, case in enumerate(cases) for name, array in case.arrays(True).items()}
    facts, together = ask("run_convolutions", arrays, settings=[[case.stride, case.padding] for case in cases])
    names = {"y": "output", **{name: f"gradient of the {tensor}" for name, tensor in TENSORS.items()}}
    for i, case in enumerate(cases):
        for name in names:
            if name in alone[i] and not same(together.get(f"{i}.{name}", np.zeros(0)), alone[i][name]):
                raise CheckFailed(
                    f"with other convolutions in the same network, the {names[name]} is another than alone "
                    f"({case}): something is kept between calls in a global variable or on the class. Keep it "
                    "on ctx"
                )
    if facts["changed"]:
        raise CheckFailed(
            f"{'backward' if facts['changed'][0][1] == 'dy' else 'the convolution'} modifies its argument "
            f"{facts['changed'][0][1]} in place: the other layers of a network need it as it is"
        )
    expect_state(facts, "the convolution")


@check("convolution", "float32 stays float32", weight=1, beside=True)
def types(ask, rng):
    """Wrong values are for other checks, but an output that no input changes is none."""
    case = working_cases(ask, rng)[0]
    facts, results = case.run(ask)
    if facts.get("dtype") != "float32":
        raise CheckFailed(
            f"input, weight and bias of float32 give an output of {facts.get('dtype')}: the next layer refuses "
            "it. Make buffers with x.new_zeros or torch.zeros_like"
        )
    require_values(case, results)


@check("convolution", "no convolution function is used, forward or backward", weight=1, beside=True)
def no_convolution(ask, rng):
    case = working_cases(ask, rng)[0]
    facts, results = case.run(ask, backward=results_shape(ask, case))
    if not facts.get("convolutions_disabled"):
        raise CheckFailed("torch's convolutions were re-enabled, which the sheet does not allow: staff will review "
                          "this file")
    require_values(case, results)


def require_values(case: Case, results: dict) -> None:
    """Raise CheckFailed if the output is constant: nothing was computed."""
    if not np.ptp(results["y"]) > 0:
        raise CheckFailed(f"the output is constant or not finite ({case}), so that this cannot be checked")


@check("convolution", "fast enough to train", weight=1, beside=True)
def speed(ask, rng):
    case = working_cases(ask, rng)[0]
    if is_right(ask, case):
        expect_speed(ask, "CustomConv2DFunction", "time_convolution", "unfold, matrix products and fold",
                                sizes=[[1, 4, 8], [2, 8, 16], [8, 16, 32]])
    else:
        require_values(case, case.run(ask)[1])
