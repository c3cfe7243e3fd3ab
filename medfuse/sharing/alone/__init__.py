"""What a MONAI bundle of medfuse needs beside MONAI: it is copied into the bundle."""
