"""The only room that knows YAML and CEL. Rules, features, segments, labels and mapping files all speak through it."""
