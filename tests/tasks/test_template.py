"""`write_template`: files that are whole, run as they are, and overwrite nothing."""

from __future__ import annotations

import ast
import tomllib

import pytest

from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.tasks.template import TEMPLATES, write_template


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_is_filled_and_parses(template, tmp_path):
    written = write_template("oil-a-hinge", template, tmp_path)
    assert "oil-a-hinge" in written.next_step
    for path in written.files:
        text = path.read_text()
        assert "$" not in text
        if path.suffix == ".py":
            ast.parse(text)
        if path.suffix == ".toml":
            assert tomllib.loads(text)["project"]["entry-points"]["vla_cl.tasks"] == {"oil_a_hinge": "oil_a_hinge"}
    with pytest.raises(ConfigurationError, match="exists already"):
        write_template("oil-a-hinge", template, tmp_path)


@pytest.mark.parametrize("name", ["3d", "class", "a b", "", "-x", "../up", "naïve/task"])
def test_a_name_that_python_cannot_use_is_refused(name, tmp_path):
    with pytest.raises(ConfigurationError, match="is not usable"):
        write_template(name, "class", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_taken_and_a_template_that_is_not_there_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="'mw5' is the name of a suite already"):
        write_template("mw5", "class", tmp_path)
    with pytest.raises(UnknownNameError, match="did you mean 'class'"):
        write_template("mine", "clas", tmp_path)
