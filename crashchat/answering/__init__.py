"""A video's prefix, its questions as branches, constraints on answers, and the cascade of two adapters."""
