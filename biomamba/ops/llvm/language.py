"""What kernels are written in: numbers, arrays and loops that become LLVM's intermediate representation.

    for s in loop(t):                                  a loop of the kernel: its body is written once
        for c in lanes(0, e):                          the same by vectors, then number by number
            y[s, c] = fma(taps[c], x[s, c], y[s, c])   loads, a multiply-add rounded once, a store

Python's own loops and conditions run while the kernel is written: they unroll. No arithmetic is reordered and nothing
is fused that is not written so (but for `reduce_sum`, whose order depends on the width alone): a number does not depend
on whether it was computed in a vector.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Union

import llvmlite.binding as llvm
from llvmlite import ir

INT, BIT, BYTE, BFLOAT16 = ir.IntType(64), ir.IntType(1), ir.IntType(8), ir.IntType(16)
FLOAT16, FLOAT, DOUBLE = ir.HalfType(), ir.FloatType(), ir.DoubleType()
LINE = 64  # bytes of a line of the cache

_features = llvm.get_host_cpu_features()
HAS_FLOAT16 = _features.get("f16c", not _features.get("sse2"))  # converted by x86 since 2012, by others always
WIDTH = 64 if _features.get("avx512f") else 32 if _features.get("avx") else 16  # bytes of a vector of this processor
LANES = WIDTH // 4  # numbers that loops over vectors take at once: one vector of float32, two of float64

Number = Union["Value", int, float]
Size = Union["Value", int]
_builders: list[ir.IRBuilder] = []  # the innermost function that is being written comes last


def builder() -> ir.IRBuilder:
    """Return the builder of the function that is being written."""
    return _builders[-1]


@contextmanager
def writing(function: ir.Function) -> Iterator[None]:
    """Write the body of a function of no result."""
    _builders.append(ir.IRBuilder(function.append_basic_block()))
    try:
        yield
        builder().ret_void()
    finally:
        _builders.pop()


class Value:
    """A number, or a vector of numbers; as an index, the first of `width` neighbours."""

    __slots__ = ("ir", "width")

    def __init__(self, value: Any, width: int = 1) -> None:
        """Take LLVM's value."""
        self.ir, self.width = value, width

    @property
    def real(self) -> bool:
        """Say whether it is a real number, or a vector of them."""
        return isinstance(getattr(self.ir.type, "element", self.ir.type), ir.FloatType | ir.DoubleType)

    def _with(self, other: Number, of_reals: str, of_ints: str, swap: bool = False) -> "Value":
        """Return the result of one of LLVM's operations on the two."""
        x, y = _alike(self, other)
        pair = (y, x) if swap else (x, y)
        width = max(self.width, other.width if isinstance(other, Value) else 1)
        return Value(getattr(builder(), of_reals if self.real else of_ints)(*pair), width)

    def __add__(self, other: Number) -> "Value":
        return self._with(other, "fadd", "add")

    def __radd__(self, other: Number) -> "Value":
        return self._with(other, "fadd", "add", swap=True)

    def __sub__(self, other: Number) -> "Value":
        return self._with(other, "fsub", "sub")

    def __rsub__(self, other: Number) -> "Value":
        return self._with(other, "fsub", "sub", swap=True)

    def __mul__(self, other: Number) -> "Value":
        return self._with(other, "fmul", "mul")

    def __rmul__(self, other: Number) -> "Value":
        return self._with(other, "fmul", "mul", swap=True)

    def __floordiv__(self, other: Number) -> "Value":
        return self._with(other, "fdiv", "udiv")  # of integers that are not negative, as all sizes and places are

    def __rfloordiv__(self, other: Number) -> "Value":
        return self._with(other, "fdiv", "udiv", swap=True)

    def __mod__(self, other: Number) -> "Value":
        return self._with(other, "frem", "urem")

    def __neg__(self) -> "Value":
        return Value(builder().fneg(self.ir))

    def __and__(self, other: "Value") -> "Value":
        return Value(builder().and_(self.ir, other.ir))

    def __or__(self, other: "Value") -> "Value":
        return Value(builder().or_(self.ir, other.ir))

    def __xor__(self, other: "Value") -> "Value":
        return Value(builder().xor(self.ir, other.ir))

    def __rshift__(self, places: int) -> "Value":
        return Value(builder().lshr(*_alike(self, places)))  # zeros come in from the left

    def __lt__(self, other: Number) -> "Value":
        return self._compared("<", other)

    def __le__(self, other: Number) -> "Value":
        return self._compared("<=", other)

    def __gt__(self, other: Number) -> "Value":
        return self._compared(">", other)

    def __ge__(self, other: Number) -> "Value":
        return self._compared(">=", other)

    def _compared(self, how: str, other: Number) -> "Value":
        pair = _alike(self, other)
        return Value(builder().fcmp_ordered(how, *pair) if self.real else builder().icmp_signed(how, *pair))


def _alike(x: Value, y: Number) -> tuple[Any, Any]:
    """Return LLVM's values of two operands, a single number beside a vector in all of its places."""
    if not isinstance(y, Value):
        return x.ir, constant(x.ir.type, y).ir
    if isinstance(x.ir.type, ir.VectorType) and not isinstance(y.ir.type, ir.VectorType):
        return x.ir, broadcast(y, x.ir.type.count).ir
    if isinstance(y.ir.type, ir.VectorType) and not isinstance(x.ir.type, ir.VectorType):
        return broadcast(x, y.ir.type.count).ir, y.ir
    return x.ir, y.ir


def equal(x: Value, y: Number) -> Value:
    """Say whether two integers are the same."""
    return Value(builder().icmp_signed("==", *_alike(x, y)))


def constant(kind: Any, number: float) -> Value:
    """Return a number of LLVM's type; of a vector type, in all places."""
    if isinstance(kind, ir.VectorType):
        return Value(ir.Constant(kind, [number] * kind.count))
    return Value(kind(number))


def integer(x: Size) -> Value:
    """Return an integer as a value."""
    return x if isinstance(x, Value) else Value(INT(x))


def fixed(size: Size) -> int:
    """Return a size that is known when the kernel is compiled. Raises TypeError for another."""
    if isinstance(size, Value):
        raise TypeError("a size is known only when the kernel runs, expected one of the kernel's constants")
    return size


def broadcast(x: Value, count: int) -> Value:
    """Return the number in every place of a vector."""
    kind = ir.VectorType(x.ir.type, count)
    first = builder().insert_element(ir.Constant(kind, ir.Undefined), x.ir, ir.IntType(32)(0))
    places = ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count)
    return Value(builder().shuffle_vector(first, ir.Constant(kind, ir.Undefined), places))


def piece(x: Value, first: int, count: int) -> Value:
    """Return `count` numbers of a vector."""
    if not isinstance(x.ir.type, ir.VectorType) or (first, count) == (0, x.ir.type.count):
        return x
    if count == 1:
        return Value(builder().extract_element(x.ir, ir.IntType(32)(first)))
    return shuffled(x, range(first, first + count))


def shuffled(x: Value, places: Sequence[int]) -> Value:
    """Return the vector of a vector's numbers at these places."""
    chosen = ir.Constant(ir.VectorType(ir.IntType(32), len(places)), [*places])
    return Value(builder().shuffle_vector(x.ir, ir.Constant(x.ir.type, ir.Undefined), chosen))


def call(name: str, result: Any, *arguments: Any) -> Any:
    """Return what a function outside the kernel returns: an intrinsic of LLVM, or a function of a C library."""
    module = builder().module
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    found = module.globals.get(name) or ir.Function(module, kind, name)
    return builder().call(found, arguments)


def _named(kind: Any) -> str:
    """Return how LLVM names a type in its intrinsics."""
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{_named(kind.element)}"
    return {FLOAT: "f32", DOUBLE: "f64"}[kind]


def fma(x: Value, y: Value, z: Value) -> Value:
    """Return x y + z, rounded once."""
    counts = [value.ir.type.count for value in (x, y, z) if isinstance(value.ir.type, ir.VectorType)]
    if counts:
        x, y, z = (v if isinstance(v.ir.type, ir.VectorType) else broadcast(v, counts[0]) for v in (x, y, z))
    return Value(call(f"llvm.fma.{_named(x.ir.type)}", x.ir.type, x.ir, y.ir, z.ir))


def exp(x: Value) -> Value:
    """Return e^x, to the last place or the one before it: 2^m (1 + r + r^2 / 2! + ...), m = floor(x / log 2 + 1/2)."""
    kind, b = x.ir.type, builder()
    single = getattr(kind, "element", kind) == FLOAT
    terms, high, low, (lowest, highest) = (7, 0.693359375, -2.12194440e-4, (-104, 89)) if single else (
        13, 0.693145751953125, 1.42860682030941723212e-6, (-746, 710))  # fmt: skip
    within = _math("minnum", _math("maxnum", x, constant(kind, lowest)), constant(kind, highest))
    m = _math("floor", fma(within, constant(kind, 1 / math.log(2)), constant(kind, 0.5)))
    r = fma(m, constant(kind, -low), fma(m, constant(kind, -high), within))
    series = constant(kind, 1 / math.factorial(terms))
    for term in range(terms - 1, -1, -1):
        series = fma(series, r, constant(kind, 1 / math.factorial(term)))
    whole = _shaped(ir.IntType(32 if single else 64), getattr(kind, "count", 1))
    power = b.fptosi(m.ir, whole)
    half = b.ashr(power, constant(whole, 1).ir)
    for part in (half, b.sub(power, half)):  # two steps: 2^m alone may be none of the numbers
        biased = b.add(part, constant(whole, 127 if single else 1023).ir)
        series = series * Value(b.bitcast(b.shl(biased, constant(whole, 23 if single else 52).ir), kind))
    return Value(b.select(b.fcmp_unordered("uno", x.ir, x.ir), x.ir, series.ir))


def sigmoid(x: Value) -> Value:
    """Return 1 / (1 + e^-x)."""
    return 1 // (1 + exp(-x))


def softplus(x: Value) -> Value:
    """Return log(1 + e^x) of one number."""
    log1p = {FLOAT: "log1pf", DOUBLE: "log1p"}[x.ir.type]
    rest = call(log1p, x.ir.type, exp(-_math("fabs", x)).ir)
    return _math("maxnum", x, constant(x.ir.type, 0)) + Value(rest)


def softplus_series(x: Value) -> Value:
    """Return log(1 + e^x) = max(x, 0) + log(1 + y) with y = e^-|x|, by 2 (s + s^3 / 3 + ...), s = y / (2 + y)."""
    kind = x.ir.type
    y = exp(-_math("fabs", x))
    s = y // (2 + y)
    square, terms = s * s, 8 if getattr(kind, "element", kind) == FLOAT else 17
    series = constant(kind, 1 / (2 * terms - 1))
    for term in range(terms - 2, -1, -1):
        series = fma(series, square, constant(kind, 1 / (2 * term + 1)))
    return _math("maxnum", x, constant(kind, 0)) + 2 * s * series


def log(x: Value) -> Value:
    """Return the natural logarithm of one number."""
    return Value(call({FLOAT: "logf", DOUBLE: "log"}[x.ir.type], x.ir.type, x.ir))


def cos(x: Value) -> Value:
    """Return the cosine of one number."""
    return Value(call({FLOAT: "cosf", DOUBLE: "cos"}[x.ir.type], x.ir.type, x.ir))


def maximum(x: Value, y: Value) -> Value:
    """Return the larger of two numbers, the other one where one is NaN."""
    return _math("maxnum", x, y)


def sqrt(x: Value) -> Value:
    """Return the square root."""
    return _math("sqrt", x)


def real(x: Size, kind: Any) -> Value:
    """Return an integer as a real number of a type."""
    return Value(builder().sitofp(integer(x).ir, kind))


def _math(name: str, *given: Value) -> Value:
    """Return what one of LLVM's functions of numbers or vectors of them returns."""
    kind = given[0].ir.type
    return Value(call(f"llvm.{name}.{_named(kind)}", kind, *(value.ir for value in given)))


def reduce_sum(x: Value) -> Value:
    """Return the sum of a vector, in an order that depends on its width alone."""
    if not isinstance(x.ir.type, ir.VectorType):
        return x
    number = x.ir.type.element
    kind = ir.FunctionType(number, [number, x.ir.type])
    name, module = f"llvm.vector.reduce.fadd.{_named(x.ir.type)}", builder().module
    found = module.globals.get(name) or ir.Function(module, kind, name)
    return Value(builder().call(found, [number(-0.0), x.ir], fastmath=("reassoc",)))


def select(condition: Value, x: Number, y: Number) -> Value:
    """Return x where the condition is true, else y; one of the two must be a value."""
    like = x if isinstance(x, Value) else y
    assert isinstance(like, Value)
    first, second = (v if isinstance(v, Value) else constant(like.ir.type, v) for v in (x, y))
    return Value(builder().select(condition.ir, first.ir, second.ir))


def either(condition: Value, x: "Array", y: "Array") -> "Array":
    """Return x where the condition is true, else y, of the same sizes; nothing is copied."""
    return Array(builder().select(condition.ir, x.pointer, y.pointer), x.shape, x.strides)


def smaller(x: Size, y: Size) -> Size:
    """Return the smaller of two integers."""
    if isinstance(x, int) and isinstance(y, int):
        return min(x, y)
    return select(integer(x) < y, integer(x), integer(y))


def larger(x: Size, y: Size) -> Size:
    """Return the larger of two integers."""
    if isinstance(x, int) and isinstance(y, int):
        return max(x, y)
    return select(integer(x) > y, integer(x), integer(y))


def when(condition: Value) -> AbstractContextManager[Any]:
    """Do what stands inside where the condition is true."""
    return builder().if_then(condition.ir)  # type: ignore[no-any-return]


def choose(condition: Value) -> AbstractContextManager[Any]:
    """Return two contexts: what to do where the condition is true, and where not."""
    return builder().if_else(condition.ir)  # type: ignore[no-any-return]


def loop(lo: Size, hi: Size | None = None, step: int = 1) -> Iterator[Value]:
    """Write a loop from lo (default 0) to hi, hi not included; with a negative step, downwards."""
    lo, hi = (0, lo) if hi is None else (lo, hi)
    b = builder()
    before, (head, body, done) = b.block, (b.append_basic_block() for _ in range(3))
    b.branch(head)
    b.position_at_end(head)
    index = b.phi(INT)
    index.add_incoming(integer(lo).ir, before)
    b.cbranch(b.icmp_signed("<" if step > 0 else ">", index, integer(hi).ir), body, done)
    b.position_at_end(body)
    yield Value(index)
    index.add_incoming(b.add(index, INT(step)), b.block)
    b.branch(head)
    b.position_at_end(done)


def lanes(lo: Size, hi: Size, width: int) -> Iterator[Value]:
    """Write a loop by vectors of `width`, then one over the numbers that are left: the body is written twice."""
    lo, hi = integer(lo), integer(hi)
    end = hi - (hi - lo) % width
    for x in loop(0, (end - lo) // width):
        yield span(lo + x * width, width)
    yield from loop(end, hi)


def span(first: Size, width: int) -> Value:
    """Return the index of `width` neighbours, the first of which is given."""
    return Value(integer(first).ir, width)


class Variable:
    """A number that changes along a loop; LLVM keeps it in a register."""

    def __init__(self, value: Value) -> None:
        """Begin with a value."""
        with builder().goto_entry_block():
            self.place = builder().alloca(value.ir.type)
        self.set(value)

    def get(self) -> Value:
        """Return the value now."""
        return Value(builder().load(self.place))

    def set(self, value: Value) -> None:
        """Change the value."""
        builder().store(value.ir, self.place)


class Array:
    """Numbers in memory, those of the last axis side by side; int16 are bfloat16, bytes are bools.

    a[i, j] is a sub-array or, with all indices, a number (a vector where the last index is wide), to read or write.
    """

    there: Value | None = None  # of an optional argument: whether it was given

    def __init__(self, pointer: Any, shape: Sequence[Size], strides: Sequence[Size] | None = None) -> None:
        """Take where it begins, its sizes, and how many numbers apart neighbours of each axis lie (default: packed)."""
        self.pointer, self.shape = pointer, tuple(shape)
        if strides is None:
            packed: list[Size] = [1]
            for size in reversed(self.shape[1:]):
                packed.insert(0, packed[0] * size)
            strides = packed[: len(self.shape)]
        self.strides = tuple(strides)

    @property
    def stored(self) -> Any:
        """Return the type of what is in memory."""
        return self.pointer.type.pointee

    @property
    def number(self) -> Any:
        """Return the type of the numbers."""
        return FLOAT if self.stored in (BFLOAT16, FLOAT16) else self.stored

    def zero(self, width: int = 1) -> Value:
        """Return 0 as one of the numbers, or `width` of them."""
        return constant(self.number if width == 1 else ir.VectorType(self.number, width), 0)

    def address(self, *index: Size) -> Any:
        """Return the pointer to an element, or to the first of a sub-array."""
        place: Size = 0
        for i, stride in zip(index, self.strides, strict=False):
            place = i * stride + place
        return builder().gep(self.pointer, [integer(place).ir])

    def __getitem__(self, index: Any) -> Any:
        index = index if isinstance(index, tuple) else (index,)
        pointer, rest = self.address(*index), len(index)
        if rest < len(self.shape):
            return Array(pointer, self.shape[rest:], self.strides[rest:])
        width = index[-1].width if index and isinstance(index[-1], Value) else 1
        return _load(pointer, width)

    def __setitem__(self, index: Any, value: Number) -> None:
        index = index if isinstance(index, tuple) else (index,)
        width = index[-1].width if index and isinstance(index[-1], Value) else 1
        kind = self.number if width == 1 else ir.VectorType(self.number, width)
        value = value if isinstance(value, Value) else constant(kind, value)
        if width > 1 and not isinstance(value.ir.type, ir.VectorType):
            value = broadcast(value, width)
        _store(value, self.address(*index))


def _shaped(kind: Any, width: int) -> Any:
    return kind if width == 1 else ir.VectorType(kind, width)


def _load(pointer: Any, width: int) -> Value:
    """Return the numbers at the pointer; float16 and bfloat16, the upper half of float32, as float32."""
    b, stored = builder(), pointer.type.pointee
    at = pointer if width == 1 else b.bitcast(pointer, ir.PointerType(ir.VectorType(stored, width)))
    found = b.load(at, align=max(1, getattr(stored, "width", 8) // 8) if width == 1 else 1)
    if stored == BYTE:
        return Value(b.icmp_unsigned("!=", found, BYTE(0)))
    if stored == FLOAT16:
        return Value(b.fpext(found, _shaped(FLOAT, width)))
    if stored != BFLOAT16:
        return Value(found)
    long = _shaped(ir.IntType(32), width)
    bits = b.shl(b.zext(found, long), constant(long, 16).ir)
    return Value(b.bitcast(bits, _shaped(FLOAT, width)))


def _store(value: Value, pointer: Any) -> None:
    """Write the numbers at the pointer, rounded to nearest where they are kept as float16 or bfloat16."""
    b, kind = builder(), value.ir.type
    width, written = (kind.count if isinstance(kind, ir.VectorType) else 1), value.ir
    if pointer.type.pointee == BYTE:
        written = b.zext(written, BYTE)
    if pointer.type.pointee == FLOAT16:
        written = b.fptrunc(written, _shaped(FLOAT16, width))
    elif pointer.type.pointee == BFLOAT16:
        long = _shaped(ir.IntType(32), width)
        bits = b.bitcast(written, long)
        odd = b.and_(b.lshr(bits, constant(long, 16).ir), constant(long, 1).ir)
        bits = b.add(b.add(bits, constant(long, 0x7FFF).ir), odd)
        written = b.trunc(b.lshr(bits, constant(long, 16).ir), _shaped(BFLOAT16, width))
    b.store(written, b.bitcast(pointer, ir.PointerType(written.type)), align=1)


def prefetch(pointer: Any) -> None:
    """Have the line at the pointer brought near, to be written; it may lie outside of all arrays."""
    flag = ir.IntType(32)
    call("llvm.prefetch.p0", ir.VoidType(), builder().bitcast(pointer, BYTE.as_pointer()), flag(1), flag(3), flag(1))


def fill(array: Array, number: float = 0) -> None:
    """Write a number to all of an array whose numbers lie in one piece."""
    count: Size = 1
    for size in array.shape:
        count = size * count
    flat = Array(array.pointer, (count,))
    for x in lanes(0, count, LANES):
        flat[x] = number


def dot(x: Array, y: Array, count: Size) -> Value:
    """Return the sum of the products of two rows, in an order that depends on their length alone."""
    whole, total = integer(count) - integer(count) % LANES, Variable(x.zero(LANES))
    for c in loop(integer(count) // LANES):
        at = span(c * LANES, LANES)
        total.set(fma(x[at], y[at], total.get()))
    rest = Variable(reduce_sum(total.get()))
    for c in loop(whole, count):
        rest.set(fma(x[c], y[c], rest.get()))
    return rest.get()


def total(x: Array, count: Size) -> Value:
    """Return the sum of a row, in an order that depends on its length alone."""
    whole, sums = integer(count) - integer(count) % LANES, Variable(x.zero(LANES))
    for c in loop(integer(count) // LANES):
        sums.set(sums.get() + x[span(c * LANES, LANES)])
    rest = Variable(reduce_sum(sums.get()))
    for c in loop(whole, count):
        rest.set(rest.get() + x[c])
    return rest.get()


def is_finite(x: Value) -> Value:
    """Say whether a number is neither an infinity nor a NaN."""
    return x - x <= 0


class Scratch:
    """Memory of a kernel's own, for as long as it runs."""

    def __init__(self) -> None:
        """Begin with none."""
        self.pieces: list[Any] = []

    def array(self, kind: Any, *shape: Size) -> Array:
        """Return an array of anything; to be asked for outside of loops."""
        count: Size = 1
        for size in shape:
            count = size * count
        width = {FLOAT: 4, DOUBLE: 8, BFLOAT16: 2, BYTE: 1, INT: 8}[kind]
        piece = call("malloc", BYTE.as_pointer(), (integer(count) * width + 2 * LINE).ir)
        self.pieces.append(piece)
        aligned = builder().and_(builder().add(builder().ptrtoint(piece, INT), INT(LINE - 1)), INT(-LINE))
        return Array(builder().inttoptr(aligned, kind.as_pointer()), shape)

    def free(self) -> None:
        """Give it back."""
        for piece in self.pieces:
            call("free", ir.VoidType(), piece)


def subroutine(write: Callable[..., None]) -> Callable[..., None]:
    """Make a function of the kernel of what `write` writes: compiled once for each kind of numbers, whatever the sizes.

    Inside it, sizes of arrays are known only when it runs.
    """

    def call_it(*given_arguments: Array | Size) -> None:
        arguments = [_run_time(argument) for argument in given_arguments]
        values = [value for argument in arguments for value in _values(argument)]
        module = builder().module
        name = ".".join([write.__module__, write.__name__, *(str(value.type) for value in values)])
        found = module.globals.get(name)
        if found is None:
            found = ir.Function(module, ir.FunctionType(ir.VoidType(), [v.type for v in values]), name)
            found.linkage = "internal"
            found.attributes.add("noinline")
            with writing(found):
                given = iter(found.args)
                write(*(_rebuilt(argument, given) for argument in arguments))
        builder().call(found, values)

    return call_it


def _run_time(argument: Array | Size) -> Array | Value:
    """Return the argument with all sizes as values; numbers of the last axis stay side by side."""
    if isinstance(argument, Array):
        shape, strides = ([integer(size) for size in sizes] for sizes in (argument.shape, argument.strides[:-1]))
        return Array(argument.pointer, shape, [*strides, argument.strides[-1]])
    return integer(argument)


def _values(argument: Array | Value) -> list[Any]:
    """Return LLVM's values that an argument consists of."""
    if isinstance(argument, Array):
        sizes = [*argument.shape, *argument.strides]
        return [argument.pointer, *(size.ir for size in sizes if isinstance(size, Value))]
    return [argument.ir]


def _rebuilt(argument: Array | Value, given: Iterator[Any]) -> Array | Value:
    """Return the argument made of a function's own arguments."""
    if isinstance(argument, Array):
        pointer = next(given)
        shape, strides = (
            [Value(next(given)) if isinstance(size, Value) else size for size in sizes]
            for sizes in (argument.shape, argument.strides)
        )
        return Array(pointer, shape, strides)
    return Value(next(given))
