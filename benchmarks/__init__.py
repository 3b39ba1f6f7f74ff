"""Reproducible comparisons with peers and with the bare kernels: `make bench`."""
