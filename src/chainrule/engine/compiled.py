"""The compiled engine: tables and buffers that describe a network and its training to the kernel.

Everything that decides the numbers is the same as on the array engine: the records, the order of the rows, the masks.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from numba.core.errors import NumbaError

from ..arrays import LINE, Array, aligned
from ..core.architecture import Architecture
from ..core.cost import Cost
from ..core.layers import Dense, Dropout, Scale
from ..formulas.activations import Activation, identity
from ..formulas.aggregators import Aggregator, mean, sum_
from ..formulas.losses import on_logits
from ..training.optimizers import SGD, Optimizer
from . import amx, kernel, passes, products
from .choice import NotCompiledError
from .lowering import Untraceable
from .threads import Team, yield_address

FEW, MANY = 64, 256  # rows that one thread predicts at a time, with small weights and with large ones
SMALL = 2**14  # numbers of the largest W up to which weights are small
LARGE = 2**14  # multiplications of a first layer from which the batch's rows are read where they lie in X
PAGE = 4096  # bytes that the system prepares at their first touch, or a part of them
LARGEST = {"float32": 1e30, "float64": 1e300}  # sums of squares below this are safe to update with


class Layout:
    """Hands out places in a workspace, each aligned."""

    def __init__(self, itemsize: int) -> None:
        self.itemsize, self.step = itemsize, LINE // itemsize
        self.size = 0

    def take(self, count: int) -> int:
        """The place of `count` numbers."""
        at = self.size
        self.size += self.round_up(count)
        return at

    def round_up(self, count: int) -> int:
        """So many numbers, and those that keep what comes after them aligned."""
        return -(-count // self.step) * self.step


def describe(
    architecture: Architecture,
    activations: Sequence[Activation],
    dtype: str,
    rows: int,
    layout: Layout,
    training: bool,
) -> tuple[Array, Array, int]:
    """The tables of layers and factors, with buffers for `rows` rows, and how much scratch passes and products need.

    Raises:
        NotCompiledError: a layer of one's own, or an activation that is no loop over numbers.
    """
    layers = np.zeros((len(architecture.layers), kernel.COLUMNS), np.int64)
    factors = np.zeros((len(architecture.layers), 2))
    scratch = 0
    given = zip(architecture.layers, activations, architecture.places, strict=True)
    for number, (layer, g, (at_W, at_b)) in enumerate(given):
        kinds: dict[type, int] = {Dense: kernel.DENSE, Scale: kernel.SCALE, Dropout: kernel.DROPOUT}
        if type(layer) not in kinds:
            raise NotCompiledError(f"{architecture.describe(number + 1)} is a layer of your own")
        n, m = architecture.sizes[number : number + 2]
        row = layers[number]
        row[[kernel.KIND, kernel.INPUTS, kernel.UNITS]] = kinds[type(layer)], n, m
        row[kernel.ROWWISE] = g.rowwise
        row[kernel.AT_W] = -1 if at_W is None else at_W.start
        row[kernel.AT_B] = -1 if at_b is None else at_b.start
        # for the loss in whole vectors, see `kernel.batch`
        count = m * (kernel.whole_vectors(rows) if training and number == len(layers) - 1 else rows)
        row[kernel.AT_Z] = row[kernel.AT_A] = layout.take(count)
        factors[number] = getattr(layer, "factor", 1.0), getattr(layer, "rate", 0.0)
        try:
            moved = not passes.keeps(g)
            z_is_read = passes.reads_z(g) if training else number == len(layers) - 1
            over_z = moved and not g.rowwise and not z_is_read
            forward = passes.ready(passes.in_place if over_z else passes.forward, g, dtype, m)
            backward = passes.ready(passes.backward, g, dtype, m) if training else None
        except (Untraceable, NumbaError) as error:
            raise NotCompiledError(f"the activation {g} is no loop over numbers ({first_line(error)})") from None
        if (moved and not over_z) or row[kernel.KIND] == kernel.DROPOUT:
            row[kernel.AT_A] = layout.take(count)
        if moved or at_b is not None:
            row[kernel.FORWARD] = forward.address
        if backward is not None:
            row[kernel.AT_DELTA] = layout.take(count)
            row[kernel.BACKWARD] = backward.address if moved else 0
        unit = training and dtype == "float32" and row[kernel.KIND] == kernel.DENSE
        forth, back = amx.worth(n, m, rows) if unit else (False, False)
        for column, on_unit in ((kernel.FORWARD_PRODUCT, forth), (kernel.BACKWARD_PRODUCT, back)):
            row[column] = (amx.function() if on_unit else products.function(dtype)).address
        room = max(products.room(n, m, rows, training, layout.itemsize), amx.room(n, m, rows) if back else 0)
        of_passes = [part.scratch(m) for part in (forward, backward) if part is not None]
        scratch = max(scratch, *of_passes, room // layout.itemsize)
    return layers, factors, scratch


def first_line(error: Exception) -> str:
    """What an error says, without the compiler's pages."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Predictor:
    """The compiled passes of one network outside training, for one caller at a time: its buffers are its own.

    Raises:
        NotCompiledError: something in the network is no loop over numbers.
    """

    def __init__(self, architecture: Architecture, dtype: np.dtype[Any], threads: int) -> None:
        layout = Layout(dtype.itemsize)
        self.architecture, self.threads, self.dtype = architecture, threads, dtype
        self.inputs, self.outputs = architecture.inputs, architecture.outputs
        small = max(math.prod(layer.W_shape or ()) for layer in architecture.layers) <= SMALL
        self.block = FEW if small else MANY
        activations = [layer.g for layer in architecture.layers]
        self.lasting = all(map(passes.lasting, activations))
        layers, factors, scratch = describe(architecture, activations, dtype.name, self.block, layout, training=False)
        run = np.zeros(kernel.DESCRIPTION, np.int64)
        run[kernel.AT_SCRATCH] = layout.take(scratch)
        self.zeros = aligned(max(architecture.sizes), dtype)
        run[kernel.ZEROS] = self.zeros.ctypes.data
        run[kernel.BY_ROWS] = True
        run[kernel.AT_TURNED] = layout.take(architecture.P) if small else -1
        self.tables = (layers, factors, run)
        self.one = dtype.type(1)
        self.work = aligned((threads, layout.size), dtype)
        self.nothing = np.empty((0, self.outputs), dtype)
        self.free, self.team = threading.Lock(), Team(threads)
        rows = np.zeros((1, self.inputs), dtype)
        theta = np.zeros(architecture.P, dtype)
        kernel.predict(0, 1, 1, rows, *self.tables, theta, self.work, self.nothing, self.nothing, self.one)

    def takes(self, X: object) -> TypeGuard[Array]:
        """Whether X is an array that the kernel can read as it is."""
        return (
            type(X) is np.ndarray
            and X.dtype == self.dtype
            and X.ndim == 2
            and X.shape[1] == self.inputs
            and X.shape[0] > 0
            and X.flags.carray
        )

    def __call__(self, theta: Array, X: Array, logits: bool = False, y_hat: bool = True) -> tuple[Array, Array, bool]:
        """The last z and ŷ (N, n_L) of X (N, n_0), each if wanted; and whether X is finite."""
        shape, X = (len(X), self.outputs), readable(X)
        z = np.empty(shape, self.dtype) if logits else self.nothing
        a = np.empty(shape, self.dtype) if y_hat else self.nothing
        with self.free:
            if self.threads == 1 or len(X) <= MANY:
                return z, a, kernel.predict(0, 1, self.block, X, *self.tables, theta, self.work, z, a, self.one)
            found = self.team(
                lambda me: kernel.predict(
                    me, self.threads, self.block, X, *self.tables, theta, self.work, z, a, self.one
                ),
            )
        return z, a, all(found)

    def per_sample_gradients(
        self, theta: Array, cost: Cost, data: tuple[Array, Array, Array], out: Array, fresh: bool
    ) -> Array:
        """Each sample's part of ∂C/∂θ, without the penalty, written to `out` (N, P), which is returned; no dropout.

        Args:
            fresh: whether nothing has been written to the memory of `out` yet. The system clears each page at the first
                touch, which is best left to the thread that fills it, and before stores that go past the caches.

        Raises:
            NotCompiledError: the loss or the aggregator is no loop over numbers.
        """
        rows, P = out.shape
        settings = Settings(rows, rows, gathered=False, clip_norm=None, seed=0, start=0, threads=self.threads)
        with self.free:
            mean_weight = float(data[2].mean())
            trainer = Trainer(self.architecture, cost, SGD(1.0), data, settings, None, mean_weight, self.team)
            order = np.arange(rows)
            trainer.run[kernel.THETA], trainer.run[kernel.ORDER] = theta.ctypes.data, order.ctypes.data
            trainer.factors[:, kernel.RATE] = 0.0
            tables = (trainer.layers, trainer.factors, trainer.run, trainer.settings)

            def work(me: int) -> None:
                if fresh:
                    part = out[rows * me // self.threads : rows * (me + 1) // self.threads]
                    part.reshape(-1)[:: PAGE // out.itemsize] = 0
                kernel.per_sample(me, self.threads, *tables, out.ctypes.data, P, self.one)

            self.team(work)
        return out


@dataclass(frozen=True)
class Settings:
    """What a compiled training needs to know besides network and data.

    Attributes:
        batch: rows in one step. rows: rows in one epoch. gathered: whether batches are picked by number.
        clip_norm, seed, start: as in a plan. threads: that share a step.
    """

    batch: int
    rows: int
    gathered: bool
    clip_norm: float | None
    seed: int
    start: int
    threads: int


class Trainer:
    """Compiled steps of one training; θ and the slots are the caller's and change in place.

    Raises:
        NotCompiledError: something is no loop over numbers.
    """

    def __init__(
        self,
        architecture: Architecture,
        cost: Cost,
        optimizer: Optimizer,
        data: tuple[Array, Array, Array],
        settings: Settings,
        factors: Array | None,
        mean_weight: float,
        team: Team | None = None,
    ) -> None:
        dtype, name = data[0].dtype, data[0].dtype.name
        g, loss = architecture.output_activation, cost.loss
        pair = on_logits(g, loss)
        B, threads = settings.batch, settings.threads
        aggregated = not any(cost.aggregate.same(known) for known in (mean, sum_))
        if len(optimizer.coefficients(1)) > kernel.COEFFICIENTS or len(optimizer.slots) > passes.SLOTS:
            raise NotCompiledError(f"the optimizer {optimizer} has more than {passes.SLOTS} slots")
        layout = Layout(dtype.itemsize)
        activations = [*(layer.g for layer in architecture.layers[:-1]), identity if pair else g]
        self.layers, self.factors, scratch = describe(architecture, activations, name, B, layout, training=True)
        try:
            kinds = (passes.value, passes.slope) if aggregated else (passes.loss_and_slope,)
            of_loss = [passes.ready(kind, pair or loss, name, architecture.outputs) for kind in kinds]
            update = passes.ready_update(optimizer, name)
        except (Untraceable, NumbaError) as error:
            raise NotCompiledError(
                f"the loss {loss} or the optimizer {optimizer} is no loop over numbers ({first_line(error)})"
            ) from None
        scratch = max(scratch, *(part.scratch(architecture.outputs) for part in of_loss))

        run = self.run = np.zeros(kernel.DESCRIPTION, np.int64)
        run[kernel.BIAS_PRODUCT] = products.function(name).address
        run[kernel.GIVE_WAY] = yield_address()
        places = (kernel.VALUE, kernel.SLOPE) if aggregated else (kernel.LOSS_AND_SLOPE,)
        for at, part in ((kernel.UPDATE, update), *zip(places, of_loss, strict=True)):
            run[at] = part.address
        run[kernel.AGGREGATE] = aggregate_address(cost.aggregate) if aggregated else 0
        run[kernel.ROWS], run[kernel.BATCH], run[kernel.ORDERED] = settings.rows, B, len(data[0])
        run[kernel.STEPS] = -(-settings.rows // B)
        by_rows = run[kernel.BY_ROWS] = B * sum(architecture.sizes[1:]) > architecture.P
        n_0, n_1 = architecture.sizes[:2]
        in_place = type(architecture.layers[0]) is Dense and B * n_0 * n_1 > LARGE
        run[kernel.PICKED] = settings.gathered and in_place
        run[kernel.COPIED] = settings.gathered and not in_place
        if run[kernel.COPIED]:
            size = layout.round_up(B * architecture.inputs)
            run[kernel.X_SIZE] = 0 if by_rows else size
            run[kernel.AT_X] = layout.take(size if by_rows else threads * size)
        vectors = kernel.whole_vectors(B)
        run[kernel.AT_Y], run[kernel.AT_WEIGHT] = layout.take(vectors * architecture.outputs), layout.take(vectors)
        run[kernel.SCRATCH] = layout.round_up(scratch)
        run[kernel.AT_SCRATCH] = layout.take(threads * int(run[kernel.SCRATCH]))
        run[kernel.SEED], run[kernel.START] = settings.seed, settings.start
        run[kernel.SUMMED] = cost.aggregate.over_epoch == "sum"
        run[kernel.PENALISE_BIASES] = cost.penalty.biases
        looked_at = B * (sum(architecture.sizes[1:]) + sum(architecture.sizes[1:-1]))  # δ and a
        run[kernel.MEASURED] = settings.clip_norm is not None or looked_at >= architecture.P

        numbers = self.settings = np.zeros(10)
        numbers[kernel.MEAN_WEIGHT] = mean_weight
        numbers[kernel.L1], numbers[kernel.L2] = cost.penalty.l1, cost.penalty.l2
        numbers[kernel.CLIP] = settings.clip_norm or np.inf
        numbers[kernel.OUTPUT_SHARE] = 1 / architecture.outputs if cost.average_outputs else 1.0
        classes = architecture.outputs if loss.categorical else 2
        numbers[kernel.SMOOTH] = 1 - cost.label_smoothing
        numbers[kernel.SMOOTH_BY] = cost.label_smoothing / classes
        numbers[kernel.LONGEST_ROW] = np.einsum("ij,ij->i", data[0], data[0]).max(initial=0.0)
        numbers[kernel.LARGEST] = LARGEST[name]

        self.optimizer, self.threads, self.one = optimizer, threads, dtype.type(1)
        self.team = team or Team(threads)
        self.parts, self.part_factors = shares(architecture, threads, factors is None)
        self.sums = aligned((threads, LINE // 8), np.float64)  # no two threads write to the same line of a cache
        self.gradient = aligned(architecture.P, dtype)
        memory = {
            kernel.X: data[0],
            kernel.Y: data[1],
            kernel.S: data[2],
            kernel.GRADIENT: self.gradient,
            kernel.WORK: aligned(layout.size, dtype),
            kernel.ZEROS: aligned(max(architecture.sizes), dtype),
            kernel.ONES: np.ones(B, dtype),
            kernel.SAMPLES: aligned(3 * vectors + 1, np.float64),
            kernel.COUNTER: aligned(LINE // 8, np.int64),
        }
        self.memory = memory  # kept, as the kernel has only the addresses
        for at, array in memory.items():
            run[at] = array.ctypes.data
        self.steps(np.zeros(0, dtype), [], 0, 0, np.zeros(0, np.int64), np.zeros(0))  # no step, but all compiled

    def steps(
        self,
        theta: Array,
        slots: Sequence[Array],
        step: int,
        place: int,
        order: Array,
        rates: Array,
        cost_sum: float = 0.0,
    ) -> tuple[int, float, Array]:
        """As many steps as there are learning rates, from number `step`, which is number `place` of its epoch.

        θ and the slots, (P,) each, are changed. `order` has the orders of all epochs that the steps are of, one after the
        other. Returns how many steps were made, fewer than asked if the next has a gradient that is not finite, or too
        large to be sure of; the cost of the last of these epochs so far, of the first with `cost_sum`; and the costs of the
        epochs before it.
        """
        coefficients = np.empty((len(rates), kernel.COEFFICIENTS))
        counts = np.arange(step + 1, step + 1 + len(rates), dtype=np.float64)
        for j, values in enumerate(self.coefficients(counts)):
            coefficients[:, j] = values
        self.settings[kernel.COST_SO_FAR] = cost_sum
        run = self.run
        run[kernel.THETA], run[kernel.ORDER] = theta.ctypes.data, order.ctypes.data
        for k, slot in enumerate(slots):
            run[kernel.SLOTS + k] = slot.ctypes.data
        self.memory[kernel.COUNTER][0] = 0
        tables = (self.layers, self.factors, run, self.settings, self.parts, self.part_factors)
        per_epoch = int(run[kernel.STEPS])
        costs = np.zeros((place + len(rates)) // per_epoch)
        numbers = (rates, coefficients.ctypes.data, costs, self.sums, self.one)
        results = self.team(lambda me: kernel.train(me, self.threads, step, place, *tables, *numbers))
        done, cost_sum = results[0]
        return done, cost_sum, costs[: max(0, place + done - 1) // per_epoch]

    def coefficients(self, counts: Array) -> Iterable[Any]:
        """Those of the updates number `counts`; a rule from elsewhere, which may only take one count, is asked for each."""
        if passes.lasting(self.optimizer):
            return self.optimizer.coefficients(counts)  # type: ignore[arg-type]
        return np.array([self.optimizer.coefficients(int(t)) for t in counts]).T


def aggregate_address(phi: Aggregator) -> int:
    """The address of φ's own function, compiled as it is.

    Raises:
        NotCompiledError: it cannot be imported by its name, or does what Numba does not know.
    """
    try:
        return passes.aggregate(phi)
    except (ImportError, AttributeError, Untraceable, NumbaError) as error:
        raise NotCompiledError(f"the aggregate {phi} cannot be compiled ({first_line(error)})") from None


def shares(architecture: Architecture, threads: int, plain: bool) -> tuple[Array, Array]:
    """Who updates which part of θ, rows of (thread, start, stop), and each part's factor of the learning rate.

    A thread updates what it has the gradient of; a single one takes θ as a whole where no layer has its own factor.
    """
    if threads == 1 and plain:
        return np.array([[0, 0, architecture.P]]), np.ones(1)
    parts, factors = [], []
    for layer, places in zip(architecture.layers, architecture.places, strict=True):
        for at, factor in zip(places, layer.learning_rate_factors, strict=True):
            if at is None:
                continue
            units = layer.outputs
            size = (at.stop - at.start) // units
            for me in range(threads):
                first, end = units * me // threads, units * (me + 1) // threads
                if end > first:
                    parts.append((me, at.start + first * size, at.start + end * size))
                    factors.append(factor)
    return np.array(parts), np.array(factors, dtype=np.float64)


def readable(array: Array) -> Array:
    """A C-ordered array as one that Numba takes as writable, whatever its flags; nothing is written.

    Otherwise the kernel would be compiled a second time, for arrays that are read-only.
    """
    if array.flags.writeable:
        return array
    buffer: Any = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data)
    return np.frombuffer(buffer, array.dtype).reshape(array.shape)
