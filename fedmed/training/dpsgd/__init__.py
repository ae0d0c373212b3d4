"""Private local training: each unit's gradient clipped layer by layer, summed and noised."""
