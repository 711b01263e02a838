"""Kernels for the CPU, compiled by numba: every trace of a block is read and written once per update, in one call.

    g += signal Z;   Z = P Z + sum_s post_s pre_s        in one pass over Z, in place

A call takes a table with a row per trace, of addresses and sizes, because to hand over thirty arrays would take longer
than the work of a single stream. Threads share the rows (b, c) of each trace, which lie one after the other in memory,
and each adds to a gradient of its own; what is done with a row's numbers is `numba_tile.carry`.
Shapes: Z is (b, c, r, j), as `influence` lays it out; signal and start are (b, c, r), post (b, t, c, r), pre (b, t, j).
A trace kept in bfloat16 is read as its bits, uint16.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import carray, prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from .numba_jit import inlined, jit, threaded, threads
from .numba_tile import carry, narrow, pack, packed, wide

ROOM = 4096  # numbers of posts that are packed at once: they stay in the nearest cache

KIND, Z, POST, PRE, TAPS, START, SIGNAL, AT, C, R, J, T, K = range(13)  # columns of the table; AT: of the gradient
ALONE, DENSE, TAPPED, OF_CHANNEL, OF_STATE = range(5)  # kinds of pass
KINDS = {"e": ALONE, "en": ALONE, "ej": DENSE, "nj": DENSE, "ek": OF_CHANNEL, "nk": OF_STATE}


@intrinsic
def pointer(context, address):
    """Return the address as a pointer."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@inlined
def dense(lo, hi, gradient, Z, start, signal, post, pre):
    """Contract and carry Z; the drives of all steps are post (b, t, c, r) times pre (b, t, j)."""
    _, m, r, _ = Z.shape
    steps = post.shape[1]
    room = max(1, ROOM // (steps * r))  # channels side by side, whose posts of a step lie in one piece
    p = packed(room, steps, r, gradient)
    at = lo
    while at < hi:
        i, c = at // m, at % m
        many = min(room, m - c, hi - at)
        at += many
        pack(p, post[i, :, c : c + many])
        last = c + many
        carry(Z[i, c:last], start[i, c:last], signal[i, c:last], p, pre[i], gradient[c:last])


@jit
def mix(taps, inputs, mixed):
    """Write sum_k taps_k inputs_k to mixed (1, j): what a single step's taps (k,) make of inputs (k, j)."""
    for x in range(inputs.shape[1]):
        mixed[0, x] = taps[0] * inputs[0, x]
    for tap in range(1, len(taps)):
        for x in range(inputs.shape[1]):
            mixed[0, x] += taps[tap] * inputs[tap, x]


@inlined
def tapped(lo, hi, gradient, Z, start, signal, post, pre, taps):
    """Contract Z and carry it one step; the drive is post (b, 1, c, r) times taps (b, 1, c, k) . pre (b, k, j)."""
    _, m, r, j = Z.shape
    p, mixed = packed(1, 1, r, gradient), np.empty((1, j), gradient.dtype)
    for at in range(lo, hi):
        i, c = at // m, at % m
        mix(taps[i, 0, c], pre[i], mixed)
        last = c + 1
        pack(p, post[i, :, c:last])
        carry(Z[i, c:last], start[i, c:last], signal[i, c:last], p, mixed, gradient[c:last])


@inlined
def alone(lo, hi, gradient, Z, start, signal, post):
    """Contract and carry Z (b, e n), which has no pre; gradient is (e n,)."""
    for i in range(lo, hi):
        z, a, g, p = Z[i], start[i], signal[i], post[i]
        for x in range(Z.shape[1]):
            v = wide(z[x])
            gradient[x] += g[x] * v
            z[x] = narrow(a[x] * v + p[x], z[x])


@jit
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


@jit
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


@inlined
def one(row, b, kept, gradient, part, parts):
    """Do one part of a trace: `row` of the table; kept and gradient tell the precisions."""
    c, r, j, t, k = row[C], row[R], row[J], row[T], row[K]
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
    elif row[KIND] <= TAPPED:
        to = gradient[row[AT] : row[AT] + c * j].reshape(c, j)
        post = carray(pointer(row[POST]), (b, t, c, r), number)
        pre = carray(pointer(row[PRE]), (b, max(0, k - 1) + t, j), number)
        if row[KIND] == DENSE:
            dense(lo, hi, to, z, start, signal, post, pre)
        else:
            taps = carray(pointer(row[TAPS]), (b, t, c, k), number)
            tapped(lo, hi, to, z, start, signal, post, pre, taps)
    else:
        start = carray(pointer(row[START]), (b, c, j), number)
        signal = carray(pointer(row[SIGNAL]), (b, c, j), number)
        post = carray(pointer(row[POST]), (b, t, c, j), number)
        if row[KIND] == OF_CHANNEL:
            to = gradient[row[AT] : row[AT] + r * j].reshape(r, j)
            pre = carray(pointer(row[PRE]), (b, t, r, j), number)
            of_channel(lo, hi, to, z, start, signal, post, pre)
        else:
            to = gradient[row[AT] : row[AT] + c * r].reshape(c, r)
            pre = carray(pointer(row[PRE]), (b, t, c, r), number)
            of_state(lo, hi, to, z, start, signal, post, pre)


@threaded
def all_rows(parts, table, b, kept, gradients):
    """Do every row of the table; gradients is (parts, all of the gradient)."""
    for part in prange(parts):
        gradients[part] = 0
        for x in range(len(table)):
            one(table[x], b, kept, gradients[part], part, parts)


@threaded
def forward(parts, a, b, h0, h):
    """Write h_t = a_t h_{t-1} + b_t; a, b and h are (b, t, m), h0 (b, m)."""
    streams, t, m = b.shape
    for part in prange(parts):
        for i in range(streams * part // parts, streams * (part + 1) // parts):
            for s in range(t):
                rate, before, drive, now = a[i, s], h0[i] if s == 0 else h[i, s - 1], b[i, s], h[i, s]
                for x in range(m):
                    now[x] = rate[x] * before[x] + drive[x]


@threaded
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
    table, at = [], 0
    by_e, by_n = tuple(map(address, by[:2])), tuple(map(address, by[2:]))
    for z, a, p, q, w in zip(traces, axes, post, pre, taps, strict=True):
        b, c, r, *inputs = z.shape
        j = inputs[0] if inputs else 1
        kind, steps, k, size = KINDS[a], (q.shape[1] if q.numel() else 1), w.shape[-1], c * r
        if kind == DENSE:
            steps -= max(0, k - 1)
            kind, size = TAPPED if k else DENSE, c * j
        elif kind == OF_CHANNEL:
            size = r * j
        places = address(z), address(p), address(q), address(w)
        table.append((kind, *places, *(by_e if a in ("e", "en", "ej") else by_n), at, c, r, j, steps, k))
        at += size
    run(all_rows, traces[0], gradient, np.array(table, dtype=np.int64), b)


def run(kernel: Callable[..., None], trace: Tensor, gradient: Tensor, *given: Any) -> None:
    """Call kernel(*given, kept, gradients) with as many gradients as torch uses threads, and sum them up."""
    flat, parts = gradient.numpy(), threads()
    kept = np.empty(0, np.uint16) if trace.dtype == torch.bfloat16 else flat[:0]
    own = flat[None] if parts == 1 else np.empty((parts, flat.size), flat.dtype)
    kernel(*given, kept, own)
    if parts > 1:
        own.sum(0, out=flat)


def scan(a: Tensor, b: Tensor, h0: Tensor, h: Tensor) -> None:
    """Write every h_t (b, t, e, n)."""
    forward(*(flat(tensor, 2) for tensor in (a.expand_as(b), b)), flat(h0, 1), flat(h, 2))


def scan_adjoint(a: Tensor, g: Tensor, h0: Tensor, h: Tensor, by_a: Tensor, by_b: Tensor, after: Tensor) -> None:
    """Write dL/da before it is summed over the axes on which a is 1, dL/db and dL/dh0."""
    inputs = flat(a.expand_as(h), 2), flat(g, 2), flat(h0, 1), flat(h, 2)
    backward(*inputs, flat(by_a, 2), flat(by_b, 2), flat(after, 1))


def flat(tensor: Tensor, axis: int) -> Any:
    """Return the tensor as an array with the axes from `axis` on as one; only what is read may need a copy."""
    return tensor.contiguous().flatten(axis).numpy()


def address(tensor: Tensor) -> int:
    """Return where the tensor lies. Raises ValueError where it does not lie in one piece."""
    if not tensor.is_contiguous():
        raise ValueError(f"a kernel got a tensor of shape {tuple(tensor.shape)} that is not contiguous")
    return tensor.data_ptr()
