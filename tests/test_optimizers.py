"""Optimizers against torch.optim on torch's own gradients, schedules against torch's schedulers and closed forms.

The torch network is written here with torch's layers and losses; nothing of it goes through this library's gradient.
"""

import decimal
import math
from decimal import Decimal

import numpy as np
import pytest

import chainrule as cr
from chainrule.errors import ParameterError
from chainrule.training.loop import clip
from chainrule.training.optimizers import find_optimizer, update
from chainrule.training.schedules import CATALOGUE, find_schedule

STEPS = (1, 7, 50, 200)


def data():
    rng = np.random.default_rng(12)
    X = rng.standard_normal((30, 4))
    return X, (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(int) + (X[:, 2] > 1)


def network(**options):
    return cr.Network(4, [cr.Dense(7, "tanh", **options), cr.Dense(5, "gelu"), cr.Dense(3, "softmax")], seed=3)


def torch_trajectory(make_optimizer, net, clip_norm=None, make_scheduler=None):
    """θ after each of the `STEPS`, from torch's autograd and torch.optim in float64."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    layers = [torch.nn.Linear(4, 7), torch.nn.Linear(7, 5), torch.nn.Linear(5, 3)]
    model = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1], torch.nn.GELU(), layers[2]).double()
    with torch.no_grad():
        for number, layer in enumerate(layers, 1):
            layer.weight.copy_(torch.tensor(net.W(number)))
            layer.bias.copy_(torch.tensor(net.b(number)))
    X, y = data()
    optimizer = make_optimizer(torch.optim, model)
    scheduler = make_scheduler(torch.optim.lr_scheduler, optimizer) if make_scheduler else None
    found = {}
    for step in range(1, max(STEPS) + 1):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(torch.tensor(X)), torch.tensor(y)).backward()
        if clip_norm is not None:
            # torch divides by ‖g‖ + 1e-6; with this the factor is clip_norm/‖g‖ where ‖g‖ is larger, else 1
            norm = float(torch.sqrt(sum((p.grad**2).sum() for p in model.parameters())))
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm * (norm + 1e-6) / norm)
        optimizer.step()
        if scheduler:
            scheduler.step()
        if step in STEPS:
            found[step] = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])
    return found


def check_trajectory(optimizer, make_optimizer, make_scheduler=None, clip_norm=None, layer_options=None, **settings):
    start = network(**(layer_options or {}))
    expected = torch_trajectory(make_optimizer, start, clip_norm, make_scheduler)
    X, y = data()
    for steps in STEPS:
        net = network(**(layer_options or {}))
        np.testing.assert_array_equal(net.theta, start.theta)
        run = net.fit(
            X,
            y,
            optimizer=optimizer,
            epochs=max(STEPS),
            max_steps=steps,
            batch_size=None,
            sampling="sequential",
            clip_norm=clip_norm,
            **settings,
        )
        assert run.snapshot.step == steps
        assert np.abs(net.theta - expected[steps]).max() <= 1e-9 * np.linalg.norm(expected[steps]), steps
    assert np.linalg.norm(expected[200] - start.theta) > 0.05 * np.linalg.norm(start.theta)  # it went somewhere


OPTIMIZERS = {
    "sgd": (cr.SGD(0.3), lambda o, p: o.SGD(p, lr=0.3)),
    "momentum": (cr.SGD(0.1, momentum=0.9), lambda o, p: o.SGD(p, lr=0.1, momentum=0.9)),
    "nesterov": (cr.SGD(0.1, momentum=0.8, nesterov=True), lambda o, p: o.SGD(p, lr=0.1, momentum=0.8, nesterov=True)),
    "adam": (cr.Adam(0.02), lambda o, p: o.Adam(p, lr=0.02)),
    "adam with its own settings": (
        cr.Adam(0.02, beta1=0.8, beta2=0.95, eps=1e-3),
        lambda o, p: o.Adam(p, lr=0.02, betas=(0.8, 0.95), eps=1e-3),
    ),
    "adam without momentum": (cr.Adam(0.02, beta1=0.0), lambda o, p: o.Adam(p, lr=0.02, betas=(0.0, 0.999))),
    "adamw": (cr.AdamW(0.02, weight_decay=0.1), lambda o, p: o.AdamW(p, lr=0.02, weight_decay=0.1)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_trajectory_equals_torch(name):
    ours, theirs = OPTIMIZERS[name]
    check_trajectory(ours, lambda o, model: theirs(o, model.parameters()))


@pytest.mark.parametrize("clip_norm", [0.02, 0.2])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_clipped_trajectory_equals_torch(name, clip_norm):
    ours, theirs = OPTIMIZERS[name]
    check_trajectory(ours, lambda o, model: theirs(o, model.parameters()), clip_norm=clip_norm)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("momentum", {"momentum": 0.9}),
        ("adam", {}),
        ("adamw", {"weight_decay": 0.1}),
    ],
)
def test_learning_rate_factors_equal_torch_parameter_groups(name, options):
    lr = OPTIMIZERS[name][0].learning_rate
    kind = {"momentum": "SGD", "adam": "Adam", "adamw": "AdamW"}[name]

    def groups(o, model):
        first, *rest = model.parameters()
        bias, *rest = rest
        factors = [{"params": [first], "lr": 0.25 * lr}, {"params": [bias], "lr": 3 * lr}, {"params": rest}]
        return getattr(o, kind)(factors, lr=lr, **options)

    check_trajectory(
        OPTIMIZERS[name][0], groups, layer_options={"learning_rate_factor": 0.25, "bias_learning_rate_factor": 3.0}
    )


@pytest.mark.parametrize(
    ("schedule", "make_scheduler"),
    [
        ("cosine", lambda s, o: s.CosineAnnealingLR(o, T_max=200)),
        ("step(every=20, factor=0.7)", lambda s, o: s.StepLR(o, step_size=20, gamma=0.7)),
        ("inverse_time(0.05)", lambda s, o: s.LambdaLR(o, lambda t: 1 / (1 + 0.05 * t))),
    ],
)
def test_scheduled_trajectory_equals_torch(schedule, make_scheduler):
    ours, theirs = OPTIMIZERS["momentum"]
    check_trajectory(ours, lambda o, model: theirs(o, model.parameters()), make_scheduler, schedule=schedule)


def test_layer_with_factor_zero_stays_as_it_is():
    X, y = data()
    net = cr.Network(
        4,
        [
            cr.Dense(6, "tanh", learning_rate_factor=0, bias_learning_rate_factor=0),
            cr.Dense(3, "softmax", bias_learning_rate_factor=0),
        ],
        seed=1,
    )
    before = net.theta.copy()
    net.fit(X, y, optimizer=cr.AdamW(0.05), epochs=3)
    np.testing.assert_array_equal(net.theta[:30], before[:30])
    np.testing.assert_array_equal(net.b(2), before[-3:])
    assert (net.W(2).ravel() != before[30:-3]).all()


def test_adamw_decays_every_parameter():
    """With a gradient of zero, θ shrinks by the factor 1 − ηλ a step and nothing else happens."""
    optimizer, theta = cr.AdamW(0.1, weight_decay=0.5), np.array([2.0, -3.0])
    zero = np.zeros(2)
    found, m, v = update(optimizer, theta, zero, 0.1, (zero, zero), 1)
    np.testing.assert_allclose(found, 0.95 * theta, rtol=1e-15)
    assert not m.any() and not v.any()
    np.testing.assert_array_equal(theta, [2.0, -3.0])


def test_first_steps_by_hand():
    theta, g = np.array([1.0, -2.0]), np.array([0.5, -4.0])
    np.testing.assert_array_equal(update(cr.SGD(0.1), theta, g, 0.1, (), 1)[0], theta - 0.1 * g)
    velocity = np.array([1.0, 1.0])
    new, v = update(cr.SGD(0.1, momentum=0.5), theta, g, 0.1, (velocity,), 2)
    np.testing.assert_allclose(v, [1.0, -3.5])
    np.testing.assert_allclose(new, [0.9, -1.65])
    new, v = update(cr.SGD(0.1, momentum=0.5, nesterov=True), theta, g, 0.1, (velocity,), 2)
    np.testing.assert_allclose(new, theta - 0.1 * (g + 0.5 * np.array([1.0, -3.5])))
    # Adam's first step is η in the direction of −sign g, whatever the size of g
    new, *_ = update(cr.Adam(0.1), theta, g, 0.1, (np.zeros(2), np.zeros(2)), 1)
    np.testing.assert_allclose(new, theta - 0.1 * np.sign(g), rtol=1e-7)


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adam", "adamw"])
def test_names_and_number_types(name):
    optimizer = find_optimizer("here", name)
    theta = np.array([1.0, -2.0], np.float32)
    result = update(optimizer, theta, theta, optimizer.learning_rate, (0 * theta,) * len(optimizer.slots), 1)
    assert len(result) == 1 + len(optimizer.slots)
    assert all(array.dtype == np.float32 for array in result)
    assert find_optimizer("here", optimizer) is optimizer


def test_parameters_in_brackets():
    assert find_optimizer("here", "adam(0.1, beta1=0.8)") == cr.Adam(0.1, beta1=0.8)
    assert find_optimizer("here", "nesterov(0.05)") == cr.SGD(0.05, momentum=0.9, nesterov=True)
    assert find_optimizer("here", "adamw(weight_decay=0)") == cr.AdamW(weight_decay=0)


# -- clipping ---------------------------------------------------------------------------------------------------------


def test_clip():
    g = np.array([3.0, -4.0])
    np.testing.assert_allclose(clip(g, 1.0), [0.6, -0.8], rtol=1e-15)
    assert clip(g, 5.0) is g and clip(g, 6.0) is g and clip(g, None) is g
    assert not clip(np.zeros(2), 1.0).any()
    small = clip(g.astype(np.float32), 1.0)
    assert small.dtype == np.float32


@pytest.mark.parametrize(("dtype", "size"), [(np.float64, 1e200), (np.float32, 1e25)])
def test_clip_of_a_gradient_whose_squares_overflow(dtype, size):
    """Still its direction at the norm asked for, and not zero, with which training would stand still unnoticed."""
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(clip(np.array([3, -4], dtype) * dtype(size), 1.0), [0.6, -0.8], rtol=1e-6)


# -- schedules --------------------------------------------------------------------------------------------------------

CLOSED_FORMS = {
    "constant": lambda e, n: 1.0,
    "step": lambda e, n: 0.5 ** (e // 10),
    "step(every=3, factor=0.1)": lambda e, n: 0.1 ** (e // 3),
    "inverse_time": lambda e, n: 1 / (1 + e),
    "inverse_time(rate=0.1)": lambda e, n: 1 / (1 + 0.1 * e),
    "inverse_power": lambda e, n: 1 / (1 + math.floor(e)) ** 0.5,
    "inverse_power(rows=20, power=2, before=5)": lambda e, n: 1 / (6 + 20 * math.floor(e)) ** 2,
    "cosine": lambda e, n: (1 + math.cos(math.pi * e / n)) / 2,
    "warmup": lambda e, n: min(1, e / 5),
    "warmup(8)": lambda e, n: min(1, e / 8),
    "warmup_cosine": lambda e, n: e / 5 if e < 5 else (1 + math.cos(math.pi * (e - 5) / (n - 5))) / 2,
    "coslog4": lambda e, n: (1 - math.cos(2 * math.pi * math.log2(1 + 15 * e / n))) / 2,
    "flat_cos": lambda e, n: 1.0 if e < n / 2 else (1 + math.cos(math.pi * (2 * e / n - 1))) / 2,
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_schedule_equals_its_closed_form(name):
    found = find_schedule("here", name)
    for epochs in (16, 40):
        for epoch in np.arange(0, epochs, 0.375):
            assert found.factor(epoch, epochs) == pytest.approx(CLOSED_FORMS[name](epoch, epochs), abs=1e-14)


def test_every_schedule_is_tested_and_stays_from_0_to_1():
    assert {name.partition("(")[0] for name in CLOSED_FORMS} == set(CATALOGUE)
    for record in CATALOGUE.values():
        factors = [record.factor(epoch, 20) for epoch in np.linspace(0, 20, 401)]
        assert 0 <= min(factors) <= max(factors) <= 1


def test_coslog4_has_four_waves():
    """RealMLP's schedule: 0 at progress 0, 1/15, 3/15, 7/15 and 1, and 1 half-way between in the logarithm."""
    schedule = CATALOGUE["coslog4"]
    for wave in range(5):
        assert schedule.factor((2**wave - 1) / 15 * 30, 30) == pytest.approx(0, abs=1e-12)
    for wave in range(4):
        assert schedule.factor((2 ** (wave + 0.5) - 1) / 15 * 30, 30) == pytest.approx(1, abs=1e-12)


def test_learning_rate_of_a_run_follows_the_schedule_within_an_epoch():
    X, y = data()
    run = network().fit(X, y, optimizer=cr.SGD(0.2), schedule="cosine", epochs=4, batch_size=10)
    # the last of an epoch's three steps, at progress (3·epoch − 1)/3 of 4 epochs
    expected = [0.2 * (1 + math.cos(math.pi * (3 * e - 1) / 12)) / 2 for e in (1, 2, 3, 4)]
    np.testing.assert_allclose([row["learning_rate"] for row in run.history], expected, rtol=1e-14)


def test_own_schedule():
    @cr.schedule("every other epoch")
    def alternate(epoch, epochs, low=0.0):
        return 1.0 if int(epoch) % 2 == 0 else low

    X, y = data()
    run = network().fit(X, y, optimizer=cr.SGD(0.2), schedule=alternate(0.5), epochs=4)
    assert [row["learning_rate"] for row in run.history] == [0.2, 0.1, 0.2, 0.1]


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cr.SGD(0), "SGD: expected learning_rate above 0, got 0"),
        (lambda: cr.SGD(-1), "SGD: expected learning_rate above 0, got -1"),
        (lambda: cr.SGD(math.nan), "got nan"),
        (lambda: cr.SGD(math.inf), "got inf"),
        (lambda: cr.SGD(0.1, momentum=1), "SGD: expected momentum from 0 to below 1, got 1"),
        (lambda: cr.SGD(0.1, momentum=-0.1), "expected momentum from 0 to below 1"),
        (lambda: cr.SGD(0.1, nesterov=True), "expected momentum above 0 with nesterov=True"),
        (lambda: cr.Adam(0), "Adam: expected learning_rate above 0"),
        (lambda: cr.Adam(0.1, eps=0), "Adam: expected eps above 0"),
        (lambda: cr.Adam(0.1, beta1=1), "Adam: expected beta1 from 0 to below 1"),
        (lambda: cr.Adam(0.1, beta2=1.5), "Adam: expected beta2 from 0 to below 1"),
        (lambda: cr.AdamW(0.1, beta2=-1), "AdamW: expected beta2"),
        (lambda: cr.AdamW(0.1, weight_decay=-1), "AdamW: expected weight_decay of at least 0"),
        (lambda: cr.AdamW(0.1, weight_decay=math.nan), "AdamW: expected weight_decay of at least 0"),
        (lambda: find_optimizer("fit, optimizer", "adm"), "unknown name 'adm'. Did you mean 'adam'?"),
        (lambda: find_optimizer("fit, optimizer", "adam(-1)"), "Adam: expected learning_rate above 0, got -1"),
        (
            lambda: find_optimizer("fit, optimizer", "sgd(beta1=1)"),
            "parameters among learning_rate, momentum, nesterov",
        ),
        (lambda: find_optimizer("fit, optimizer", "sgd(1, 2, 3, 4)"), "got 'sgd(1, 2, 3, 4)' (too many"),
        (lambda: find_optimizer("fit, optimizer", "sgd(x"), "expected a form such as sgd(0.5), got 'sgd(x'"),
        (lambda: find_optimizer("fit, optimizer", 0.1), "expected an optimizer such as Adam"),
        (lambda: find_schedule("fit, schedule", "cosin"), "Did you mean 'cosine'?"),
        (lambda: find_schedule("fit, schedule", "step(every=0)"), "expected every above 0"),
        (lambda: find_schedule("fit, schedule", "step(factor=-1)"), "step: expected factor"),
        (lambda: find_schedule("fit, schedule", "warmup(0)"), "expected length above 0"),
        (lambda: find_schedule("fit, schedule", "inverse_time(-1)"), "inverse_time: expected rate"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ParameterError) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5), (0.1, 0.99999)])
def test_adams_corrections_are_right_and_those_of_each_step(betas):
    """1 − βᵗ loses digits where βᵗ is near 1; here in 60 digits. Both engines have the same bits."""
    adam = cr.Adam(beta1=betas[0], beta2=betas[1])
    counts = np.array([1, 2, 7, 50, 299, 300, 301, 3000, 3001, 1e5, 1e9])
    each = np.transpose([adam.coefficients(int(t)) for t in counts])
    np.testing.assert_array_equal(adam.coefficients(counts), each)
    with decimal.localcontext(prec=60):
        shares = [[1 - Decimal(beta) ** int(t) for t in counts] for beta in betas]
        exact = np.array([shares[0], [share.sqrt() for share in shares[1]]], float)
    np.testing.assert_allclose(each, exact, rtol=4e-16)
