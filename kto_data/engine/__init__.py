"""Where the work runs. The work itself knows nothing of it."""
