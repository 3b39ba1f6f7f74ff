"""facecap: face image-caption datasets from LAION-style URL lists, with every URL accounted for."""

__version__ = "0.1.0"
