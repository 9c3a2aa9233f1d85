"""Where bundles come from: simulated pairs, the fit, its evaluation and export."""
