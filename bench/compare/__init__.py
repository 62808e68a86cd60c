"""Our library beside its peers, side by side in one run. See bench/README.md."""
