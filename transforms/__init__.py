"""One file per stage: a Beam transform, thin over plain functions."""
