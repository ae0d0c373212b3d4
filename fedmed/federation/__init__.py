"""The server's side of a round: what is sent, what is accepted, how it is aggregated and kept."""
