"""From one adapter to the next: a stage is run, measured, and mended where it cost reasoning."""
