"""What a person runs: the command line, planning, the graph, verification."""
