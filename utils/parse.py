"""What a text in YAML says: a config's file, or the value of one of its keys."""

from typing import Any

import yaml


def parse_value(text: str) -> Any:
    """A YAML scalar or list; YAML 1.1 reads 1e-4 as text, so numbers are tried first."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    return parse_yaml(text)


class Loader(yaml.SafeLoader):
    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = super().construct_yaml_int(node)
        if abs(value) >= 2**63:  # Python does not even print one of thousands of digits
            raise ValueError("a whole number of more than 63 bits")
        return value


Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)


def parse_yaml(text: str) -> Any:
    """What a text in YAML says. Raises ValueError or yaml.YAMLError if that cannot be understood."""
    try:
        return yaml.load(text, Loader)
    except RecursionError:  # of PyYAML, which reads what is nested by calling itself
        raise ValueError("lists or mappings within each other, hundreds deep") from None
