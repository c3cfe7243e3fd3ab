"""A trained model as something to hand on: what it is, in one value, and the formats that others take."""
