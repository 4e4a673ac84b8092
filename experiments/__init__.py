"""One agent meets one world: presets, the command line, results."""
