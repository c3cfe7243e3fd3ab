"""The plugins that come with medfuse. Imported by nobody: each is reached through its entry point."""
