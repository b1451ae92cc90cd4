"""The standard library of methods: one `.peft` file each, imported by name from any spec."""
