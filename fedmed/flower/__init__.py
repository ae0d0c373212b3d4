"""All that knows Flower's insides."""
