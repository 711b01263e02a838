"""Kernels for the CPU, compiled by numba: every trace of a block is read and written once per update, in one call.

    g += signal Z;   Z = P Z + post pre        in one pass over Z, in place

A call takes a table with a row per trace, of addresses and sizes, because to hand over thirty arrays would take longer
than the work of a single stream. Threads share the rows (b, c) of each trace, which lie one after the other in memory,
and each adds to a gradient of its own. Numba compiles for the precision at hand, once, and keeps the result on disk.
Shapes: Z is (b, c, r, j), as `influence` lays it out; post, signal and start are (b, c, r); pre is (b, k, j) and taps
(b, c, k). A trace kept in bfloat16 is read as its bits, uint16.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import functools
from typing import Any

import numba
import numpy as np
import torch
from numba import carray, njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from torch import Tensor

from .influence import add_, add_own_

# no fast-math: where arrays lie decides whether a loop is vectorised, and the numbers must not depend on that
jit = functools.partial(njit, cache=True, nogil=True, error_model="numpy")

_torch_threads = torch.get_num_threads()
numba.set_num_threads(1)  # starts numba's threads, which may set the number that torch uses
torch.set_num_threads(_torch_threads)

CACHE = 1 << 20  # bytes of a trace that are met and multiplied before the next

KIND, Z, POST, PRE, TAPS, START, SIGNAL, AT, C, R, J, T = range(12)  # columns of the table; AT: of the gradient
ALONE, STEP, TAPPED, DECAY, OF_CHANNEL, OF_STATE = range(6)  # kinds of pass
KINDS = {"e": ALONE, "en": ALONE, "ek": OF_CHANNEL, "nk": OF_STATE}


def wide(x: Any) -> Any:
    """Return the number stored as x."""


def narrow(x: Any, like: Any) -> Any:
    """Return what stores the number x as `like` is stored, rounded to nearest."""


@overload(wide)
def _wide(x):
    if isinstance(x, types.Integer):  # the upper half of a float32
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: x


@overload(narrow)
def _narrow(x, like):
    if not isinstance(like, types.Integer):
        return lambda x, like: x

    def rounded(x, like):
        bits = np.float32(x).view(np.uint32)
        return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

    return rounded


@intrinsic
def pointer(context, address):
    """Return the address as a pointer."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@jit()
def step(lo, hi, gradient, Z, start, signal, post, pre, taps):
    """Contract Z and carry it one step; the drive is post times taps . pre, or, without taps, times pre (b, 1, j)."""
    _, m, r, j = Z.shape
    k, tapped = pre.shape[1], taps.size > 0
    mixed = np.empty(j, gradient.dtype)
    for at in range(lo, hi):
        i, c = at // m, at % m
        now, to = pre[i, 0], gradient[c]
        if tapped:
            for x in range(j):
                mixed[x] = taps[i, c, 0] * pre[i, 0, x]
            for s in range(1, k):
                for x in range(j):
                    mixed[x] += taps[i, c, s] * pre[i, s, x]
            now = mixed
        for y in range(0, r - 1, 2):  # two rows at a time share the loads of now and gradient
            z0, a0, g0, p0 = Z[i, c, y], start[i, c, y], signal[i, c, y], post[i, c, y]
            z1, a1, g1, p1 = Z[i, c, y + 1], start[i, c, y + 1], signal[i, c, y + 1], post[i, c, y + 1]
            for x in range(j):
                v0, v1 = wide(z0[x]), wide(z1[x])
                to[x] += g0 * v0 + g1 * v1
                z0[x] = narrow(a0 * v0 + p0 * now[x], z0[x])
                z1[x] = narrow(a1 * v1 + p1 * now[x], z1[x])
        if r % 2:
            z, a, g, p = Z[i, c, r - 1], start[i, c, r - 1], signal[i, c, r - 1], post[i, c, r - 1]
            for x in range(j):
                v = wide(z[x])
                to[x] += g * v
                z[x] = narrow(a * v + p * now[x], z[x])


@jit()
def decay(lo, hi, gradient, Z, start, signal):
    """Contract Z and let it decay: what comes before a product over time."""
    _, m, r, j = Z.shape
    for at in range(lo, hi):
        i, c = at // m, at % m
        to = gradient[c]
        for y in range(r):
            z, a, g = Z[i, c, y], start[i, c, y], signal[i, c, y]
            for x in range(j):
                v = wide(z[x])
                to[x] += g * v
                z[x] = narrow(a * v, z[x])


@jit()
def alone(lo, hi, gradient, Z, start, signal, post):
    """Contract and carry Z (b, e n), which has no pre; gradient is (e n,)."""
    for i in range(lo, hi):
        z, a, g, p = Z[i], start[i], signal[i], post[i]
        for x in range(Z.shape[1]):
            v = wide(z[x])
            gradient[x] += g[x] * v
            z[x] = narrow(a[x] * v + p[x], z[x])


@jit()
def of_channel(lo, hi, gradient, Z, start, signal, post, pre):
    """Contract and carry Z (b, n, k, e) of a channel's own inputs.

    start and signal are (b, n, e), post (b, t, n, e), pre (b, t, k, e), gradient (k, e).
    """
    _, m, k, e = Z.shape
    now = np.empty(e, gradient.dtype)
    for at in range(lo, hi):
        i, y = at // m, at % m
        a, g = start[i, y], signal[i, y]
        for x in range(k):
            z, to = Z[i, y, x], gradient[x]
            for c in range(e):
                v = wide(z[c])
                to[c] += g[c] * v
                now[c] = a[c] * v
            for s in range(post.shape[1]):
                p, q = post[i, s, y], pre[i, s, x]
                for c in range(e):
                    now[c] += p[c] * q[c]
            for c in range(e):
                z[c] = narrow(now[c], z[c])


@jit()
def of_state(lo, hi, gradient, Z, start, signal, post, pre):
    """Contract and carry Z (b, n, k, e) of a state's own inputs: pre (b, t, n, k), gradient (n, k), else as above."""
    _, m, k, e = Z.shape
    now, zero = np.empty(e, gradient.dtype), gradient.dtype.type(0)
    for at in range(lo, hi):
        i, y = at // m, at % m
        a, g = start[i, y], signal[i, y]
        for x in range(k):
            z = Z[i, y, x]
            sum0, sum1, sum2, sum3 = gradient[y, x], zero, zero, zero  # four: each addition waits for the one before
            for c in range(e):
                now[c] = wide(z[c])
            for c in range(0, e - 3, 4):
                sum0 += g[c] * now[c]
                sum1 += g[c + 1] * now[c + 1]
                sum2 += g[c + 2] * now[c + 2]
                sum3 += g[c + 3] * now[c + 3]
            for c in range(e - e % 4, e):
                sum0 += g[c] * now[c]
            gradient[y, x] = (sum0 + sum1) + (sum2 + sum3)
            for c in range(e):
                now[c] *= a[c]
            for s in range(post.shape[1]):
                p, q = post[i, s, y], pre[i, s, y, x]
                for c in range(e):
                    now[c] += p[c] * q
            for c in range(e):
                z[c] = narrow(now[c], z[c])


@jit()
def one(row, b, kept, gradient, part, parts):
    """Do one part of a trace: `row` of the table; kept and gradient tell the precisions."""
    c, r, j, t = row[C], row[R], row[J], row[T]
    number = gradient.dtype
    z = carray(pointer(row[Z]), (b, c, r, j), kept.dtype)
    start = carray(pointer(row[START]), (b, c, r), number)
    signal = carray(pointer(row[SIGNAL]), (b, c, r), number)
    lo, hi = b * c * part // parts, b * c * (part + 1) // parts
    if row[KIND] == ALONE:
        flat = (b, c * r)
        to = gradient[row[AT] : row[AT] + c * r]
        post = carray(pointer(row[POST]), flat, number)
        alone(
            b * part // parts,
            b * (part + 1) // parts,
            to,
            z.reshape(flat),
            start.reshape(flat),
            signal.reshape(flat),
            post,
        )
    elif row[KIND] == DECAY:
        decay(lo, hi, gradient[row[AT] : row[AT] + c * j].reshape(c, j), z, start, signal)
    elif row[KIND] == STEP or row[KIND] == TAPPED:
        post = carray(pointer(row[POST]), (b, c, r), number)
        pre = carray(pointer(row[PRE]), (b, t, j), number)
        taps = carray(pointer(row[TAPS]), (b, c, t if row[KIND] == TAPPED else 0), number)
        step(lo, hi, gradient[row[AT] : row[AT] + c * j].reshape(c, j), z, start, signal, post, pre, taps)
    else:
        start = carray(pointer(row[START]), (b, c, j), number)
        signal = carray(pointer(row[SIGNAL]), (b, c, j), number)
        posts = carray(pointer(row[POST]), (b, t, c, j), number)
        if row[KIND] == OF_CHANNEL:
            own = carray(pointer(row[PRE]), (b, t, r, j), number)
            of_channel(lo, hi, gradient[row[AT] : row[AT] + r * j].reshape(r, j), z, start, signal, posts, own)
        else:
            own = carray(pointer(row[PRE]), (b, t, c, r), number)
            of_state(lo, hi, gradient[row[AT] : row[AT] + c * r].reshape(c, r), z, start, signal, posts, own)


@jit(parallel=True)
def all_rows(table, b, kept, gradients):
    """Do every row of the table; gradients is (threads, all of the gradient)."""
    parts = len(gradients)
    for part in prange(parts):
        gradients[part] = 0
        for x in range(len(table)):
            one(table[x], b, kept, gradients[part], part, parts)


@jit(parallel=True)
def forward(parts, a, b, h0, h):
    """Write h_t = a_t h_{t-1} + b_t; a, b and h are (b, t, m), h0 (b, m)."""
    streams, t, m = b.shape
    for part in prange(parts):
        for i in range(streams * part // parts, streams * (part + 1) // parts):
            for s in range(t):
                rate, before, drive, now = a[i, s], h0[i] if s == 0 else h[i, s - 1], b[i, s], h[i, s]
                for x in range(m):
                    now[x] = rate[x] * before[x] + drive[x]


@jit(parallel=True)
def backward(parts, a, g, h0, h, by_a, by_b, after):
    """Write the adjoint, last step first: see `scan._adjoint`."""
    streams, t, m = g.shape
    for part in prange(parts):
        for i in range(streams * part // parts, streams * (part + 1) // parts):
            later = after[i]
            later[:] = 0
            for s in range(t - 1, -1, -1):
                rate, before, signal = a[i, s], h0[i] if s == 0 else h[i, s - 1], g[i, s]
                value, slope = by_b[i, s], by_a[i, s]
                for x in range(m):
                    v = signal[x] + later[x]
                    value[x] = v
                    slope[x] = v * before[x]
                    later[x] = rate[x] * v


@jit(parallel=True)
def mamba2_of_h(parts, h, delta, slope, x, B, P, A, of_A, of_dt, to_dt):
    """Write what arrives of each step's m = (A a h_prev + B x) slope, and its sums for A_log and dt_bias.

    h (b, t, e, n), B (b, t, n), A (e,) negative; delta, its slope, x and the decay ahead P (b, t, e); of_A and of_dt
    (b, e, n), to_dt (b, t, e, n). A a h_prev is A (h - delta B x).
    """
    b, t, e, n = h.shape
    for part in prange(parts):
        for i in range(b * part // parts, b * (part + 1) // parts):
            of_A[i] = 0
            of_dt[i] = 0
            for s in range(t):
                row = B[i, s]
                for c in range(e):
                    state, to, sum_A, sum_dt = h[i, s, c], to_dt[i, s, c], of_A[i, c], of_dt[i, c]
                    u, d, a = x[i, s, c], delta[i, s, c], A[c]
                    p, q = P[i, s, c] * slope[i, s, c], P[i, s, c] * d
                    for y in range(n):
                        push = row[y] * u
                        leak = a * (state[y] - d * push)
                        m = (leak + push) * p
                        to[y] = m
                        sum_dt[y] += m
                        sum_A[y] += leak * q


@jit(parallel=True)
def mamba2_folded(parts, by_x, by_B, B, taps_x, taps_B, to_x, to_B):
    """Write what arrives of the projections x and B, folded over the taps: see `conv.fold`.

    by_x is delta P and by_B delta x P (b, t, e); B (b, t, n); taps_x (b, t, e, k), taps_B (b, t, n, k);
    to_x (b, k-1+t, e, n), to_B (b, k-1+t, n, e).
    """
    b, t, e, k = taps_x.shape
    n = B.shape[2]
    for part in prange(parts):
        for i in range(b * part // parts, b * (part + 1) // parts):
            for at in range(t + k - 1):
                first, last = max(0, at - t + 1), min(k - 1, at)  # taps that look from a step of the chunk at this row
                rows_x, rows_B = to_x[i, at], to_B[i, at]
                for c in range(e):
                    to, p, row = rows_x[c], by_x[i, at - first, c] * taps_x[i, at - first, c, first], B[i, at - first]
                    for y in range(n):
                        to[y] = p * row[y]
                    for tap in range(first + 1, last + 1):
                        p, row = by_x[i, at - tap, c] * taps_x[i, at - tap, c, tap], B[i, at - tap]
                        for y in range(n):
                            to[y] += p * row[y]
                for y in range(n):
                    to, p, row = rows_B[y], taps_B[i, at - first, y, first], by_B[i, at - first]
                    for c in range(e):
                        to[c] = p * row[c]
                    for tap in range(first + 1, last + 1):
                        p, row = taps_B[i, at - tap, y, tap], by_B[i, at - tap]
                        for c in range(e):
                            to[c] += p * row[c]


def cross_all(
    traces: list[Tensor],
    gradient: Tensor,
    axes: list[str],
    post: list[Tensor],
    pre: list[Tensor],
    taps: list[Tensor],
    by: list[Tensor],
) -> None:
    """Write the gradients and move every Z: what `influence.cross_torch` does, each trace in one pass."""
    table, products, at, flat = [], [], 0, gradient.numpy()
    kept = np.empty(0, np.uint16) if traces[0].dtype == torch.bfloat16 else flat[:0]
    for z, a, p, q, w in zip(traces, axes, post, pre, taps, strict=True):
        start, signal = by[:2] if a in ("e", "en", "ej") else by[2:]
        b, c, r, j = z.shape if z.ndim == 4 else (*z.shape, 1)
        size = r * j if a == "ek" else c * j if a in ("ej", "nj") else c * r
        if a in ("ej", "nj") and p.shape[1] > 1:
            products.append(functools.partial(chunk, flat[at : at + size], kept, z, p, q, start, signal))
        else:
            kind, steps = KINDS.get(a, TAPPED if w.numel() else STEP), q.shape[1] if q.numel() else 1
            if a in ("ek", "nk") and p.ndim == 3:  # decays here; what is the same for all e or n is a product
                products.append(functools.partial(added, add_own_, z, axes=a, post=p, pre=q))
                steps = 0
            table.append((kind, *map(address, (z, p, q, w, start, signal)), at, c, r, j, steps))
        at += size
    if table:
        run(table, b, kept, flat)
    for product in products:
        product()


def chunk(gradient: Any, kept: Any, z: Tensor, post: Tensor, pre: Tensor, start: Tensor, signal: Tensor) -> None:
    """Do a chunk of several steps for Z (b, c, r, j): our pass, then torch's product, by streams that a cache holds."""
    b, c, r, j = z.shape
    group = max(1, CACHE // (z.nbytes // b))
    gradient[:] = 0
    own = np.empty_like(gradient)
    for lo in range(0, b, group):
        part = slice(lo, lo + group)
        run(
            [(DECAY, address(z[part]), 0, 0, 0, address(start[part]), address(signal[part]), 0, c, r, j, 0)],
            len(z[part]),
            kept,
            own,
        )
        gradient += own
        added(add_, z[part], post=post[part], pre=pre[part])


def added(add: Any, z: Tensor, **drive: Any) -> None:
    """Add a product to z, in the precision of the product."""
    exact = z if z.dtype == drive["pre"].dtype else z.to(drive["pre"].dtype)
    add(exact, **drive)
    if exact is not z:
        z.copy_(exact)


def run(table: list[Any], streams: int, kept: Any, gradient: Any) -> None:
    """Do every row of the table, by as many threads as torch uses."""
    parts = threads()
    own = gradient[None] if parts == 1 else np.empty((parts, gradient.size), gradient.dtype)
    all_rows(np.array(table, dtype=np.int64), streams, kept, own)
    if parts > 1:
        own.sum(0, out=gradient)


def scan(a: Tensor, b: Tensor, h0: Tensor, h: Tensor) -> None:
    """Write every h_t (b, t, e, n)."""
    forward(threads(), *(flat(tensor, 2) for tensor in (a.expand_as(b), b)), flat(h0, 1), flat(h, 2))


def scan_adjoint(a: Tensor, g: Tensor, h0: Tensor, h: Tensor, by_a: Tensor, by_b: Tensor, after: Tensor) -> None:
    """Write dL/da before it is summed over the axes on which a is 1, dL/db and dL/dh0."""
    inputs = flat(a.expand_as(h), 2), flat(g, 2), flat(h0, 1), flat(h, 2)
    backward(threads(), *inputs, flat(by_a, 2), flat(by_b, 2), flat(after, 1))


def flat(tensor: Tensor, axis: int) -> Any:
    """Return the tensor as an array with the axes from `axis` on as one; only what is read may need a copy."""
    return tensor.contiguous().flatten(axis).numpy()


def threads() -> int:
    """Return how many threads torch uses, and make numba use as many."""
    parts = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    numba.set_num_threads(parts)
    return int(parts)


def address(tensor: Tensor) -> int:
    """Return where the tensor lies. Raises ValueError where it does not lie in one piece."""
    if not tensor.is_contiguous():
        raise ValueError(f"a kernel got a tensor of shape {tuple(tensor.shape)} that is not contiguous")
    return tensor.data_ptr()
