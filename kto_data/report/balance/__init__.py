"""The label balance report of a cache: what is in it, by label, and which loss weights fit it."""
