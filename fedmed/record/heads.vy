# pragma version ==0.4.3
# @license Apache-2.0
"""
@title Heads of the records of federated runs
@notice Keeps, for whoever sends and by a run's name, the size and Merkle root of its record. A
    record only grows: a size that goes back, or another root of the same size, is refused.
"""

struct Head:
    size: uint256
    root: bytes32

event Anchored:
    owner: indexed(address)
    run: indexed(bytes32)
    size: uint256
    root: bytes32

heads: public(HashMap[address, HashMap[bytes32, Head]])

@external
def register(run: bytes32):
    """
    @notice Begin a run, whose name is the root of its record of size 1.
    """
    assert self.heads[msg.sender][run].size == 0, "this run is registered"
    self.heads[msg.sender][run] = Head(size=1, root=run)
    log Anchored(owner=msg.sender, run=run, size=1, root=run)

@external
def anchor(run: bytes32, size: uint256, root: bytes32):
    """
    @notice Keep the head of a run in place of the last one; the same head again changes nothing.
    """
    last: Head = self.heads[msg.sender][run]
    assert last.size != 0, "this run is not registered"
    assert size >= last.size, "the size goes back"
    if size == last.size:
        assert root == last.root, "another root of the same size"
        return
    self.heads[msg.sender][run] = Head(size=size, root=root)
    log Anchored(owner=msg.sender, run=run, size=size, root=root)
