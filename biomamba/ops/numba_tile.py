"""The inner loop of every trace: a tile of Z meets its signal, decays and takes in its drives, held in registers.

    to += signal z;   z = start z + sum_s p_s q_s        for each of m matrices

A compiler left alone does not keep a tile of z in registers over the drives of a chunk, and so writes it as often as
there are steps. So the tile is built here from vectors as wide as the processor's.
Shapes: z (m, r, j), start and signal (m, r), to (m, j), q (T, j); p is (m, T, r), laid out as the tile reads
it, BLOCK rows of z together: p[c, y // BLOCK, s, y % BLOCK].
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from .influence import FOLDED
from .numba_jit import jit
from .numba_rows import fetched, fused, load, put, spread, store

_features = llvm.get_host_cpu_features()
WIDTH = 64 if _features.get("avx512f") else 32 if _features.get("avx") else 16  # bytes of a vector
ROWS, VECTORS = 4, 2 if WIDTH == 32 else 4  # of a tile: what the registers hold, beside a row of q
BLOCK = 16  # rows of z: a line of the cache
A_BLOCK = (0,) * BLOCK
INT = ir.IntType(64)


def wide(x: Any) -> Any:
    """Return the number stored as x."""


def narrow(x: Any, like: Any) -> Any:
    """Return what stores the number x as `like` is stored, rounded to nearest."""


@overload(wide)
def _wide(x):
    if isinstance(x, types.Integer):  # bfloat16: the upper half of a float32
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
def fma(context, x, y, z):
    """Return x y + z, rounded once, as the tile does it."""
    return z(x, y, z), lambda context, builder, signature, arguments: builder.fma(*arguments)


@intrinsic
def lanes(context, array):
    """Return how many numbers of the array a vector holds: a constant, which spares divisions."""
    count = _lanes(array)
    return types.int64(array), lambda context, builder, signature, arguments: INT(count)


def _lanes(array: Any) -> int:
    return WIDTH // int(array.dtype.bitwidth // 8)


class _Vectors:
    """How vectors of numbers are loaded, stored and multiplied, and where they lie in the arrays given."""

    def __init__(self, context: Any, builder: Any, kinds: Any, arrays: Any, like: Any) -> None:
        self.builder, self.lanes, number = builder, _lanes(like), context.get_value_type(like.dtype)
        self.type = ir.VectorType(number, self.lanes)
        made = [context.make_array(kind)(context, builder, value) for kind, value in zip(kinds, arrays, strict=True)]
        self.data = [array.data for array in made]
        self.shapes = [cgutils.unpack_tuple(builder, array.shape) for array in made]

    def at(self, array: int, *index: Any):
        """Return the address of an element of one of the arrays, which are contiguous."""
        place = index[0]
        for size, i in zip(self.shapes[array][1:], index[1:], strict=True):
            place = self.builder.add(self.builder.mul(place, size), i)
        return self.builder.gep(self.data[array], [place])

    def fma(self, x, y, z):
        return fused(self.builder, x, y, z)

    def splat(self, pointer):
        """Return the number at the pointer in every lane."""
        return spread(self.builder, self.builder.load(pointer), self.type)

    def load(self, pointer):
        """Return the numbers from the pointer on."""
        return fetched(self.builder, pointer, self.type)

    def store(self, vector, pointer):
        """Write the numbers."""
        put(self.builder, vector, pointer)

    def fetch(self, pointer):
        """Have the line at the pointer brought near, to be written; it may lie outside the arrays."""
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        fetch = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        self.builder.call(fetch, [self.builder.bitcast(pointer, byte), flag(1), flag(3), flag(1)])

    def loop(self, count, sums, body):
        """Return the sums after count rounds of body(s, sums) -> sums."""
        before = self.builder.block
        head, inside, done = (self.builder.append_basic_block(name) for name in ("head", "body", "done"))
        self.builder.branch(head)
        self.builder.position_at_end(head)
        s, now = self.builder.phi(INT), [self.builder.phi(value.type) for value in sums]
        self.builder.cbranch(self.builder.icmp_signed("<", s, count), inside, done)
        self.builder.position_at_end(inside)
        after = body(s, now)
        following = self.builder.add(s, INT(1))
        for phi, start, end in zip([s, *now], [INT(0), *sums], [following, *after], strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(end, self.builder.block)
        self.builder.branch(head)
        self.builder.position_at_end(done)
        return now


def _tile(rows: int, vectors: int, ahead: int) -> Any:
    """Return the function of a tile of `rows` rows and `vectors` vectors, whose corner is z[c, y, x].

    It has the tile that lies `ahead` tiles further down brought near; 0: none.
    """

    @intrinsic
    def tile(context, z, start, signal, p, q, to, c, y, x):
        """Meet, decay and take in."""

        def generate(context, builder, signature, arguments):
            v = _Vectors(context, builder, signature.args[:6], arguments[:6], to)
            c, y, x = arguments[6:]
            columns = [builder.add(x, INT(v.lanes * i)) for i in range(vectors)]
            lines = [builder.add(y, INT(i)) for i in range(rows)]
            cells = [v.at(0, c, line, column) for line in lines for column in columns]
            below = builder.mul(INT(ahead * rows), v.shapes[0][2])
            for cell in cells if ahead else ():
                v.fetch(builder.gep(cell, [below]))

            held = [v.load(cell) for cell in cells]
            for b, column in enumerate(columns):
                total = v.load(v.at(5, c, column))
                for a, line in enumerate(lines):
                    total = v.fma(v.splat(v.at(2, c, line)), held[a * vectors + b], total)
                v.store(total, v.at(5, c, column))
            rates = [v.splat(v.at(1, c, line)) for line in lines]
            held = [builder.fmul(rates[i // vectors], vector) for i, vector in enumerate(held)]
            block, within = builder.sdiv(y, INT(BLOCK)), builder.srem(y, INT(BLOCK))

            def take(s, held):
                right = [v.load(v.at(4, s, column)) for column in columns]
                left = [v.splat(v.at(3, c, block, s, builder.add(within, INT(i)))) for i in range(rows)]
                return [v.fma(left[i // vectors], right[i % vectors], vector) for i, vector in enumerate(held)]

            for vector, cell in zip(v.loop(v.shapes[4][0], held, take), cells, strict=True):
                v.store(vector, cell)
            return context.get_dummy_value()

        return types.void(z, start, signal, p, q, to, *[types.int64] * 3), generate

    return tile


def _walk(vectors: int) -> Any:
    """Return the function of a single step's columns from x on, as many as `vectors` hold, of all rows of z[c]."""

    @intrinsic
    def walk(context, z, start, signal, p, q, to, c, x):
        """Meet, decay and take in, row by row; the sums and the row of q stay in registers."""

        def generate(context, builder, signature, arguments):
            v = _Vectors(context, builder, signature.args[:6], arguments[:6], to)
            c, x = arguments[6:]
            columns = [builder.add(x, INT(v.lanes * i)) for i in range(vectors)]
            right = [v.load(v.at(4, INT(0), column)) for column in columns]

            def line(y, sums):
                cells = [v.at(0, c, y, column) for column in columns]
                held = [v.load(cell) for cell in cells]
                met, rate = v.splat(v.at(2, c, y)), v.splat(v.at(1, c, y))
                block, within = builder.lshr(y, INT(BLOCK.bit_length() - 1)), builder.and_(y, INT(BLOCK - 1))
                left = v.splat(v.at(3, c, block, INT(0), within))
                for cell, vector, pushed in zip(cells, held, right, strict=True):
                    v.store(v.fma(left, pushed, builder.fmul(rate, vector)), cell)
                return [v.fma(met, vector, total) for vector, total in zip(held, sums, strict=True)]

            totals = v.loop(v.shapes[0][1], [v.load(v.at(5, c, column)) for column in columns], line)
            for total, column in zip(totals, columns, strict=True):
                v.store(total, v.at(5, c, column))
            return context.get_dummy_value()

        return types.void(z, start, signal, p, q, to, types.int64, types.int64), generate

    return walk


_large, _thin = _tile(ROWS, VECTORS, 2), _tile(ROWS, 1, 2)
_flat, _small = _tile(1, VECTORS, 0), _tile(1, 1, 0)
_double, _walk_large, _walk_thin = _walk(2 * VECTORS), _walk(VECTORS), _walk(1)


@intrinsic
def fold(context, p, taps, channel, post):
    """Write p_s = sum_k taps[s - k, k, channel] post[s - k]: see `conv.fold`.

    taps (t, k, e) with k up to FOLDED; post (blocks, t, BLOCK) as `pack` lays it, p likewise with k - 1 + t steps.
    """

    def generate(context, builder, signature, arguments):
        p_, taps_, channel, post_ = arguments
        v = _Vectors(context, builder, (p, taps, post), (p_, taps_, post_), p)
        t, many = v.shapes[1][:2]
        parts = [INT(v.lanes * part) for part in range(BLOCK // v.lanes)]
        none = [ir.Constant(v.type, None)] * len(parts)

        def weight(s, k):
            """Return the tap in every lane; 0 beyond the last."""
            there = builder.icmp_signed("<", INT(k), many)
            found = v.splat(v.at(1, s, builder.select(there, INT(k), INT(0)), channel))
            return builder.select(there, found, none[0])

        def of_block(block, _):
            def of_step(s, coming):  # coming: what later steps have got so far, a row for each tap but the first
                weights = [weight(s, k) for k in range(FOLDED)]
                row = [v.load(v.at(2, block, s, part)) for part in parts]
                coming = [*coming, *none]
                sums = [v.fma(weights[at // len(parts)], row[at % len(parts)], sum_) for at, sum_ in enumerate(coming)]
                for part, sum_ in zip(parts, sums, strict=False):
                    v.store(sum_, v.at(0, block, s, part))
                return sums[len(parts) :]

            rest = v.loop(t, none * (FOLDED - 1), of_step)
            for k in range(FOLDED - 1):
                with builder.if_then(builder.icmp_signed("<", INT(k + 1), many)):
                    for part, sum_ in zip(parts, rest[k * len(parts) :], strict=False):
                        v.store(sum_, v.at(0, block, builder.add(t, INT(k)), part))
            return []

        v.loop(v.shapes[2][0], [], of_block)
        return context.get_dummy_value()

    return types.void(p, taps, types.int64, post), generate


@jit
def packed(many, steps, r, like):
    """Return room for the p of `many` matrices of r rows."""
    return np.empty((many, (r + BLOCK - 1) // BLOCK, steps, BLOCK), like.dtype)


@jit
def pack(p, posts):
    """Put the posts (T, m, r) of m matrices where the tile reads them; their r lie side by side."""
    steps, m, r = posts.shape
    whole = r // BLOCK
    for s in range(steps):
        for c in range(m):
            for block in range(whole):
                store(load(posts[s, c, block * BLOCK :], A_BLOCK), p[c, block, s])
            for y in range(r % BLOCK):
                p[c, whole, s, y] = posts[s, c, whole * BLOCK + y]


@jit
def carry(z, start, signal, p, q, to):
    """Do m matrices: all arrays contiguous, as said above."""
    m, r, j = z.shape
    thin = lanes(to)
    broad = thin * VECTORS
    whole, full = j & ~(broad - 1), j & ~(thin - 1)
    for c in range(m):
        if len(q) == 1:  # memory sets the pace
            twice = j & ~(2 * broad - 1)
            for x in range(0, twice, 2 * broad):
                _double(z, start, signal, p, q, to, c, x)
            for x in range(twice, whole, broad):
                _walk_large(z, start, signal, p, q, to, c, x)
            for x in range(whole, full, thin):
                _walk_thin(z, start, signal, p, q, to, c, x)
        else:
            even = r & ~(ROWS - 1)
            for x in range(0, whole, broad):
                for y in range(0, even, ROWS):
                    _large(z, start, signal, p, q, to, c, y, x)
                for y in range(even, r):
                    _flat(z, start, signal, p, q, to, c, y, x)
            for x in range(whole, full, thin):
                for y in range(0, even, ROWS):
                    _thin(z, start, signal, p, q, to, c, y, x)
                for y in range(even, r):
                    _small(z, start, signal, p, q, to, c, y, x)
        for x in range(full, j):
            for y in range(r):
                v = wide(z[c, y, x])
                to[c, x] = fma(signal[c, y], v, to[c, x])
                v *= start[c, y]
                for s in range(len(q)):
                    v = fma(p[c, y // BLOCK, s, y % BLOCK], q[s, x], v)
                z[c, y, x] = narrow(v, z[c, y, x])
