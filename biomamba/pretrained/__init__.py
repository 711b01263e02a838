"""Official weights: checkpoints of Mamba and Mamba-2 by mamba-ssm or Hugging Face, from and to a local folder.

    in_proj(w * norm(x))  =  (in_proj diag(w)) norm(x)

The pre-norms here carry no weight w, so each layer's goes into its in_proj; the rest is copied.
"""

from .weights import arguments, load_pretrained, save_official

__all__ = ["arguments", "load_pretrained", "save_official"]
