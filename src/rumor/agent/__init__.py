"""The agent of one node: `run_agent` builds the parts this node plays and runs them."""
