"""Elementary functions and activations in compiled loops, side by side with others in one run, one thread each.

python benchmarks/elementary.py        needs numba and torch; prints medians of interleaved repetitions, ns per element

Columns: chainrule's functions in a Numba loop, Python's `math` in the same loop (the C library's functions, one number
at a time), NumPy (SciPy for erf), PyTorch. Activations: the formula records in such loops, and PyTorch's own kernels.
"""

from __future__ import annotations

import ctypes
import math
import statistics
import time
from collections.abc import Callable, Mapping

import numba
import numpy as np
import scipy.special
import torch

from chainrule.engine import passes
from chainrule.engine.elementary import functions
from chainrule.formulas import activations

REPETITIONS = 41
SHAPE = (256, 512)
aten = torch.ops.aten
TORCH = {  # forward into a given array; backward from ∂C/∂a, z and a
    "tanh": (aten.tanh.out, lambda da, z, a, o: aten.tanh_backward.grad_input(da, a, grad_input=o)),
    "gelu": (aten.gelu.out, lambda da, z, a, o: aten.gelu_backward.grad_input(da, z, grad_input=o)),
    "silu": (aten.silu.out, lambda da, z, a, o: aten.silu_backward.grad_input(da, z, grad_input=o)),
    "mish": (aten.mish.out, lambda da, z, a, o: aten.mish_backward(da, z)),
}


def loop(f: Callable[..., object]) -> Callable[..., None]:
    """A compiled loop out = f(x)."""

    @numba.njit(error_model="numpy")
    def run(x, out):
        for i in range(x.size):
            out[i] = f(x[i])

    return run


def whole_pass(kind: Callable[..., passes.Pass], record: activations.Activation, real: type) -> Callable[..., None]:
    """A compiled pass of the engine, called with the arrays that it takes."""
    made = passes.ready(kind, record, np.dtype(real).name, 0)
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 3)(made.address)
    return lambda *arrays: call(*(a.ctypes.data for a in arrays), None, *SHAPE, SHAPE[1])


def interleaved(forms: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The median time of each form in ns per element; the forms take turns."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(REPETITIONS + 3):
        for name, form in forms.items():
            begun = time.perf_counter()
            form()
            times[name].append(time.perf_counter() - begun)
    return {name: 1e9 * statistics.median(values[3:]) / math.prod(SHAPE) for name, values in times.items()}


def row(title: str, real: type, medians: Mapping[str, float]) -> None:
    cells = " ".join(f"{value:10.2f}" for value in medians.values())
    print(f"{title:<16} {real.__name__} {cells}   {medians['torch'] / medians['chainrule']:5.1f} x")


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    print(f"{'ns per element':<24} {'chainrule':>10} {'math':>10} {'numpy':>10} {'torch':>10}   torch / chainrule")
    for name in ("exp", "expm1", "log", "log1p", "tanh", "erf"):
        for real in (np.float32, np.float64):
            x = rng.normal(size=math.prod(SHAPE)).astype(real)
            x = np.abs(x) if name.startswith("log") else x
            out, xt = np.empty_like(x), torch.from_numpy(x)
            outt = torch.empty_like(xt)
            ours, libm = loop(getattr(functions(real), name)), loop(getattr(math, name))
            peer, theirs = scipy.special.erf if name == "erf" else getattr(np, name), getattr(torch, name)
            forms = {
                "chainrule": lambda x=x, out=out, ours=ours: ours(x, out),
                "math": lambda x=x, out=out, libm=libm: libm(x, out),
                "numpy": lambda x=x, out=out, peer=peer: peer(x, out=out),
                "torch": lambda xt=xt, outt=outt, theirs=theirs: theirs(xt, out=outt),
            }
            row(name, real, interleaved(forms))
    print(f"\n{'ns per element':<24} {'chainrule':>10} {'numpy':>10} {'torch':>10}   torch / chainrule")
    for name, (forward, backward) in TORCH.items():
        for real in (np.float32, np.float64):
            record = activations.CATALOGUE[name]
            value, factor = (whole_pass(kind, record, real) for kind in (passes.forward, passes.backward))
            z, da = (rng.normal(size=math.prod(SHAPE)).astype(real) for _ in range(2))
            a, out, b = record.value(z), np.empty_like(z), np.zeros(SHAPE[1], real)

            def ours_backward(da=da, z=z, a=a, out=out, factor=factor):
                out[...] = da  # a pass works in place
                factor(out, z, a)

            zt, dat, at, outt = map(torch.from_numpy, (z, da, a, np.empty_like(z)))
            forms = {
                "chainrule": lambda z=z, out=out, b=b, value=value: value(z, out, b),
                "numpy": lambda z=z, record=record: record.value(z),
                "torch": lambda zt=zt, outt=outt, forward=forward: forward(zt, out=outt),
            }
            row(f"{name} forward", real, interleaved(forms))
            forms = {
                "chainrule": ours_backward,
                "numpy": lambda da=da, z=z, a=a, record=record: record.backward(da, z, a),
                "torch": lambda d=dat, z=zt, a=at, o=outt, backward=backward: backward(d, z, a, o),
            }
            row(f"{name} backward", real, interleaved(forms))


if __name__ == "__main__":
    main()
