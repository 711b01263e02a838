"""Functions of tensors: no modules, no learning."""
