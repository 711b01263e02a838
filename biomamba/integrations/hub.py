"""A model that the Hugging Face hub keeps: pip install "biomamba[hub]".

HubModel.from_pretrained(folder or name)        model.save_pretrained(folder)        model.push_to_hub(name)
"""

from typing import Any

from huggingface_hub import PyTorchModelHubMixin

from ..model import Model


class HubModel(Model, PyTorchModelHubMixin, library_name="biomamba", tags=["mamba", "online-learning"]):
    """`biomamba.Model` with what the hub asks for; a folder holds config.json with its options and model.safetensors.

    Of official weights of Mamba and Mamba-2 see `biomamba.load_pretrained` and `biomamba.save_official`.

    >>> HubModel(vocab=8, d_out=8, d_model=8, d_state=4, headdim=4).blocks[0].headdim
    4
    """

    def __init__(self, **options: Any) -> None:
        """Draw initial weights; options as for `Model`, plain values."""
        super().__init__(**options)
