"""Kernels for the CPU, of our own making: written as loops in Python, compiled by LLVM at their first use.

Reading order:

    language     numbers, arrays and loops: what a kernel is written in
    kernel       a kernel and its arguments; the sizes of all tensors are checked before one is read
    compile      machine code, kept on disk
    operator     torch calls it by its address, on torch's own threads

    conv, ssm, scan                what a chunk computes
    tile, influence, mamba2        how traces meet their learning signal and cross a chunk
    mamba_stack, mamba2_stack      an update of all layers at once: stack, product, cross_entropy and adam beside them

A part of a kernel owns some rows of every result and computes each of them whole, in one order. So results do not
depend on how many parts there are, and no sum is taken over parts.
"""
