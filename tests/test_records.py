"""Records are known by their code: one of one's own may have any name, and networks travel to other processes."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

import chainrule as cr
from chainrule.errors import ParameterError
from chainrule.formulas import activations, aggregators, initializers, losses
from chainrule.training import schedules

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)), RNG.uniform(0.1, 0.9, (12, 1))


def double(name):
    def make(xp, real):
        two = real(2)
        return (lambda z: two * z), (lambda z, a: two * xp.ones_like(z)), (lambda z, a: xp.zeros_like(z))

    make.__name__ = name
    return cr.activation("2*z")(make)


def test_an_activation_called_identity_is_not_taken_for_the_librarys():
    net = cr.Network(3, [cr.Dense(1, double("identity"))], seed=1)
    assert net.cost(X, Y, loss="squared") == pytest.approx(np.mean((net.predict(X) - Y) ** 2), rel=1e-14)
    theta, g = net.theta.copy(), net.gradient(X, Y, loss="squared").dC_dtheta
    a_prev = np.hstack([X, np.ones((12, 1))])
    by_hand = 2 * 2 / 12 * (net.predict(X) - Y).T @ a_prev  # 2u/N through z ↦ 2z
    np.testing.assert_allclose(g, by_hand[0], rtol=1e-13)
    assert theta.size == 4


def test_an_activation_called_sigmoid_is_no_fused_pair():
    def sigmoid(xp, real):
        one, three = real(1), real(3)
        g = lambda z: one / (one + xp.exp(-three * z))  # noqa: E731
        return g, lambda z, a: three * a * (one - a), lambda z, a: real(9) * a * (one - a) * (one - real(2) * a)

    net = cr.Network(3, [cr.Dense(1, cr.activation("1/(1 + exp(-3*z))", range=(0, 1))(sigmoid))], seed=1)
    p = net.predict(X)
    expected = -np.mean(Y * np.log(p) + (1 - Y) * np.log1p(-p))
    assert net.cost(X, Y, loss="binary_cross_entropy") == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ParameterError, match="Use predict"):
        net.decide(X)


def test_a_loss_called_poisson_is_ones_own():
    def poisson(xp, real):
        return lambda p, y: (p - y) ** 4, lambda p, y: real(4) * (p - y) ** 3, lambda p, y: real(12) * (p - y) ** 2

    net = cr.Network(3, [cr.Dense(1, "exp")], seed=1)
    own = cr.loss("(y_hat - y)**4")(poisson)
    assert net.cost(X, Y, loss=own) == pytest.approx(np.mean((net.predict(X) - Y) ** 4), rel=1e-13)


@pytest.mark.parametrize(
    "record",
    [
        *activations.CATALOGUE.values(),
        *losses.CATALOGUE.values(),
        *aggregators.CATALOGUE.values(),
        *initializers.CATALOGUE.values(),
        *schedules.CATALOGUE.values(),
        activations.leaky_relu(0.3),
        losses.huber(delta=2),
    ],
    ids=str,
)
def test_catalogue_records_travel_by_pickle(record):
    again = pickle.loads(pickle.dumps(record))
    assert again == record and again.make is record.make


def test_networks_and_runs_travel_by_pickle():
    net = cr.Network(3, [cr.Dense(4, "leaky_relu(0.2)"), cr.Dropout(0.1), cr.Dense(1)], seed=2)
    run = net.fit(X, Y, epochs=3, validation=(X, Y))
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again.predict(X), net.predict(X))
    assert pickle.loads(pickle.dumps(run)).history == run.history


def test_a_snapshot_belongs_to_its_network_and_data():
    net = cr.Network(3, [cr.Dense(4, "tanh"), cr.Dense(1)], seed=2)
    snapshot = net.fit(X, Y, epochs=2, max_steps=1).snapshot
    other = cr.Network(3, [cr.Dense(4, "relu"), cr.Dense(1)], seed=2)
    for network, inputs in ((other, X), (net, X + 5)):
        with pytest.raises(ParameterError, match="network and data of the run"):
            network.fit(inputs, Y, epochs=2, resume=snapshot)


def test_a_later_start_can_be_continued():
    def train(**options):
        net = cr.Network(3, [cr.Dense(4, "tanh"), cr.Dropout(0.3), cr.Dense(1)], seed=5)
        return net.fit(X, Y, starts=6, epochs=6, batch_size=4, **options), net

    whole, expected = train()
    stopped, net = train(max_steps=4)
    assert stopped.snapshot.start == int(np.argmin(stopped.starts)) > 0
    continued = net.fit(X, Y, epochs=6, batch_size=4, resume=stopped.snapshot)
    assert continued.snapshot.start == stopped.snapshot.start
    if whole.snapshot.start == stopped.snapshot.start:
        np.testing.assert_array_equal(net.theta, expected.theta)


def test_resuming_without_validation_keeps_the_new_training():
    net = cr.Network(3, [cr.Dense(4, "tanh"), cr.Dense(1)], seed=2)
    first = net.fit(X, Y, epochs=4, validation=(X[:3], Y[:3] + 1))
    run = net.fit(X, Y, epochs=8, resume=first.snapshot)
    assert run.best_epoch == 0
    np.testing.assert_array_equal(net.theta, run.snapshot.theta)


@pytest.mark.parametrize(
    "options",
    [
        {"penalty": "l2"},
        {"label_smoothing": "a"},
        {"tolerance": None},
        {"clip_norm": "1"},
        {"clip_norm": float("inf")},
        {"time_limit": float("inf")},
        {"optimizer": cr.Adam},
        {"resume": 3},
        {"average_outputs": "yes"},
    ],
    ids=str,
)
def test_settings_of_another_type_are_refused(options):
    net = cr.Network(3, [cr.Dense(1)])
    with pytest.raises(ParameterError):
        net.fit(X, Y, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: cr.SGD("a"),
        lambda: cr.Dense(2, learning_rate_factor="a"),
        lambda: cr.Dropout("a"),
        lambda: cr.Network(3, [cr.Dense]),
        lambda: cr.Network(3, cr.Dense(3)),
        lambda: cr.Cost("squared"),
        lambda: cr.Penalty(l1=None),
    ],
)
def test_arguments_of_another_type_are_refused(make):
    with pytest.raises(ParameterError):
        make()


def test_limits_belong_to_a_record_and_not_to_a_name():
    """A parameter of one's own may be called as one of the catalogue's."""

    @cr.loss(limits={"power": ("above 1", lambda v: v > 1)})
    def own(xp, real, tau=5.0, power=2.0):
        return lambda p, y: (p - y) ** 2 / tau, lambda p, y: 2 * (p - y) / tau, lambda p, y: 0 * p + 2 / tau

    @cr.schedule()
    def falling(epoch, epochs, slope=-0.1):
        return 1 + slope * epoch

    assert own(tau=7).parameters == (("tau", 7.0), ("power", 2.0))
    assert falling(-0.2).factor(2, 10) == pytest.approx(0.6)
    with pytest.raises(ParameterError, match=r"own: expected power above 1, got 0\.5"):
        own(power=0.5)
    for given, message in (
        ("step(every=0)", "every above 0, got 0"),
        ("inverse_time(-1)", "rate of at least 0, got -1"),
    ):
        with pytest.raises(ParameterError, match=message):
            cr.Network(1, [cr.Dense(1)]).fit([[1.0]], [1.0], schedule=given)


SCRIPT = """
import pickle
import numpy as np
import chainrule as cr
from joblib import Parallel, delayed

@cr.activation()
def bent(xp, real, k=2.0):
    return (lambda z: xp.tanh(k * z)), (lambda z, a: k * (real(1) - a * a))

def ends(net):
    return net.predict(np.ones((1, 2)))[0, 0]

if __name__ == "__main__":
    net = cr.Network(2, [cr.Dense(3, bent(3.0)), cr.Dense(1)], seed=1)
    there = Parallel(n_jobs=2)(delayed(ends)(net) for _ in range(2))
    print(ends(pickle.loads(pickle.dumps(net))) == ends(net) == there[0] == there[1])
"""


def test_records_of_a_script_travel_by_pickle_and_by_joblib(tmp_path):
    pytest.importorskip("joblib")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")


def plain(xp, real):
    return (lambda z: xp.tanh(z)), (lambda z, a: real(1) - a * a)


of_plain = cr.activation()(plain)


@cr.activation()
def again(xp, real):
    return (lambda z: xp.tanh(z)), (lambda z, a: real(1) - a * a)


first_again = again


@cr.activation()
def again(xp, real):
    return (lambda z: real(0.5) * z), (lambda z, a: real(0.5) * xp.ones_like(z))


class Holder:
    """A class may hold a record."""

    @cr.activation()
    def inner(xp, real):  # noqa: N805
        return (lambda z: xp.tanh(z)), (lambda z, a: real(1) - a * a)


def test_a_record_is_pickled_as_itself_or_not_at_all():
    """Neither as another one that has its name by now, nor into bytes that nobody can read."""
    for record in (of_plain, again, Holder.inner):
        net = cr.Network(2, [cr.Dense(3, record), cr.Dense(1)], seed=1)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(net)).predict(X[:, :2]), net.predict(X[:, :2]))
    nameless = cr.activation()(lambda xp, real: (lambda z: z, lambda z, a: xp.ones_like(z)))
    for record in (first_again, double("own"), nameless):
        with pytest.raises((pickle.PicklingError, AttributeError), match=r"[Cc]an't (pickle|get)"):
            pickle.dumps(cr.Network(2, [cr.Dense(3, record), cr.Dense(1)]))


def test_two_activations_of_one_name_cannot_be_saved_in_one_file(tmp_path):
    net = cr.Network(2, [cr.Dense(3, again), cr.Dense(2, first_again), cr.Dense(1)])
    with pytest.raises(
        ParameterError, match="expected different names for different activations of one's own, got 'again' twice"
    ):
        net.save(tmp_path / "net.model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: fit(g=cr.activation()(lambda xp, real: (lambda z: z,))), "expected a record with a derivative, got none"),
        (lambda: fit(g=cr.activation()(lambda xp, real: lambda z: z)), "expected the functions (value, first derivative"),
        (lambda: fit(loss=cr.loss()(lambda xp, real: (lambda p, y: p - y,))), "expected a record with a derivative"),
        (lambda: fit(aggregate=cr.aggregator()(lambda L, s, m: L.mean())), "expected the value and its gradient"),
        (lambda: fit(schedule=cr.schedule()(lambda epoch, epochs: None)), "expected a number as factor of the learning rate"),
        (lambda: cr.activation()(lambda xp, real, k: 0), "as default of the parameter k, got none"),
        (lambda: start(lambda g, shape: np.ones(2)), "expected a draw of shape (3, 3), got (2,)"),
        (lambda: start(lambda g, shape: np.full(shape, np.nan)), "finite starting weights, got nan"),
    ],
)  # fmt: skip
def test_incomplete_records_are_named(use, message):
    with pytest.raises((ParameterError, cr.ShapeError)) as caught:
        use()
    assert message in str(caught.value)
    with pytest.raises(AttributeError, match=r"expected one of xp's abs, .*, got 'sin'. np.sin may do too"):
        fit(g=cr.activation()(lambda xp, real: (lambda z: xp.sin(z), lambda z, a: a)))


def fit(g="tanh", **options):
    return cr.Network(3, [cr.Dense(4, g), cr.Dense(1)]).fit(X, Y, epochs=1, engine="array", **options)


def start(make):
    return cr.Network(3, [cr.Dense(3, init=cr.initializer()(make))])


def test_own_formulas_cannot_change_what_they_are_given():
    """z is kept for the backward loop; a formula that writes into it would make every later number wrong."""

    def g(z):
        z[z < 0] = 0
        return z

    written = cr.activation()(lambda xp, real: (g, lambda z, a: xp.sign(a)))
    with pytest.raises(ValueError, match="read-only"):
        cr.Network(3, [cr.Dense(4, written), cr.Dense(1)]).gradient(X, Y)


def test_a_loaded_record_gets_the_parameters_of_the_file(tmp_path):
    net = cr.Network(2, [cr.Dense(3, of_plain), cr.Dense(2, with_slope(3.0)), cr.Dense(1)], seed=1)
    net.save(tmp_path / "net.model")
    for given in ([of_plain, with_slope], [of_plain, with_slope(3.0)]):
        again = cr.Network.load(tmp_path / "net.model", given)
        np.testing.assert_array_equal(again.predict(X[:, :2]), net.predict(X[:, :2]))


@cr.activation()
def with_slope(xp, real, slope=1.0):
    return (lambda z: slope * z), (lambda z, a: slope * xp.ones_like(z))


def test_records_made_by_exec_are_compiled():
    pytest.importorskip("numba")
    known = {"cr": cr}
    exec("@cr.activation()\ndef own(xp, real):\n    return (lambda z: z * z), (lambda z, a: z + z)", known)
    nets = [cr.Network(3, [cr.Dense(4, known["own"]), cr.Dense(1)], seed=1) for _ in range(2)]
    for net, engine in zip(nets, ("array", "compiled"), strict=True):
        assert net.fit(X, Y, epochs=2, engine=engine).engine == engine
    np.testing.assert_allclose(nets[1].theta, nets[0].theta, rtol=1e-10, atol=1e-12)
