"""What runs at the federation's server when Flower starts it: a ServerApp."""
