"""Ask an app how it is, over HTTP or TCP, and turn the answers into its state."""
