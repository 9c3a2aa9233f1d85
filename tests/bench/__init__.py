"""`make bench`: the node against real peers on the same machine, in the same run."""
