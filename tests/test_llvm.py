"""Our kernels for the CPU: the same bits at any number of threads, nothing read unwritten, nothing written outside."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("llvmlite", reason="llvmlite is not installed")

from biomamba.ops.llvm import compile as compiling
from biomamba.ops.llvm import conv, influence, mamba2, mamba2_chunk, operator, scan, ssm
from biomamba.ops.llvm.kernel import Argument, Kernel, Part, evaluated, flags, given, kernel, result, trace
from biomamba.ops.llvm.language import (
    LANES,
    Array,
    Variable,
    either,
    exp,
    fill,
    fma,
    lanes,
    larger,
    loop,
    piece,
    real,
    reduce_sum,
    select,
    sigmoid,
    smaller,
    softplus,
    softplus_series,
    span,
    sqrt,
    when,
)

MODULES = conv, ssm, scan, influence, mamba2, mamba2_chunk
KERNELS = {own.name: own for module in MODULES for own in vars(module).values() if isinstance(own, Kernel)}
THREADS = 1, 2, 3, 4
TIMES = 1, 2, 7, 63, 64
SIZES: list[dict[str, int]] = [
    {"b": 1, "n": 5, "headdim": 3, "heads": 7, "j": 9, "k": 4},
    {"b": 3, "n": 16, "headdim": 1, "heads": 48, "j": 70, "k": 4},
    {"b": 3, "n": 4, "headdim": 3, "heads": 11, "j": 33, "k": 1},
    {"b": 2, "n": 33, "headdim": 16, "heads": 2, "j": 5, "k": 3},
    {"b": 1, "n": 1, "headdim": 1, "heads": 1, "j": 1, "k": 2},
]
WALL = 64  # numbers of NaN on either side of a tensor


def sizes_of(own: Kernel, base: dict[str, int], t: int) -> dict[str, int]:
    """Return the sizes of a kernel's call."""
    e = base["headdim"] * base["heads"]
    named = base | {"t": t, "g": base["heads"], "e": e, "c": e, "r": base["n"], "m": e * base["n"]}
    if own.name in ("dense", "tapped"):
        named |= {"r": base["n"]}
    return named


def tensors_of(
    own: Kernel, sizes: dict[str, int], number: torch.dtype, stored: torch.dtype
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return random tensors, results full of NaN, each between walls of NaN; and the walls with what they enclose."""
    torch.manual_seed(0)
    found, wholes = [], []
    for name, argument in own.arguments.items():
        shape = tuple(evaluated(size, sizes) for size in argument.shape)
        if argument.kind == "flag":
            own_flags = torch.rand(shape) < (2.0 if name == "go" else 0.3 if name == "reset" else 0.7)
            found.append(own_flags)
            continue
        dtype = stored if argument.kind == "trace" else number
        count = torch.Size(shape).numel()
        whole = torch.full((count + 2 * WALL,), torch.nan, dtype=dtype)
        inside = whole[WALL : WALL + count].view(shape)
        if not argument.written or argument.kind == "trace":
            values = torch.randn(shape, dtype=torch.float64)
            positive = {"a": values.abs().neg().exp(), "log_a": -values.abs(), "decay": values.abs().neg().exp()}
            inside.copy_(positive.get(name, values))
        found.append(inside)
        wholes.append(whole)
    return found, wholes


def written(own: Kernel, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return copies of what a kernel writes."""
    pairs = zip(own.arguments.values(), tensors, strict=True)
    return [tensor.clone() for argument, tensor in pairs if argument.written]


def law(own: Kernel, sizes: dict[str, int], number: torch.dtype, stored: torch.dtype) -> None:
    """Raise AssertionError where a result depends on the number of threads, on what lay there, or leaves its place."""
    expected: list[torch.Tensor] = []
    for count in THREADS:
        torch.set_num_threads(count)
        tensors, wholes = tensors_of(own, sizes, number, stored)
        operator.call(own, *tensors)
        for whole in wholes:
            walls = torch.cat([whole[:WALL], whole[-WALL:]])
            assert bool(walls.isnan().all()), f"{own.name} wrote outside on {count} threads"
        results = written(own, tensors)
        assert all(bool(x.isfinite().all()) for x in results), f"{own.name} left a number unwritten on {count} threads"
        expected = expected or results
        same = all(torch.equal(x, y) for x, y in zip(results, expected, strict=True))
        assert same, f"{own.name} gave other bits on {count} threads"


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize(
    "number, base",
    [*((torch.float32, base) for base in SIZES), *((torch.float64, base) for base in SIZES[:2])],
    ids=lambda given: f"b{given['b']}n{given['n']}p{given['headdim']}" if isinstance(given, dict) else str(given)[6:],
)
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.usefixtures("all_threads")
def test_the_same_bits_at_any_number_of_threads(name: str, number: torch.dtype, base: dict[str, int], t: int) -> None:
    law(KERNELS[name], sizes_of(KERNELS[name], base, t), number, number)


@pytest.mark.parametrize("t", [1, 7])
@pytest.mark.parametrize("base", SIZES[1:3], ids=["n16", "n4"])
@pytest.mark.parametrize(
    "name", [name for name, own in KERNELS.items() if any(a.kind == "trace" for a in own.arguments.values())]
)
@pytest.mark.usefixtures("all_threads")
def test_the_same_bits_with_traces_in_bfloat16(name: str, base: dict[str, int], t: int) -> None:
    law(KERNELS[name], sizes_of(KERNELS[name], base, t), torch.float32, torch.bfloat16)


@kernel(x=given("b c"), total=result("c"))
def summed_by_parts(part: Part, x: Array, total: Array) -> None:
    """Sum over streams, shared out among the parts, into one place."""
    b, c = x.shape
    for i in part.rows(b):
        for column in loop(c):
            total[column] = select(part.number > 0, total[column] + x[i, column], x[i, column])


@kernel(x=given("b c"), copied=result("b c"))
def forgets_the_last(part: Part, x: Array, copied: Array) -> None:
    """Copy all rows of this part but its last."""
    lo, hi = part.range(x.shape[0])
    for i in loop(lo, hi - 1):
        for column in loop(x.shape[1]):
            copied[i, column] = x[i, column]


@kernel(x=given("b c"), copied=result("b c"))
def steps_outside(part: Part, x: Array, copied: Array) -> None:
    """Copy all rows, and one number more."""
    for i in part.rows(x.shape[0]):
        for column in loop(x.shape[1] + 1):
            copied[i, column] = x[i, smaller(column, x.shape[1] - 1)]


@pytest.mark.parametrize(
    "wrong, words",
    [
        (summed_by_parts, "bits|unwritten"),
        (forgets_the_last, "left a number unwritten"),
        (steps_outside, "wrote outside"),
    ],
)
@pytest.mark.usefixtures("all_threads")
def test_the_law_catches_kernels_that_are_wrong(wrong: Kernel, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        law(wrong, {"b": 5, "c": 3}, torch.float32, torch.float32)


def test_a_thread_makes_one_call_with_integers_of_a_function_that_is_not_inlined() -> None:
    """No kernel has another parallel region: what a thread does is one call."""
    for own in KERNELS.values():
        text = str(own.module(torch.float32, torch.float32, dict.fromkeys(own.constants, 4), parallel=True))
        functions = dict(re.findall(r'^define [^@]*@"?([\w.]+)"?\([^\n]*\)[^\n]*\n\{\n(.*?)^\}', text, re.M | re.S))
        body = [line.strip() for line in functions["share"].splitlines() if not line.endswith(":")]
        kinds = [re.sub(r"^%\S+ = |\(.*", "", line).strip() for line in body]
        assert kinds == ['call i32 @"omp_get_thread_num"', *kinds[1:]]
        calls = [line for line in body if " call " in f" {line}"]
        assert len(calls) == 3 and re.fullmatch(r'call void @"work"\(i64\* %\S+, i64 %\S+, i64 %\S+\)', calls[-1]), body
        assert re.search(r'define internal void @"work"\([^)]*\) noinline', text)
        assert len(re.findall(r'call \S+ @"GOMP_parallel"', text)) == 1, "one region a kernel"
        assert "GOMP" in functions["entry"]


def test_small_work_takes_one_thread_and_large_work_those_that_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def call(tensors: list[torch.Tensor]) -> None:
        operator.call(scan.scan, *tensors)
        (key,) = [key for key in operator._known if key[1][0] == tensors[0].shape and key[0] is scan.scan]
        own = operator._known[key]
        monkeypatch.setitem(operator._known, key, own._replace(operator=lambda threads, *rest: taken.append(threads)))
        operator.call(scan.scan, *tensors)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    call([torch.rand(1, 5, 11), torch.rand(1, 5, 11), torch.rand(1, 11), torch.empty(1, 5, 11)])
    call([torch.rand(4, 64, 4099), torch.rand(4, 64, 4099), torch.rand(4, 4099), torch.empty(4, 64, 4099)])
    torch.set_num_threads(before)
    assert taken == [1, 2]


@pytest.mark.parametrize(
    "shapes, words",
    [
        ([(2, 5, 3), (2, 5, 3), (1, 3), (2, 5, 3)], r"scan: h0 is of shape \(1, 3\), expected \(2, 3\) \(b m\)"),
        ([(2, 5, 3), (2, 4, 3), (2, 3), (2, 5, 3)], r"scan: drive is of shape \(2, 4, 3\), expected \(2, 5, 3\)"),
        ([(2, 5, 3), (2, 5, 3), (2, 3), (2, 5)], r"scan: h is of shape \(2, 5\), expected \(2, 5, 3\) \(b t m\)"),
    ],
)
def test_sizes_are_checked_before_a_number_is_read(shapes: list[tuple[int, ...]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        operator.call(scan.scan, *(torch.rand(shape) for shape in shapes))
    good = [(2, 5, 3), (2, 5, 3), (2, 3), (2, 5, 3)]
    operator.call(scan.scan, *(torch.rand(shape) for shape in good))  # control


def test_what_a_kernel_cannot_read_is_said() -> None:
    x, h0 = torch.rand(2, 5, 3), torch.rand(2, 3)
    with pytest.raises(ValueError, match="scan: drive is of float64, expected float32"):
        operator.call(scan.scan, x, x.double(), h0, x.clone())
    with pytest.raises(ValueError, match="scan: a is of float16"):
        operator.call(scan.scan, x.half(), x.half(), h0.half(), x.half())
    with pytest.raises(ValueError, match=r"scan: a of shape \(2, 5, 3\) is not contiguous on the CPU"):
        operator.call(scan.scan, torch.rand(2, 3, 5).transpose(1, 2), x, h0, x.clone())


@kernel(
    "n",
    x=given("m n"),
    flag=flags("m"),
    none=flags("m", optional=True),
    kept=trace("m n"),
    out=result("9 m n"),
    sums=result("m"),
)
def everything(part: Part, x: Array, flag: Array, none: Array, kept: Array, out: Array, sums: Array) -> None:
    """Use each word of the language once."""
    m, n = x.shape
    row, count = span(0, int(n)), int(n)
    room = part.empty(count)
    assert none.there is not None
    for i in loop(m - 1, -1, -1):
        sums[i] = reduce_sum(x[i, row])
        kept[i, row] = kept[i, row] + x[i, row]
        out[0, i, row] = fma(x[i, row], x[i, row], -x[i, row])
        total = Variable(x.zero())
        for c in lanes(0, n, LANES):
            out[1, i, c] = select(flag[i], x[i, c], 0)
        for c in loop(n):
            out[2, i, c] = exp(x[i, c])
            total.set(total.get() + x[i, c])
            out[3, i, c] = total.get()
        fill(room, 7)
        for c in loop(larger(n, 1) // 1):
            out[4, i, c] = room[c]
        out[5, i, row] = either(i > 0, x[i - 1], x[i])[row]
        for c in range(count):
            out[6, i, c] = piece(x[i, row], c, 1)
            out[7, i, c] = select(none.there, 1.0, x[i, c])
        out[8, i, row] = x[i, row]
        with when(flag[i]):
            out[8, i, row] = x[i, row] * 2.0 + 1.0


@pytest.mark.parametrize("n", [1, 5, 8, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_language_means_what_python_means(n: int, dtype: torch.dtype) -> None:
    m = 6
    number = torch.float64 if dtype == torch.float64 else torch.float32
    x, flag, none = torch.randn(m, n, dtype=number), torch.rand(m) < 0.5, torch.empty(0, dtype=torch.bool)
    kept, out, sums = torch.randn(m, n).to(dtype), x.new_empty(9, m, n), x.new_empty(m)
    expected_kept = (kept.to(number) + x).to(dtype)
    operator.call(everything, x, flag, none, kept, out, sums)
    before = torch.cat([x[:1], x[:-1]])
    expected = [x * x - x, x * flag[:, None], x.exp(), x.cumsum(1), torch.full_like(x, 7), before, x, x]
    expected.append(torch.where(flag[:, None], 2 * x + 1, x))
    torch.testing.assert_close(out, torch.stack(expected))
    torch.testing.assert_close(sums, x.sum(1))
    assert torch.equal(kept, expected_kept), "what is kept is rounded to nearest"


@kernel(x=given("m"), whole=result("m"), single=result("m"), others=result("5 m"))
def functions(part: Part, x: Array, whole: Array, single: Array, others: Array) -> None:
    """Work out e^x in vectors and one by one, and what else there is."""
    (m,) = x.shape
    for i in lanes(0, m, LANES):
        whole[i], others[0, i], others[1, i] = exp(x[i]), sigmoid(x[i]), softplus_series(x[i])
    for i in loop(m):
        single[i], others[3, i], others[2, i] = exp(x[i]), softplus_series(x[i]), sqrt(real(i, x.number))
        others[4, i] = softplus(x[i])


@pytest.mark.parametrize("dtype, places", [(torch.float32, 2e-7), (torch.float64, 4e-16)])
def test_functions_are_right_to_the_last_place_or_the_one_before(dtype: torch.dtype, places: float) -> None:
    far = torch.tensor([-torch.inf, -1e30, -800.0, -104.5, -87.4, -0.0, 0.0, 1e-9, 88.7, 89.5, 709.9, 1e30, torch.inf])
    x = torch.cat([far.to(dtype), torch.linspace(-90, 88, 10007, dtype=dtype), torch.tensor([torch.nan], dtype=dtype)])
    whole, single, others = x.new_empty(len(x)), x.new_empty(len(x)), x.new_empty(5, len(x))
    operator.call(functions, x, whole, single, others)
    assert torch.equal(whole.nan_to_num(-1), single.nan_to_num(-1)), "a vector computes what a single number does"
    assert torch.equal(others[1].nan_to_num(-1), others[3].nan_to_num(-1))
    tiny = torch.finfo(dtype).tiny
    torch.testing.assert_close(whole, x.exp(), rtol=places, atol=tiny, equal_nan=True)
    torch.testing.assert_close(others[0], x.sigmoid(), rtol=2 * places, atol=tiny, equal_nan=True)
    exact = torch.nn.functional.softplus(x.double(), threshold=50).to(dtype)
    for found in (others[1], others[4]):
        torch.testing.assert_close(found, exact, rtol=2 * places, atol=2e-22, equal_nan=True)
    assert torch.equal(others[2], torch.tensor([math.sqrt(i) for i in range(len(x))], dtype=torch.float64).to(dtype))


PROGRAM = """
import torch
from biomamba.ops.llvm import operator, scan
operator.call(scan.scan, torch.rand(1, 2, 3), torch.rand(1, 2, 3), torch.rand(1, 3), torch.empty(1, 2, 3))
"""


def start(home: Path) -> str:
    """Run a kernel in a process of its own that keeps kernels in `home`; return what it wrote to stderr."""
    environment = os.environ | {"XDG_CACHE_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    return done.stderr


def test_kernels_are_kept_where_caches_are_and_said_to_be_made_once(tmp_path: Path) -> None:
    kept = tmp_path / "biomamba" / "kernels"
    stale, used = kept / "0123456789abcdef", kept / "fedcba9876543210"
    stale.mkdir(parents=True)
    used.mkdir()
    os.utime(stale, (0, 0))
    assert start(tmp_path) == "biomamba: compiling CPU kernels once, about 2 s\n"
    assert start(tmp_path) == ""
    assert not stale.exists() and used.exists()
    (file,) = (kept / compiling.version()).glob("*.o")
    whole = file.read_bytes()
    for broken in (b"", bytes([whole[0] ^ 1]) + whole[1:]):
        file.write_bytes(broken)
        assert "compiling" in start(tmp_path)
        assert file.read_bytes() == whole, "compiled anew, to the same code"
    package = Path(compiling.__file__).parents[2]
    assert not [*package.rglob("*.o"), *package.rglob("*.nbc")], "nothing lies in the package"


def test_where_nothing_can_be_kept_kernels_are_made_each_time(tmp_path: Path) -> None:
    (tmp_path / "biomamba").write_text("a file where a folder should be")
    assert "compiling" in start(tmp_path)
    assert "compiling" in start(tmp_path)


def test_a_shape_is_a_sum_of_names_and_numbers() -> None:
    sizes: dict[str, Any] = {"k": 4, "t": 7, "e": 2, "n": 3}
    assert [evaluated(word, sizes) for word in ("k-1+t", "e+n", "k+1", "1", "t")] == [10, 5, 5, 1, 7]
    assert Argument(("b",)) == given("b")
