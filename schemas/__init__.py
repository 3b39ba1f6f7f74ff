"""What flows and what is stored: no Beam, no I/O."""
