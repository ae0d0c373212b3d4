"""Where clients run: one module an engine, each a Flower Grid."""
