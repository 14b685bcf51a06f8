"""From raw silhouettes to a store."""
