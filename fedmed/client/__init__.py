"""What runs at a hospital: local training and validation, behind a Flower ClientApp."""
