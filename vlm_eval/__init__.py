"""vlm-eval: which vision-language model, in which quantisation, for support screenshots."""

__version__ = "0.1.0"
