"""The experiments: each measures, over several seeds, what a source claims, and says whether it is seen here."""
