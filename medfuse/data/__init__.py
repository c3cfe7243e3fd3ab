"""From files to batches: cases, fingerprint, plan, preprocessing, patch store, augmentation, loaders."""
