"""Local training; needs no server and no federation."""
