"""What is checked: contracts and gradients at one site, references, and whole models."""
