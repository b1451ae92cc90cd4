"""BitFit: Ben Zaken et al. 2022, section 3: every bias of the model, and nothing else."""


def trained(model):
    return {name for name, _ in model.named_parameters() if name.split(".")[-1] == "bias"}
