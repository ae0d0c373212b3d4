"""What plays the clients: processes here, Ray, or Flower between hospitals."""
