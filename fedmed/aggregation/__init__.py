"""How the server comes to a sum of the clients' updates, and what it sees on the way.

No transport is here: whoever carries the messages is :mod:`fedmed.federation`'s concern.
"""
