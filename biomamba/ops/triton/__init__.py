"""Kernels for the GPU, in Triton. Reading order: scan, influence.

Checked by Triton's interpreter on the CPU (TRITON_INTERPRET=1), which cuts a bfloat16 off where a GPU rounds to
nearest; compiled for sm_90, but neither run nor timed on a GPU, so the sizes of tiles are guesses.
"""

OPTIONS = {"enable_fp_fusion": True}  # a v + p in one instruction; triton 3.9 warns where it is left open
