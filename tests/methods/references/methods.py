"""Every method of `specs/` by name."""

from tests.methods.references import attentions, projections, sequences, sublayers
from tests.methods.references.reference import Reference

REFERENCES: dict[str, Reference] = {
    "adapter_bias": projections.adapter_bias,
    "bitfit": sequences.bitfit,
    "boft": projections.boft,
    "diff_pruning": projections.diff_pruning,
    "dora": projections.dora,
    "fourierft": projections.fourierft,
    "houlsby": sublayers.houlsby,
    "hyperformer": sublayers.hyperformer,
    "ia3": projections.ia3,
    "loha": projections.loha,
    "lokr": projections.lokr,
    "lora": projections.lora,
    "loreft": sublayers.loreft,
    "mam": attentions.mam,
    "molora": projections.molora,
    "multi_head_parallel_adapter": attentions.multi_head_parallel_adapter,
    "norm_tuning": sequences.norm_tuning,
    "oft": projections.oft,
    "parallel_adapter": sublayers.parallel_adapter,
    "pfeiffer": sublayers.pfeiffer,
    "prefix": attentions.prefix,
    "prefix_gated": attentions.prefix_gated,
    "prompt_tuning": sequences.prompt_tuning,
    "rslora": projections.rslora,
    "scaled_parallel_adapter": sublayers.scaled_parallel_adapter,
    "vera": projections.vera,
}
