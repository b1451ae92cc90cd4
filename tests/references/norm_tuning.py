"""Norm tuning: Qi et al. 2022, section 3: gain and shift of every norm, and nothing else."""


def trained(model):
    norms = {path for path, module in model.named_modules() if "Norm" in type(module).__name__}
    return {name for name, _ in model.named_parameters() if name.rpartition(".")[0] in norms}
