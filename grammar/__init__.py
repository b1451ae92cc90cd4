"""The surface syntax of `.peft` files, as data."""
