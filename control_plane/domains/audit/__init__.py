"""The audit log: who changed what, when and from where, and who was refused; chained by digests."""
