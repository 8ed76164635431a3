"""Plans: compilation of every live subscription, their outbox and their rollout."""
