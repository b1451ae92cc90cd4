"""Other libraries' folders, read and written; today those of Hugging Face PEFT.

Neither direction needs that library: a folder is JSON and safetensors.
"""

from peftlang.interop.approximating import Cut, to_hf_as_lora
from peftlang.interop.exporting import to_hf
from peftlang.interop.folder import is_hf_folder
from peftlang.interop.importing import from_hf, spec_of

__all__ = ["Cut", "from_hf", "is_hf_folder", "spec_of", "to_hf", "to_hf_as_lora"]
