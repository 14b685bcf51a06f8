"""What Hydra, Lightning and several processes need of a run."""
