"""A row of n states as one value of a kernel: n is known when the kernel is compiled, so a row lies in registers.

    v = fma(row(u, states), load(B, states), v);   store(v, h);   y = total(mul(v, load(C, states)))

`states` is a tuple of n zeros, which tells n by its type. Rows need n numbers side by side in memory; the order in
which `total` adds depends on n alone.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model


class Row(types.Type):
    """The type of n numbers."""

    def __init__(self, number: Any, count: int) -> None:
        """Take the type of a number, and n."""
        super().__init__(name=f"Row({number}, {count})")
        self.number, self.count = number, count


@register_model(Row)
class RowModel(models.PrimitiveModel):
    """Its place: a vector of LLVM's."""

    def __init__(self, manager: Any, kind: Row) -> None:
        """Take the type."""
        number = manager.lookup(kind.number).get_value_type()
        super().__init__(manager, kind, ir.VectorType(number, kind.count))


def spread(builder, number, vector):
    """Return the number in every lane of a vector."""
    none = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(none, number, ir.IntType(32)(0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, none, lanes)


def fused(builder, x, y, z):
    """Return x y + z of vectors, rounded once; llvmlite's own builder does it for single numbers alone."""
    bits = 32 if x.type.element == ir.FloatType() else 64
    kind = ir.FunctionType(x.type, [x.type] * 3)
    name = f"llvm.fma.v{x.type.count}f{bits}"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [x, y, z])


def fetched(builder, pointer, vector):
    """Return the vector of numbers at the pointer; those of 16 bits are bfloat16, the upper half of float32."""
    if pointer.type.pointee != ir.IntType(16):
        return builder.load(builder.bitcast(pointer, ir.PointerType(vector)), align=1)
    short, long = (ir.VectorType(ir.IntType(bits), vector.count) for bits in (16, 32))
    bits = builder.zext(builder.load(builder.bitcast(pointer, ir.PointerType(short)), align=1), long)
    return builder.bitcast(builder.shl(bits, ir.Constant(long, [16] * vector.count)), vector)


def put(builder, vector, pointer):
    """Write the vector of numbers to the pointer, rounded to nearest where they are kept as bfloat16."""
    if pointer.type.pointee == ir.IntType(16):
        count = vector.type.count
        short, long = (ir.VectorType(ir.IntType(bits), count) for bits in (16, 32))
        half, one, below = (ir.Constant(long, [number] * count) for number in (16, 1, 0x7FFF))
        bits = builder.bitcast(vector, long)
        odd = builder.and_(builder.lshr(bits, half), one)
        vector = builder.trunc(builder.lshr(builder.add(builder.add(bits, below), odd), half), short)
    builder.store(vector, builder.bitcast(pointer, ir.PointerType(vector.type)), align=1)


@intrinsic
def load(context, array, states):
    """Return the first n numbers of a contiguous array."""
    number = types.float32 if isinstance(array.dtype, types.Integer) else array.dtype
    kind = Row(number, len(states))

    def generate(context, builder, signature, arguments):
        data = context.make_array(array)(context, builder, arguments[0]).data
        return fetched(builder, data, context.get_value_type(kind))

    return kind(array, states), generate


@intrinsic
def store(context, row, array):
    """Write the row to the beginning of a contiguous array."""

    def generate(context, builder, signature, arguments):
        vector, value = arguments
        put(builder, vector, context.make_array(array)(context, builder, value).data)
        return context.get_dummy_value()

    return types.void(row, array), generate


@intrinsic
def row(context, number, states):
    """Return the number n times."""
    kind = Row(number, len(states))

    def generate(context, builder, signature, arguments):
        return spread(builder, arguments[0], context.get_value_type(kind))

    return kind(number, states), generate


@intrinsic
def mul(context, x, y):
    """Return x y, number by number."""
    return x(x, y), lambda context, builder, signature, arguments: builder.fmul(*arguments)


@intrinsic
def add(context, x, y):
    """Return x + y, number by number."""
    return x(x, y), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@intrinsic
def fma(context, x, y, z):
    """Return x y + z, number by number, rounded once."""

    return x(x, y, z), lambda context, builder, signature, arguments: fused(builder, *arguments)


@intrinsic
def total(context, x):
    """Return the sum of the row."""

    def generate(context, builder, signature, arguments):
        vector, number = arguments[0].type, context.get_value_type(x.number)
        name = f"llvm.vector.reduce.fadd.v{x.count}f{x.number.bitwidth}"
        kind = ir.FunctionType(number, [number, vector])
        reduce = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(reduce, [ir.Constant(number, -0.0), arguments[0]], fastmath=("reassoc",))

    return x.number(x), generate
