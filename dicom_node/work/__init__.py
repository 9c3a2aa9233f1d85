"""What the node's processes do."""
